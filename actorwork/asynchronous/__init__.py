"""Clients of asyncio programs; `actorwork.aio` is their public face.

The classes are those of `clients`, over a driver and connections for asyncio, uvloop's loop included.

opening     `open_client`
driver      time, waiting and replies on asyncio's loop
redis       one multiplexed connection, which comes back by itself
link        one open connection: commands of many tasks, replies matched in order
gathering   publishes of many tasks together
replies     where outcomes arrive
blocks      blocks that something outside of them ends: those of locks
store       the embedded broker's file, in a thread of its own
server_sent the life of a message or of a run as server-sent events
"""
