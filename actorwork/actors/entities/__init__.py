"""Entities: actors with one instance, and a durable state, for every key.

entity        the base class of users' entities; `@migrates`
host          what runs in an entity's place as the actor: it activates instances, and passivates them
ahead         states that are loaded before their messages begin
mailbox       where these wait meanwhile, and how many of them begin at once
activation    one instance with its state, as it was committed last
context       `self.context` of an entity: without what would be state that is not durable
schema        a state and its JSON: first states, migrations
unknown       fields of newer versions, wherever they are in a state
"""
