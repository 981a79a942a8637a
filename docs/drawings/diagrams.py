"""The diagrams. What each says in words is its description, and the text of the picture in its chapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from docs.drawings.canvas import Canvas


def delivery() -> Canvas:
    """Draw the way of a message from its sender to its end."""
    c = Canvas(
        "The path of a message",
        "A sender adds a message to a source, a stream at the broker. A node, which holds a lease, reads it into "
        "the mailbox of an actor, and the actor's handler runs within a cancel scope. How the handler ends "
        "decides on the settlement. One script at the broker applies it if the node still owns the delivery: an "
        "Ack deletes the entry and stores the result; a Retry adds the next attempt to the source, now or later; "
        "a Fail keeps a dead letter.",
        484,
    )
    c.box(20, 18, 130, 48, "sender", "a client, an actor")
    c.box(196, 18, 244, 48, "source", "a stream at the broker", kind="store")
    c.arrow((150, 42), (196, 42))
    c.frame(20, 100, 420, 176, "a node, which holds a lease", indent=80)
    c.arrow((244, 66), (244, 84), (85, 84), (85, 134))
    c.box(34, 134, 102, 48, "reader", "leaves room")
    c.box(176, 134, 108, 48, "mailbox", "bounded")
    c.box(322, 134, 106, 48, "handler", "in a scope")
    c.arrow((136, 158), (176, 158))
    c.arrow((284, 158), (322, 158))
    c.arrow((375, 182), (375, 214))
    c.box(150, 214, 278, 46, "settlement", "Ack, Retry, Reject or Fail")
    c.frame(20, 310, 420, 150, "one script, if this node still owns the delivery")
    c.arrow((289, 260), (289, 310))
    c.box(34, 340, 122, 66, "Ack", "entry deleted,", "result stored", kind="good")
    c.box(170, 340, 122, 66, "Retry", "next attempt,", "now or later", kind="store")
    c.box(306, 340, 122, 66, "Fail", "dead letter", "with its history", kind="bad")
    c.text(34, 430, "Messages that the handler published are sent", small=True)
    c.text(34, 447, "in the same step, and so are those of a workflow.", small=True)
    c.line((231, 406), (231, 412), (460, 412))
    c.arrow((460, 412), (460, 42), (440, 42))
    return c


def settlement() -> Canvas:
    """Draw what the script of a settlement does."""
    c = Canvas(
        "How a delivery is settled",
        "When a handler has ended, its node decides between Ack, Retry, Reject and Fail, and sends a script to "
        "the broker. The script first checks that this node still owns the entry, in this very delivery. "
        "If not, nothing is changed, and the settlement counts as fenced. If so, the script sends the published "
        "messages, adds the next attempt or the dead letter, stores the result and the status, acknowledges and "
        "deletes the entry, frees its keys, and sends the steps of a workflow that now have all they need.",
        552,
    )
    c.box(120, 16, 240, 40, "The handler has ended")
    c.arrow((240, 56), (240, 84))
    c.box(70, 84, 340, 48, "The node decides", "Ack, Retry, Reject or Fail: a pure function")
    c.arrow((240, 132), (240, 164))
    c.frame(16, 164, 448, 304, "one script at the broker: nothing comes between its steps")
    c.box(
        60,
        196,
        360,
        48,
        "Does this node still own the delivery?",
        "consumer and delivery count of the entry",
        kind="store",
    )
    c.arrow((100, 244), (100, 290), label="no", at=(84, 272))
    c.box(32, 290, 136, 66, "Fenced", "nothing changes,", "it is counted", kind="bad")
    c.arrow((316, 244), (316, 276), label="yes", at=(338, 265))
    steps = (
        "1. published messages are sent",
        "2. next attempt, or dead letter",
        "3. result and status are stored",
        "4. entry acknowledged, deleted",
        "5. key and unique key are free",
        "6. next steps of a workflow go",
    )
    c.box(188, 276, 260, 176, "In this order", *steps, kind="good")
    c.line((100, 356), (100, 484), (240, 484))
    c.line((316, 452), (316, 484), (240, 484))
    c.arrow((240, 484), (240, 500))
    c.box(110, 500, 260, 36, "The node learns which it was")
    return c


def ownership() -> Canvas:
    """Draw what happens when a node is frozen, and wakes up after another one has its work."""
    c = Canvas(
        "A node that is frozen, and wakes up too late",
        "Node A reads message 17 and renews its lease. Then A is frozen, and its lease expires. Node B takes the "
        "message over: the entry is now B's. B settles it, which the broker applies. A wakes up and settles it "
        "too; the entry is not A's any more, so the broker changes nothing. A takes a new lease under a new name.",
        640,
    )
    a, broker, b = 76, 240, 404
    for x, name in ((a, "node A"), (broker, "broker"), (b, "node B")):
        c.line((x, 50), (x, 624), waits=True)
        c.box(x - 56, 14, 112, 36, name, kind="store" if x == broker else "part")
    c.arrow((a, 92), (broker - 4, 92), label="reads 17")
    c.box(168, 104, 144, 32, "17 is A's", kind="store")
    c.arrow((a, 164), (broker - 4, 164), label="renews its lease")
    c.box(24, 186, 104, 288, "frozen", "no renewals,", "nothing runs", kind="bad")
    c.box(168, 236, 144, 32, "A's lease is gone", kind="bad")
    c.arrow((b, 300), (broker + 4, 300), label="takes over")
    c.box(168, 314, 144, 32, "17 is B's", kind="store")
    c.box(354, 342, 100, 46, "handler", "runs it again")
    c.arrow((b, 416), (broker + 4, 416), label="settles 17")
    c.box(168, 430, 144, 32, "applied", kind="good")
    c.arrow((a, 508), (broker - 4, 508), label="settles 17")
    c.box(168, 522, 144, 48, "fenced", "nothing changes", kind="bad")
    c.arrow((a, 604), (broker - 4, 604), label="takes a new lease")
    return c


def supervision() -> Canvas:
    """Draw a supervision tree, and what the crash of one child does to it."""
    c = Canvas(
        "A supervision tree, in which an actor crashes",
        "The root supervisor has the strategy rest_for_one and four children, in the order of their start: "
        "Database, the supervisor files, the dynamic supervisor sessions, and Mailer. files has the strategy "
        "one_for_all and the children Reader and Writer. When Writer crashes, files restarts Reader and Writer. "
        "After more than three restarts within five seconds files gives up; then the root restarts files, "
        "sessions and Mailer, but not Database, which started before them.",
        372,
    )
    c.box(140, 16, 200, 48, "root", "rest_for_one")
    for x in (58, 174, 302, 422):
        c.arrow((240, 64), (240, 86), (x, 86), (x, 108))
    c.box(10, 108, 96, 48, "Database", "started first")
    c.box(118, 108, 112, 48, "files", "one_for_all", kind="store")
    c.box(242, 108, 120, 48, "sessions", "dynamic")
    c.box(374, 108, 96, 48, "Mailer", "transient")
    for x, parent in ((112, 174), (208, 174), (302, 302)):
        c.arrow((parent, 156), (parent, 178), (x, 178), (x, 200))
    c.box(68, 200, 88, 44, "Reader", kind="store")
    c.box(164, 200, 88, 44, "Writer", "crashes", kind="bad")
    c.box(262, 200, 80, 44, "Session", "as many")
    c.text(350, 226, "start at run time", small=True)
    c.notes(
        278,
        (
            "Writer crashes: files stops Reader, then starts both again.",
            "More than 3 restarts within 5 s: files gives up, which is its",
            "own crash. Then root restarts what started after Database:",
            "files, sessions and Mailer. When root gives up, run() raises",
            "MaxRestartsExceeded, with the causes down to Writer's error.",
        ),
    )
    return c


def shutdown() -> Canvas:
    """Draw the stages of a shutdown along its time."""
    c = Canvas(
        "The staged shutdown, within a grace of 25 seconds",
        "At the first signal, stage 1, intake, stops the readers and refuses messages from outside. Stage 2, "
        "drain, lets deliveries in flight finish, for up to 20 of 25 seconds. Stage 3, cancel, cancels the handlers "
        "that are left and releases their deliveries. Stage 4, shutdown, runs the hooks of the actors in reverse "
        "order of their start. A second signal begins stage 3 at once, a third one ends the process.",
        350,
    )

    def at(second: float) -> float:
        return 24 + second * 17.2

    for second, label in ((0, "signal"), (20, "20 s"), (25, "25 s")):
        c.line((at(second), 40), (at(second), 258), waits=True)
        c.text(at(second), 28, label, small=True, at="middle" if second else "start")
    c.box(at(0), 52, 60, 32, "1", kind="store")
    c.text(at(0) + 70, 73, "intake: readers stop", small=True)
    c.box(at(0), 104, at(20) - at(0), 32, "2  drain: deliveries in flight finish", kind="good")
    c.box(at(20), 156, 30, 32, "3", kind="bad")
    c.text(at(20) - 8, 177, "cancel: handlers end, deliveries are released", small=True, at="end")
    c.box(at(20) + 34, 208, at(25) - at(20) - 34, 32, "4")
    c.text(at(20) - 8, 229, "shutdown: hooks, in reverse order", small=True, at="end")
    c.notes(
        284,
        (
            "A stage ends as soon as it can: with nothing in flight a node stops",
            "at once. A second signal begins stage 3, a third one ends the",
            "process, and so does the end of the grace.",
        ),
    )
    return c


def join() -> Canvas:
    """Draw how the members of a group join."""
    c = Canvas(
        "How the members of a group join",
        "Three steps, count a, count b and count c, run on any nodes, in any order. The script that settles one "
        "of them also checks whether this step has ended before, in which case nothing follows; stores its value "
        "with the run; and sends each step that now lacks nothing. So the settlement of the last member, "
        "whichever it is, sends add, once.",
        442,
    )
    for x, name in ((20, "count a"), (176, "count b"), (332, "count c")):
        c.box(x, 18, 128, 48, name, "on any node")
        c.arrow((x + 64, 66), (x + 64, 112))
    c.frame(20, 112, 440, 202, "the script that settles a member, behind the fence")
    c.box(40, 144, 400, 44, "Has this step ended before?", "then nothing follows", kind="bad")
    c.arrow((240, 188), (240, 204))
    c.box(40, 204, 400, 40, "Its value is stored with the run", kind="store")
    c.arrow((240, 244), (240, 260))
    c.box(40, 260, 400, 40, "Steps that lack nothing any more are sent", kind="good")
    c.arrow((240, 314), (240, 350))
    c.text(252, 337, "by the last member, once", small=True)
    c.box(150, 350, 180, 48, "add", "with all three values")
    c.arrow((330, 374), (376, 374))
    c.text(382, 379, "the result")
    c.text(240, 426, "The run's state is kept in one hash slot of Redis, its home.", small=True, at="middle")
    return c


DIAGRAMS: Final[Mapping[str, Callable[[], Canvas]]] = {
    "delivery": delivery,
    "settlement": settlement,
    "ownership": ownership,
    "supervision": supervision,
    "shutdown": shutdown,
    "join": join,
}
