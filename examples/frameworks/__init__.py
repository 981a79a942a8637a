"""The same small application in several frameworks: texts are accepted at once, and their words counted by an actor.

The actors run in a program of their own, `actorwork run examples.frameworks.actors:Counter`, at the broker that the
variable `ACTORWORK_BROKER` names; without it, both use the embedded one.
"""
