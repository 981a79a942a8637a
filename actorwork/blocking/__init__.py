"""Clients of programs without an event loop; `actorwork.sync` is their public face.

The classes of `clients` are written once, as coroutines. Here nothing that they await ever suspends: commands and waits
block the thread, so a coroutine runs to its end when it is begun, and no event loop and no thread are needed.

client      `Client`, `Ref`, `Receipt`, `Run`, `Shared`: the same names without `await`
opening     `open_client`
driver      time and waiting in this thread; runs a coroutine to its end
redis       commands over a pool of connections: each thread has one while it needs it
replies     where outcomes arrive in this thread
metering    counts what all threads send
store       the embedded broker's file, in transactions of the calling thread

Safe for threads and forks: a child process opens connections of its own, and draws ids of its own.
"""
