"""State that all nodes share, over the interface `abc.Values` alone.

shared          a value under a name, with compare-and-set and atomic increment
lock            a lease with a fencing token, written once for all kinds of programs
on_trio         what a lock asks of a Trio program
known_actors    the actors that have run at the broker, by title
"""
