"""The names of everything at Redis.

    <source>                                      the stream, under the user's own name; of a source that is divided, a
                                                  string, and each shard is a source of its own (policy/shards.py)
    actorwork:{<source>}:priority:<level>         the same for what is critical, high or low
    actorwork:{<source>}:priorities               which of those levels were ever used
    actorwork:{<source>}:keys                     keys of messages that are in a stream or retried: where those are
    actorwork:{<source>}:key:<key>                the messages that wait for a key, a list
    actorwork:{<source>}:waiting                  their fields
    actorwork:{<source>}:entity:<group>:<key>     the state of an entity, a hash (lua/entities.lua)
    actorwork:{<source>}:entities:<group>         the keys that have one, by when it changed last
    actorwork:{<source>}:expiring:<group>         those whose states have a ttl, by when they are gone
    actorwork:{<source>}:waits:<key>              what a handler of a key waits for, a hash (lua/waits.lua)
    actorwork:{<source>}:past:<group>:<key>       its last changes, a stream
    actorwork:{<source>}:unique:<key>             the message that has a unique key
    actorwork:{<source>}:delayed                  delayed messages: members by the time they are due
    actorwork:{<source>}:delayed:messages         their fields
    actorwork:{<source>}:dead                     dead letters, a stream
    actorwork:{<source>}:result:<message id>      a stored outcome
    actorwork:{<source>}:claim:<message id>       proves that an entry asked for the outcome to be stored
    actorwork:{<source>}:cancelled                tracked messages that were cancelled in flight (lua/order.lua)
    actorwork:{<source>}:state:<message id>       the life of a tracked message, a hash; that of a step may be in its
                                                  run (lua/state.lua)
    actorwork:{<source>}:tracked                  the newest tracked messages, by when they were sent
    actorwork:{<source>}:watch:<message id>       a channel: something in it has changed
    actorwork:{<source>}:watched:<message id>     on a cluster, a client listens to that channel (watches.py)
    actorwork:watch:<run>                         a channel: something in a run has changed
    actorwork:sent:<publisher>                    the sources to which it has submitted messages, a set
    actorwork:sent:as:<message id>                the source of a message that was submitted under an id of its own
    actorwork:{<source>}:seen:…                   marks of the ids that were published
    actorwork:{<source>}:settled:<group>:<node>   the answer to a node's last batch of settlements
    actorwork:{<source>}:groups                   the groups of actors; others of the stream are foreign
    actorwork:{<source>}:acked:<group>            entries that it has settled and another group needs (lua/ack.lua)
    actorwork:{<source>}:kept                     those that only foreign groups need
    actorwork:{<source>}:swept:<group>            when the entries are looked at next, and where (lua/maintain.lua)
    actorwork:{<source>}:tended:<group>           when a node maintained it last, and what is due (lua/tended.lua)
    actorwork:{<source>}:outbox                   on a cluster, messages for other slots, a stream (outbox.py)
    actorwork:{<source>}:forwarded                the last entry of each outbox that was forwarded here, a hash
    actorwork:{<source>}:held:<group>             on a cluster, deliveries that are settled with others (joint.py)
    actorwork:{<source>}:decided:<batch>          whether they were
    actorwork:{<source>}:lost:<group>             which node searches for lost messages (lua/maintain.lua)
    actorwork:node:<node>                         a node's lease
    actorwork:{actorwork:node:<node>}:report      what it reports of itself
    actorwork:{actorwork:node:<node>}:asks        commands to it, a list
    actorwork:{<source>}:minute:<minute>          what was handled in a minute since the epoch, a hash (minutes.py)
    actorwork:{actorwork:minutes}:minute:<minute>   the same of all sources together
    actorwork:reports                             the nodes that report, by the time until which they do
    actorwork:watched                             the reports are watched
    actorwork:answer:<command>                    what a node has answered
    actorwork:asks                                a channel: this node (no name: each) is to look for commands now
    actorwork:reply:<uuid>                        a channel where outcomes arrive
    actorwork:reply:near:<uuid>                   the same of a client that listens on the next one, too
    actorwork:{<source>}:reply:<uuid>             on a cluster, the outcomes of one source, at its primary only
    actorwork:attend                              a channel: makes nodes maintain this source (no name: all) now, or
                                                  read this stream of a priority from now on
    actorwork:shared:<name>                       a shared value, a hash
    actorwork:lock:<name>                         a lock, a hash
    actorwork:locks                               the names of those that are held, by until when (not on a cluster)
    actorwork:rate:<name>                         a rate over all nodes: the moment of the next one
    actorwork:{<source>}:trigger:<id>             a trigger that sends to this source, a hash
    actorwork:triggers                            all of them, a set of source and id
    actorwork:triggers:changes                    how often users have changed any of them by hand, in a hash
    actorwork:paused                              what is paused, a hash
    actorwork:pauses                              a channel: something was paused or resumed, a trigger changed
    actorwork:slots:<name>                        the holders of a semaphore over all nodes
    actorwork:audit                               what users did, a stream

    actorwork:{<home>}:flow:<run>                 a run of a workflow, a hash, and its parts (lua/run_book.lua)
    actorwork:{<home>}:flows                      the runs of a home, by the time they began
    actorwork:{<home>}:flows:due                  their naps, deadlines and signals with a limit, by time
    actorwork:flow:<run>                          the home of a run: the source to which most of its steps go
    actorwork:flows                               all homes, a set

The braces put all keys of a source into its hash slot, so that one script can settle a delivery.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from actorwork.message import Priority
from actorwork.policy.shards import whole_source
from actorwork.shown import Value

OURS: Final = "actorwork:"
LEASES: Final = "actorwork:node:"
REPLIES: Final = "actorwork:reply:"
NEAR: Final = "actorwork:reply:near:"
ATTEND: Final = "actorwork:attend"
TRIGGERS: Final = "actorwork:triggers"
TRIGGER_CHANGES: Final = "actorwork:triggers:changes"
FLOWS: Final = "actorwork:flows"
CLAIMED: Final = b"/"
"""At the end of the home of a run that has not begun (forwarding.py)."""
AUDIT: Final = "actorwork:audit"
SENT_AT_ONCE: Final = 500
"""How many steps of a run one script sends; the same number as in `lua/run_book.lua`."""
PAUSED: Final = "actorwork:paused"
PAUSES: Final = "actorwork:pauses"
LOCKS: Final = "actorwork:locks"
REPORTS: Final = "actorwork:reports"
WATCHED: Final = "actorwork:watched"
ASKS: Final = "actorwork:asks"
RELEASED: Final = "released"
"""The consumer that owns released entries; no node has this name."""

ALL_DELAYED: Final = "actorwork:{*}:delayed"
_DELAYED: Final = rb"(?s)actorwork:\{(.*)\}:delayed"
ALL_DEAD: Final = "actorwork:{*}:dead"
_DEAD: Final = rb"(?s)actorwork:\{(.*)\}:dead"

ALL_GROUPS: Final = "actorwork:{*}:groups"
_GROUPS: Final = rb"(?s)actorwork:\{(.*)\}:groups"

ALL_ENTITIES: Final = "actorwork:{*}:entities:*"


def prefix(source: str) -> str:
    return f"actorwork:{{{source}}}:"


@attrs.frozen(eq=False, repr=False)
class SourceKeys(Value):
    """The keys of one source, or of one of its shards, made once."""

    name: str
    """The source, also where the keys are those of a shard."""
    stream: str
    prefix: str
    delayed: str
    delayed_messages: str
    dead: str
    waiting: str

    @classmethod
    def of(cls, source: str) -> SourceKeys:
        start = prefix(source)
        delayed = f"{start}delayed"
        return cls(
            whole_source(source), source, start, delayed, f"{delayed}:messages", f"{start}dead", f"{start}waiting"
        )

    def at(self, level: Priority) -> str:
        """Return the stream in which messages of a priority are."""
        return self.stream if level is Priority.NORMAL else f"{self.prefix}priority:{level.name.lower()}"

    def result(self, message_id: str) -> str:
        return f"{self.prefix}result:{message_id}"

    def claim(self, message_id: str) -> str:
        return f"{self.prefix}claim:{message_id}"

    def state(self, message_id: str) -> str:
        return f"{self.prefix}state:{message_id}"

    def watch(self, message_id: str) -> str:
        return f"{self.prefix}watch:{message_id}"

    def watched(self, message_id: str) -> str:
        return f"{self.prefix}watched:{message_id}"

    def settled(self, group: str, incarnation: str, level: Priority) -> str:
        record = f"{self.prefix}settled:{group}:{incarnation}"
        return record if level is Priority.NORMAL else f"{record}:{level.name.lower()}"

    def acked(self, level: Priority, group: str) -> str:
        """Return where the entries are noted that a group has settled and another one needs (lua/ack.lua)."""
        beside = self.prefix if level is Priority.NORMAL else f"{self.at(level)}:"
        return f"{beside}acked:{group}"

    @property
    def cancelled(self) -> str:
        return f"{self.prefix}cancelled"

    @property
    def tracked(self) -> str:
        return f"{self.prefix}tracked"

    @property
    def kept(self) -> str:
        return f"{self.prefix}kept"

    @property
    def groups(self) -> str:
        return f"{self.prefix}groups"

    @property
    def priorities(self) -> str:
        return f"{self.prefix}priorities"


def entity(source: str, group: str, key: str) -> str:
    return f"{prefix(source)}entity:{group}:{key}"


def entities(source: str, group: str) -> str:
    return f"{prefix(source)}entities:{group}"


def expiring(source: str, group: str) -> str:
    return f"{prefix(source)}expiring:{group}"


def past(source: str, group: str, key: str) -> str:
    return f"{prefix(source)}past:{group}:{key}"


def outbox(source: str) -> str:
    return f"{prefix(source)}outbox"


def held(source: str, group: str) -> str:
    return f"{prefix(source)}held:{group}"


def decided(home: str, batch: str) -> str:
    return f"{prefix(home)}decided:{batch}"


def trigger(source: str, id: str) -> str:
    return f"{prefix(source)}trigger:{id}"


def publisher(name: str) -> str:
    return f"actorwork:sent:{name}"


def submitted(message_id: str) -> str:
    return f"actorwork:sent:as:{message_id}"


def near_replies(source: str, address: str) -> str:
    """Return the channel for outcomes of one source to a client whose address begins with `NEAR`."""
    return f"{prefix(source)}reply:{address.removeprefix(NEAR)}"


_OF_NEAR: Final = re.compile(rb"actorwork:\{.*\}:reply:([0-9a-f]+)")


def address_of_near(channel: bytes) -> bytes | None:
    """Return the address of the client that a channel for outcomes of one source belongs to; None for any other."""
    match = _OF_NEAR.fullmatch(channel)
    return None if match is None else NEAR.encode() + match[1]


def watch_of_run(id: str) -> str:
    return f"actorwork:watch:{id}"


def flow(run: str) -> str:
    return f"actorwork:flow:{run}"


def run(home: str, id: str) -> str:
    return f"{prefix(home)}flow:{id}"


def home_from(value: bytes) -> str:
    """Return the home of a run from what is at `flow(run)`."""
    return value.removesuffix(CLAIMED).decode()


def runs_of(home: str) -> str:
    return f"{prefix(home)}flows"


def lease(incarnation: str) -> str:
    return LEASES + incarnation


def report(node: str) -> str:
    """Return where a node's report is: in the slot of its lease."""
    return f"actorwork:{{{LEASES}{node}}}:report"


