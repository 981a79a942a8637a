"""What an operator sets of a program outside of its code: in files and variables, by flags, and in the call.

A program declares what its actors are; an operator changes how they run: bounds, limits, processes, the broker, logs.
Schedules, retry policies and middleware stay code. Read top-down:

    reloading    SIGHUP: what may change while the program runs
    loading      the sources merged into one checked value, with the origin of each setting
    changing     the changes, applied to a tree: actors by title, processes and limits by name
    schema       all of it as JSON Schema, for editors
    sources      what files, variables and flags say, as layers
    fields       what may be set: one line for each setting
    kinds        how a value is written and what it may be: durations, sizes, words
    problems     what is wrong, all of it at once, each with its place

typed-settings (the extra `config`, which `cli` includes) enumerates the fields, reads TOML, JSON and YAML, and merges
the layers. Bounds are those of the classes that a setting ends up in (`Settings`, `Process`), so there is one place for
them.
"""
