"""The steps of a request, each a message to an actor."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from actorwork import Actor, Fail, Failure, Message, Settings, Status, receive
from actorwork.workflows import Done, Failed, group, step

from .configuration import CONFIGURATION
from .generation import Candidate, candidates_for, without_duplicates
from .reconnaissance import Function, find_modules, functions_of
from .sandbox import Verdict, judge
from .store import Store, Summary


@dataclass(frozen=True)
class Survey(Message["Scout", list[Function]]):
    """Read the modules of a package."""

    request: str
    package: str


@dataclass(frozen=True)
class Write(Message["Writer", list[Candidate]]):
    """Write tests for functions."""

    request: str
    functions: list[Function]


@dataclass(frozen=True)
class ValidateAll(Message["Foreman", list[Verdict]]):
    """Find out which tests pass."""

    request: str
    candidates: list[Candidate]


@dataclass(frozen=True)
class Validate(Message["Validator", Verdict]):
    """Find out whether a test passes."""

    request: str
    candidate: Candidate


@dataclass(frozen=True)
class Collect(Message["Foreman", list[Verdict]]):
    """Read what became of the validation of each test."""

    request: str
    names: list[str]
    outcomes: list[Done[Verdict] | Failed]


@dataclass(frozen=True)
class Optimize(Message["Writer", list[Candidate]]):
    """Choose tests that pass, and of several that do the same, one."""

    request: str
    candidates: list[Candidate]
    verdicts: list[Verdict]


@dataclass(frozen=True)
class Save(Message["Librarian", int]):
    """Keep tests."""

    request: str
    tests: list[Candidate]


@dataclass(frozen=True)
class Summarize(Message["Librarian", Summary]):
    """Add it all up, and end the request."""

    request: str
    functions: list[Function]
    verdicts: list[Verdict]
    saved: int


class Clerk(Actor):
    """An actor on which a request depends: if one of its messages fails, so has the request."""

    def __init__(self) -> None:
        self.store = Store(CONFIGURATION.database)

    async def failed(self, message: Any, failure: Failure) -> None:
        await trio.to_thread.run_sync(
            partial(self.store.finish, message.request, Status.FAILURE, reason=f"{failure.type}: {failure.reason}")
        )


class Scout(Clerk):
    """Reads, in a thread."""

    settings = Settings(
        title="scout", soft_timeout=CONFIGURATION.survey_seconds, execution_timeout=2 * CONFIGURATION.survey_seconds
    )

    @receive
    def survey(self, message: Survey) -> list[Function]:
        return list(self._functions(message.package))

    def _functions(self, package: str) -> Iterator[Function]:
        try:
            modules = find_modules(package)
        except LookupError as error:
            raise Fail(str(error)) from error
        for number, (module, file) in enumerate(modules):
            if self.context.soft_time_left() <= 0:
                self.context.log.warning("the survey of %s ends after %d of %d modules", package, number, len(modules))
                return
            self.context.progress(number, len(modules), module)
            try:
                yield from functions_of(module, file.read_bytes())
            except (SyntaxError, ValueError) as error:
                self.context.log.warning("%s is left out: %s", module, error)
        self.context.progress(len(modules), len(modules))


class Writer(Clerk):
    settings = Settings(title="writer", execution_timeout=120)

    @receive
    def write(self, message: Write) -> list[Candidate]:
        # By name: a function that is defined twice, under a condition, has its tests twice.
        tests: dict[str, Candidate] = {}
        for number, function in enumerate(message.functions):
            self.context.progress(number, len(message.functions), function.name)
            tests |= {test.name: test for test in candidates_for(function)}
        self.store.note_written(message.request, len(tests))
        return list(tests.values())

    @receive
    def optimize(self, message: Optimize) -> list[Candidate]:
        passed = {verdict.name for verdict in message.verdicts if verdict.judgement == "passed"}
        return list(without_duplicates(test for test in message.candidates if test.name in passed))


class Foreman(Clerk):
    """Has every test validated by itself, so that they run in parallel."""

    settings = Settings(title="foreman", execution_timeout=120)

    @receive
    async def validate_all(self, message: ValidateAll) -> list[Verdict]:
        verdicts = group(step(Validator, Validate(message.request, one)) for one in message.candidates)
        names = [one.name for one in message.candidates]
        return self.context.continue_with(step(Foreman, Collect(message.request, names, verdicts.outcomes)))

    @receive
    async def collect(self, message: Collect) -> list[Verdict]:
        # A test that takes its validator along fails alone.
        return [
            outcome.value if isinstance(outcome, Done) else Verdict(name, "crashed", detail=outcome.reason)
            for name, outcome in zip(message.names, message.outcomes, strict=True)
        ]


class Validator(Actor):
    """Runs one test at a time; there are several, in processes that are replaced now and then."""

    settings = Settings(
        title="validator",
        soft_timeout=3 * CONFIGURATION.test_seconds,
        execution_timeout=4 * CONFIGURATION.test_seconds,
    )

    def __init__(self) -> None:
        self.store = Store(CONFIGURATION.database)

    @receive
    async def validate(self, message: Validate) -> Verdict:
        verdict = Verdict(message.candidate.name, "too slow")
        with self.context.soft_limit():
            verdict = await judge(
                message.candidate, seconds=CONFIGURATION.test_seconds, memory=CONFIGURATION.test_memory
            )
        await trio.to_thread.run_sync(self.store.note, message.request, verdict)
        return verdict


class Librarian(Clerk):
    settings = Settings(title="librarian", execution_timeout=120)

    @receive
    def save(self, message: Save) -> int:
        return self.store.save(message.request, message.tests)

    @receive
    def summarize(self, message: Summarize) -> Summary:
        passed = sum(verdict.judgement == "passed" for verdict in message.verdicts)
        summary = Summary(len(message.functions), len(message.verdicts), passed, message.saved)
        self.store.finish(message.request, Status.SUCCESS, summary=summary)
        return summary
