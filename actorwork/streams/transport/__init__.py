"""A Redis client for Trio: redis-py's exceptions and url, hiredis' bytes, and sockets of our own. It knows no broker.

client.py        one shared connection that comes back by itself; scripts, subscriptions, transactions
exclusive.py     a connection for one task: blocking reads that can be cancelled without losing a message
multiplexer.py   many tasks on one connection: replies matched in order
commands.py      what the broker's parts ask of a client, whatever carries the bytes; scripts
address.py       where a server is, and how a connection to it is opened
connection.py    one socket and the parser of its bytes
cluster.py       a cluster: a client of each primary, the layout, subscriptions, blocking reads
routing.py       each command at the primary that has its keys
cluster_layout.py  which primary has which slots; a blocking connection that follows them
slots.py         the slot of a key, the keys of a command
sentinel.py      a primary that may move: found, and watched
direct.py        connecting without redis-py
wire.py          RESP3, by hiredis
urls.py          which urls there are, and what may be shown of one
redis_py.py      what is imported of redis-py
"""