def asks(node: str) -> str:
    return f"actorwork:{{{LEASES}{node}}}:asks"


def answer(command: str) -> str:
    return f"actorwork:answer:{command}"


def minute(source: str, number: int) -> str:
    """Return where a minute is counted; with "" as the source, that of all sources, whose minutes share a slot."""
    return f"{prefix(source or 'actorwork:minutes')}minute:{number}"


def shared(name: str) -> str:
    return f"actorwork:shared:{name}"


def rate(name: str) -> str:
    return f"actorwork:rate:{name}"


def slots(name: str) -> str:
    return f"actorwork:slots:{name}"


def lock(name: str) -> str:
    return f"actorwork:lock:{name}"


_OF_PRIORITY: Final = r"(?s)actorwork:\{(.*)\}:priority:([a-z]+)"


def source_and_level(stream: str) -> tuple[str, str] | None:
    """Return the source and the level of a stream for a priority."""
    match = re.fullmatch(_OF_PRIORITY, stream)
    return None if match is None else (match[1], match[2])


def source_of_delayed(key: bytes) -> str | None:
    """Return the source whose messages a key holds back."""
    match = re.fullmatch(_DELAYED, key)
    return None if match is None else match[1].decode(errors="replace")


def source_of_groups(key: bytes) -> str | None:
    """Return the source whose groups a key names."""
    match = re.fullmatch(_GROUPS, key)
    return None if match is None else match[1].decode(errors="replace")


def source_of_dead(key: bytes) -> str | None:
    """Return the source whose dead letters a key holds."""
    match = re.fullmatch(_DEAD, key)
    return None if match is None else match[1].decode(errors="replace")
