"""How the steps of a request follow one another."""

from actorwork.workflows import Flow, step

from .actors import Foreman, Librarian, Optimize, Save, Scout, Summarize, Survey, ValidateAll, Write, Writer
from .configuration import CONFIGURATION
from .store import Summary


def generation_of_tests(request: str, package: str) -> Flow[Summary]:
    functions = step(Scout, Survey(request, package), name="reconnaissance")
    candidates = step(Writer, Write(request, functions.result), name="generation")
    verdicts = step(Foreman, ValidateAll(request, candidates.result), name="validation")
    tests = step(Writer, Optimize(request, candidates.result, verdicts.result), name="optimization")
    saved = step(Librarian, Save(request, tests.result), name="saving")
    summary = step(Librarian, Summarize(request, functions.result, verdicts.result, saved.result), name="summary")
    return Flow(summary, title=f"tests for {package}", deadline=CONFIGURATION.deadline)
