"""The runtime: it hosts a tree of actors at a broker, from its start to its staged end.

main        `run`: a program of its own, with signals, logs and exit codes
system      `open_system`, `serve`, and `System`, the face of a running tree
engine      the one task that runs a system: start, serve, end, in order
checking    what is checked before anything starts
building    the members of a system: what it makes of the descriptions in a tree
shutdown    stages 1 to 3 of the end: intake, drain, cancel
processes/  the parts of a tree that run in other OS processes
configuration/  what an operator sets in files, variables and flags, applied to a tree
options     the options of a system, written once
outline     the tree as it is now, as data and as a drawing
metering    what a system counts of itself
stalls      reports a blocked loop, from a thread
forks       ends a fork that returns into the loop of its parent
orphans     reaps the orphans that PID 1 of a container inherits
firing      a node's triggers
pausing     what is paused at the broker, and its effect on a node
"""
