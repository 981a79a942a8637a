"""Workflows: steps whose results are passed on to other steps, and which join exactly once.

    texts = [step(Fetcher, Fetch(url)) for url in urls]
    counts = group(step(Counter, Count(text.result)) for text in texts)
    run = await client.start(Flow(step(Reporter, Compose(counts.results)), title="words"))
    print(await run.result(timeout=60))

A flow is a value that is built here, and sent by a client (`clients.runs`) or a handler (`context.start`). The broker
stores it as a plan (`policy.runs`), and draws the conclusions within the script or transaction that settles a step.

steps       `step`, `group`, `together`, `signal`, `nap`, `chain`, `chord`, `chunks`
flow        `Flow`, and how it is laid out as a plan
templates   messages with holes, as JSON that is cut where results belong
holes       what a result is while a flow is built
outcomes    `Done` and `Failed`
"""

from actorwork.policy.runs.values import RunInfo as RunInfo, Status as Status, StepInfo as StepInfo
from actorwork.workflows.flow import Flow as Flow
from actorwork.workflows.holes import NotYetKnown as NotYetKnown
from actorwork.workflows.outcomes import Done as Done, Failed as Failed
from actorwork.workflows.steps import (
    Group as Group,
    Step as Step,
    StepOptions as StepOptions,
    chain as chain,
    chord as chord,
    chunks as chunks,
    group as group,
    nap as nap,
    signal as signal,
    step as step,
    together as together,
)
