"""Reads what runs at a broker, for those who look: the command line, the dashboard, and programs of one's own.

    inspecting   questions about what runs, and commands to nodes: `Inspection`
    gathering    all reports, read once and put in order
    values       what an inspection returns, and `as_json`
    locks        the locks that are held or waited for
    metrics      what waits in sources and who reads them, for Prometheus
    scale        how many seconds of work wait, for scalers
    routes       routes of a monitor that ask a broker
    letters      dead letters and their causes as JSON
    schedules    triggers, and when they fire next
    flows        runs of workflows and their steps
    words        times, durations and progress as text

Everything is read from what the nodes report of themselves, and from the broker; nothing here changes anything but what
nodes are asked to do.
"""

from __future__ import annotations

from actorwork.inspection.inspecting import Inspection as Inspection
from actorwork.inspection.locks import LockInfo as LockInfo, LockOwner as LockOwner
from actorwork.inspection.values import (
    ActorInfo as ActorInfo,
    Holder as Holder,
    MessageView as MessageView,
    NodeInfo as NodeInfo,
    NodePage as NodePage,
    Obeyed as Obeyed,
    Overview as Overview,
    Problem as Problem,
    SourceInfo as SourceInfo,
    Stack as Stack,
    Stacks as Stacks,
    TreeInfo as TreeInfo,
    as_json as as_json,
)
from actorwork.policy.idle import Reason as Reason
from actorwork.policy.reports import (
    HeldMessage as HeldMessage,
    HoldUp as HoldUp,
    NodeReport as NodeReport,
    PartReport as PartReport,
)
