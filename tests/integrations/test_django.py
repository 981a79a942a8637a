"""Tasks of Django, by its own interface at both brokers: that of Django 6, or before it the backport's."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actorwork import Fixed, Priority, RetryPolicy, SystemThread

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def project(django_settings: Any) -> Any:
    """The tasks of the project."""
    return importlib.import_module("tests.integrations.shop_tasks")


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'messages.db'}"
    found: str = request.getfixturevalue("redis_url")
    return found


@pytest.fixture
def backend(url: str, project: Any) -> Iterator[Any]:
    """The backend of the project, at an empty broker."""
    with configured({"broker": url, "settings": {"retry": RetryPolicy(attempts=1)}}) as backend:
        yield backend


@pytest.fixture
def at_work(backend: Any) -> Iterator[Any]:
    """The backend, with a worker."""
    worker = importlib.import_module("actorwork.integrations.django.worker")
    with SystemThread(worker.tree_of(backend), broker=backend.chosen.broker):
        yield backend


def tasks_of_django(module: str = "") -> Any:
    """Return the package that has the tasks, or a module of it; only once Django is configured."""
    return importlib.import_module("actorwork.integrations.django.interface").tasks(module)


class configured:  # noqa: N801 - a block
    """Override the setting TASKS in a block, which gets the backend."""

    def __init__(self, options: dict[str, Any], **more: Any) -> None:
        backend = "actorwork.integrations.django.ActorworkBackend"
        self._tasks = {"default": {"BACKEND": backend, "QUEUES": ["default", "mail"], "OPTIONS": options, **more}}

    def __enter__(self) -> Any:
        self._block: Any = importlib.import_module("django.test").override_settings(TASKS=self._tasks)
        self._block.enable()
        return tasks_of_django().task_backends["default"]

    def __exit__(self, *_: object) -> None:
        self._block.disable()
        importlib.import_module("actorwork.integrations.django.clients").close_clients()


def ended(backend: Any, result: Any) -> Any:
    """Wait for the end of a task; return its result as the backend finds it."""
    with backend.client.receipt(result.id).watch() as updates:
        for _ in updates:
            pass
    result.refresh()
    found = backend.get_result(result.id)
    assert found.status == result.status
    return found


def test_a_function_runs_in_a_thread_of_the_worker(at_work: Any, project: Any) -> None:
    result = project.add.enqueue([1, 2], start=3)
    assert result.status == "READY"
    found = ended(at_work, result)
    assert (found.status, found.return_value, found.attempts) == ("SUCCESSFUL", 6, 1)
    assert (found.args, found.kwargs, found.task) == ([[1, 2]], {"start": 3}, project.add)
    for moment in (found.enqueued_at, found.started_at, found.finished_at):
        assert abs(moment - datetime.now(UTC)) < HOUR
    assert project.add.get_result(result.id).id == result.id


def test_a_coroutine_runs_on_asyncio(at_work: Any, project: Any) -> None:
    async def main() -> Any:
        result = await project.greet.aenqueue("Ann")
        await asyncio.to_thread(ended, at_work, result)
        return await project.greet.aget_result(result.id)

    found = asyncio.run(main())
    assert (found.status, found.return_value, found.task.queue_name) == ("SUCCESSFUL", "Hello Ann", "mail")


@pytest.mark.parametrize("name", ["refuse", "refuse_later"])
def test_a_failure_has_its_class_and_its_traceback_and_the_arguments(at_work: Any, project: Any, name: str) -> None:
    found = ended(at_work, getattr(project, name).enqueue("tea"))
    assert (found.status, found.args, found.attempts) == ("FAILED", ["tea"], 1)
    (error,) = found.errors
    assert error.exception_class is LookupError
    assert "no tea here" in error.traceback
    with pytest.raises(ValueError, match="failed"):
        _ = found.return_value


def test_a_failure_with_large_arguments_is_found_among_the_dead_letters(at_work: Any, project: Any) -> None:
    found = ended(at_work, project.refuse.enqueue("tea" * 10_000))
    assert (found.status, found.args) == ("FAILED", ["tea" * 10_000])


def test_a_value_that_is_no_json_fails_the_task(at_work: Any, project: Any) -> None:
    found = ended(at_work, project.return_no_json.enqueue())
    assert found.status == "FAILED"
    assert "CodecError" in found.errors[0].exception_class_path


def test_the_context_has_the_attempt_and_the_result(at_work: Any, project: Any) -> None:
    result = project.describe.enqueue("tea")
    assert ended(at_work, result).return_value == ["tea", 1, result.id, "RUNNING"]


def test_signals_are_sent_where_it_is_enqueued_and_where_it_runs(at_work: Any, project: Any) -> None:
    signals = tasks_of_django("signals")
    heard: list[tuple[str, str]] = []

    def hear(name: str, *, task_result: Any, **_: Any) -> None:
        heard.append((name, task_result.status))

    hearers = {name: partial(hear, name) for name in ("task_enqueued", "task_started", "task_finished")}
    for name, hearer in hearers.items():
        getattr(signals, name).connect(hearer)
    try:
        ended(at_work, project.greet.enqueue("Ann"))
    finally:
        for name, hearer in hearers.items():
            getattr(signals, name).disconnect(hearer)
    # The worker may be quicker than what is enqueued can be told.
    assert sorted(heard) == [
        ("task_enqueued", "READY"),
        ("task_finished", "SUCCESSFUL"),
        ("task_started", "RUNNING"),
    ]


# ---- one broker suffices for these ----

sqlite_only = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@sqlite_only
def test_connections_are_closed_after_each_task(at_work: Any, project: Any) -> None:
    assert ended(at_work, project.ask_database.enqueue()).return_value == 17
    assert project.seen["connection"].connection is None


@sqlite_only
def test_a_task_is_tried_again_as_its_queue_is_set(url: str, project: Any) -> None:
    worker = importlib.import_module("actorwork.integrations.django.worker")
    project.seen.clear()
    options = {"broker": url, "queues": {"default": {"retry": RetryPolicy(attempts=2, backoff=Fixed(seconds=0))}}}
    with configured(options) as backend, SystemThread(worker.tree_of(backend, ["default"]), broker=url):
        found = ended(backend, project.fail_once.enqueue("tea"))
    assert (found.return_value, found.attempts) == ("tea", 2)


@sqlite_only
def test_an_open_task_is_ready_and_known_by_its_message(backend: Any, project: Any) -> None:
    result = project.add.using(priority=60).enqueue([1])
    found = backend.get_result(result.id)
    assert (found.status, found.args, found.attempts, found.errors) == ("READY", [[1]], 0, [])
    assert found.task == project.add.using(priority=60)
    with pytest.raises(ValueError, match="not finished"):
        _ = found.return_value
    exceptions = tasks_of_django("exceptions")
    with pytest.raises(exceptions.TaskResultMismatch):
        project.greet.get_result(result.id)
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        backend.get_result("unheard-of")


@sqlite_only
def test_a_task_waits_for_its_time_and_is_unknown_if_it_is_cancelled_before(backend: Any, project: Any) -> None:
    later = datetime.now(UTC) + HOUR
    result = project.add.using(run_after=later).enqueue([1])
    (waiting,) = backend.client.messages(actor="django:default").found
    assert waiting.is_delayed
    assert abs(result.task.run_after - later) < timedelta(seconds=1)
    assert backend.get_result(result.id).status == "READY"
    assert backend.client.receipt(result.id).cancel("not wanted")
    with pytest.raises(tasks_of_django("exceptions").TaskResultDoesNotExist):
        backend.get_result(result.id)


@sqlite_only
def test_arguments_that_are_no_json_are_refused_and_nothing_is_sent(backend: Any, project: Any) -> None:
    with pytest.raises(TypeError):
        project.add.enqueue([object()])
    assert backend.client.statistics()["sent"] == 0


@sqlite_only
def test_a_task_of_a_transaction_is_sent_after_its_commit(backend: Any, project: Any) -> None:
    transaction = importlib.import_module("django.db").transaction
    sent: list[Any] = []

    def order(*, fails: bool) -> None:
        with transaction.atomic():
            transaction.on_commit(lambda: sent.append(project.add.enqueue([1])))
            assert not sent
            if fails:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        order(fails=True)
    assert not sent
    order(fails=False)
    assert backend.get_result(sent[0].id).status == "READY"


@pytest.mark.parametrize(
    ("priority", "level"),
    [(-100, "LOW"), (-1, "LOW"), (0, "NORMAL"), (1, "HIGH"), (49, "HIGH"), (50, "CRITICAL"), (100, "CRITICAL")],
)
def test_a_priority_has_a_level(project: Any, priority: int, level: str) -> None:
    backend = importlib.import_module("actorwork.integrations.django.backend")
    assert backend._priority_of(priority) is Priority[level]


@pytest.mark.parametrize(
    ("options", "more", "problem"),
    [
        ({"brokr": "x"}, {}, "has 'brokr'; there are broker"),
        ({"broker": "amqp://localhost"}, {}, "amqp"),
        ({"patience": "soon"}, {}, "patience"),
        ({"queues": {"mial": {}}}, {}, "no queue 'mial'"),
        ({"settings": {"concurency": 8}}, {}, "no setting 'concurency' of an actor; did you mean 'concurrency'?"),
        ({"queues": {"mail": {"x": 8}}}, {}, "no setting 'x' of an actor; there are title, "),
        ({"settings": {"concurrency": 0}}, {}, "concurrency"),
        ({"settings": {"speed": 9}}, {}, "speed"),
        ({}, {"QUEUES": []}, "QUEUES of the backend 'default' is empty"),
        ({"settings": {"concurrency": 4}, "queues": {"mail": {"execution_timeout": "5m"}}}, {}, None),
    ],
)
def test_the_check_of_the_settings_names_what_is_wrong(
    project: Any, options: dict[str, Any], more: dict[str, Any], problem: str | None
) -> None:
    with configured(options, **more) as backend:
        found = [str(error) for error in backend.check()]
        assert len(found) == (0 if problem is None else 1)
        assert problem is None or problem in found[0]


@sqlite_only
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [({"queue": ["mial"]}, "no queue 'mial', but"), ({"backend": "other"}, "other")],
)
def test_the_command_refuses_what_does_not_exist(backend: Any, arguments: dict[str, Any], problem: str) -> None:
    management = importlib.import_module("django.core.management")
    with pytest.raises(management.CommandError, match=problem):
        management.call_command("actorwork", **arguments)


@sqlite_only
def test_the_command_runs_the_actors_of_its_queues(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = importlib.import_module("actorwork.integrations.django.management.commands.actorwork")
    ran: list[Any] = []

    def run(tree: list[Any], **options: Any) -> None:
        ran.append(([actor.settings.title for actor in tree], options["broker"], options["grace"]))

    monkeypatch.setattr(command, "run", run)
    call: Callable[..., object] = importlib.import_module("django.core.management").call_command
    call("actorwork", grace="5s")
    call("actorwork", queue=["mail"])
    url = backend.chosen.broker
    assert ran == [(["django:default", "django:mail"], url, "5s"), (["django:mail"], url, "25s")]
