"""Errors, named for whose problem they are, and the verdicts that a handler may raise.

    ActorworkError
    ├── SettingsError          a declaration is wrong: fix the code that declares
    │   └── ConfigurationError a configuration is wrong: the operator must fix it
    ├── CodecError             bytes or JSON that are not a message: the sender must fix them
    ├── MessageRefused         the actor has no handler for what was sent (also a TypeError)
    ├── MailboxFull            no room now: wait with `tell`, or slow down
    ├── ActorStopped           the actor is gone for good
    ├── ActorCrashed           the actor crashed on the message that was asked
    ├── ExecutionTimeout       a handler ran past its `execution_timeout`
    ├── CircuitOpen            the dependency of a function fails: it was not called
    ├── AskTimeout             no reply in time (also a TimeoutError)
    ├── Deadlock               an ask that waits for the very handler it was made in
    │   └── WouldWaitForItself an ask of a key whose message waits for this very handler
    ├── MessageFailed          the actor's node settled the message as failed or rejected
    ├── NotRunning             a feature of the runtime was used outside a running system
    ├── StartError             an actor did not start
    ├── MaxRestartsExceeded    a supervisor gave up
    ├── ChildError             a supervisor refused a request
    ├── ProcessLost            a process of the tree ended abnormally
    ├── RemoteError            an error in another process, as text
    ├── AlreadyRegistered      the name is taken
    ├── DeathPact              a watched actor ended, and the watcher has no handler for that
    ├── LockTimeout            a lock was not free in time (also a TimeoutError)
    ├── LockLost               a lock may have another owner by now
    ├── StateConflict          the state of an entity has another version, or is about to change
    ├── BrokerError            the broker refuses or cannot do what is needed
    │   ├── Unconfirmed        the broker has it, and not enough others do
    │   └── SpoolError         the file where messages wait for the broker cannot be used
    │       └── SpoolFull      it has no room
    └── MissingExtra           an optional dependency is not installed (also an ImportError)

Verdicts (`Retry`, `Reject`, `Fail`) are signals, not errors: a handler raises one to decide how its delivery ends. The
runtime finds them inside the exception groups in which a nursery wraps them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from actorwork.durations import Duration, as_seconds


class ActorworkError(Exception):
    """The root of every error that actorwork raises."""


class SettingsError(ActorworkError, ValueError):
    """A declaration is out of bounds; the message names the field, the value and the bound."""


class ConfigurationError(SettingsError):
    """What an operator has set cannot be used; `problems` holds one sentence per defect, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        many = f"{len(self.problems)} problems in the configuration:\n  " if len(self.problems) > 1 else ""
        super().__init__(many + "\n  ".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigurationError], tuple[Sequence[str]]]:
        return ConfigurationError, (self.problems,)


class CodecError(ActorworkError, ValueError):
    """Bytes, JSON or fields that cannot be converted into the message that a handler takes.

    `problems` holds one sentence per defect, each with the path to the field.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[str, ...] = tuple(problems)


class ResultTooLarge(CodecError):
    """A handler returned more than the `max_result_bytes` of its actor; `size` is in bytes of JSON."""

    def __init__(self, message: str, size: int = 0) -> None:
        super().__init__(message)
        self.size: int = size


class MessageRefused(ActorworkError, TypeError):
    """The actor has no handler for this message; the text lists what it accepts."""


class MailboxFull(ActorworkError):
    """There is no room at this moment: in the mailbox, for which `await ref.tell(…)` waits, or in the actor's stash."""


class ActorStopped(ActorworkError):
    """The actor has ended for good, or its system is shutting down and accepts no new messages."""


class ActorCrashed(ActorworkError):
    """The actor crashed while it handled the message of `ask`; `__cause__` is its error."""


class ExecutionTimeout(ActorworkError):
    """The handler ran past its `execution_timeout` and was cancelled."""


class CircuitOpen(ActorworkError):
    """A function behind a circuit breaker was not called, since its dependency fails.

    `name` is that of the circuit; `retry_after` is in how many seconds the next call may probe it.
    """

    def __init__(self, text: str, *, name: str, retry_after: float) -> None:
        super().__init__(text)
        self.name = name
        self.retry_after = retry_after


class AskTimeout(ActorworkError, TimeoutError):
    """No reply came within the timeout; the message may still be handled."""


class Deadlock(ActorworkError, RuntimeError):
    """An ask could never be answered: its handler waits for a reply from its own actor, which is busy with it."""


class WouldWaitForItself(Deadlock):
    """An ask was not sent, or was taken back: it would wait for the handler that asks, or for one that waits for that.

    So its message is not handled. Messages with the same key are handled one after another; `chain` are the sources and
    keys that wait.
    """

    def __init__(self, text: str, *, chain: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.chain = tuple(chain)


class MessageFailed(ActorworkError):
    """The node that handled the message settled it as failed or rejected.

    `type`, `reason` and `traceback` are those of the handler's error, as text.
    """

    def __init__(self, text: str, *, type: str, reason: str, traceback: str = "") -> None:
        super().__init__(text)
        self.type = type
        self.reason = reason
        self.traceback = traceback


class NotRunning(ActorworkError, RuntimeError):
    """A feature that only a running system offers was used outside of one."""


class StartError(ActorworkError):
    """A child did not start; `child_id` names it, `__cause__` is its error."""

    def __init__(self, text: str, *, child_id: Hashable) -> None:
        super().__init__(text)
        self.child_id = child_id


class MaxRestartsExceeded(ActorworkError):
    """A supervisor gave up: more restarts within `period` seconds than its intensity allows."""

    def __init__(self, text: str, *, child_id: Hashable, restarts: int, period: float) -> None:
        super().__init__(text)
        self.child_id = child_id
        self.restarts = restarts
        self.period = period


class ChildError(ActorworkError):
    """A request to a supervisor that it cannot carry out.

    `problem` is `not_found`, `running`, `restarting`, `already_started`, `already_present`, `max_children` or
    `stopped`.
    """

    def __init__(self, text: str, *, problem: str, child_id: object = None) -> None:
        super().__init__(text)
        self.problem = problem
        self.child_id = child_id


class ProcessLost(ActorworkError):
    """A process of the tree ended: by a signal, with an exit code other than 0, or because it had to be killed.

    `pid` is its number, `code` its exit code: negative for a signal, None if it is unknown. `had_suspects`: it had a
    message in flight that another process had died with before, so the message is to blame, and not the process.
    `killed_for` says why its parent killed it; it is empty if that did not.
    """

    def __init__(
        self, text: str, *, pid: int, code: int | None, had_suspects: bool = False, killed_for: str = ""
    ) -> None:
        super().__init__(text)
        self.pid = pid
        self.code = code
        self.had_suspects = had_suspects
        self.killed_for = killed_for


class RemoteError(ActorworkError):
    """An error in another process, as text: its `type` and its `reason`; its traceback is a note on this one."""

    def __init__(self, text: str, *, type: str, reason: str) -> None:
        super().__init__(text)
        self.type = type
        self.reason = reason


class AlreadyRegistered(ActorworkError):
    """The name belongs to another actor: `ref`."""

    def __init__(self, text: str, *, ref: object) -> None:
        super().__init__(text)
        self.ref = ref


class DeathPact(ActorworkError):
    """An actor that this one watches has ended, and this one has no handler for `Terminated`."""


class NotUnique(ActorworkError):
    """A message with the same unique key waits or is in flight, so this one was not stored; `id` is the other's."""

    def __init__(self, text: str, *, id: str) -> None:
        super().__init__(text)
        self.id = id


class LockTimeout(ActorworkError, TimeoutError):
    """A lock was not free within the timeout; `name` is the lock's."""

    def __init__(self, text: str, *, name: str) -> None:
        super().__init__(text)
        self.name = name


class LockLost(ActorworkError):
    """A lock expired while it was held, or a write came under its token after another owner had written under a newer
    one; `name` is the lock's or the value's.
    """

    def __init__(self, text: str, *, name: str) -> None:
        super().__init__(text)
        self.name = name


class StateConflict(ActorworkError):
    """The state of an entity has another version than was expected, or a delivery of its key is in flight.

    `version` is the version that it has now, 0 if it has no state.
    """

    def __init__(self, text: str, *, version: int) -> None:
        super().__init__(text)
        self.version = version


class BrokerError(ActorworkError):
    """The broker refuses, or is configured so that messages would be lost; the text says what to do.

    `may_pass`: the reason is a temporary state of the broker (out of memory, loading, a busy file), not the request.
    """

    def __init__(self, text: str = "", *, may_pass: bool = False) -> None:
        super().__init__(text)
        self.may_pass = may_pass


class Unconfirmed(BrokerError):
    """Fewer servers than asked for have confirmed a message in time; the primary has it, and may lose it.

    To send it again with the same id is safe: it is stored once, and confirmed if the servers catch up. `ids` are those
    of the messages, `wanted` and `confirmed` how many servers that were.
    """

    def __init__(self, text: str, *, ids: Sequence[str], wanted: int, confirmed: int) -> None:
        super().__init__(text, may_pass=True)
        self.ids = ids
        self.wanted = wanted
        self.confirmed = confirmed


class SpoolError(BrokerError):
    """The file in which messages wait for the broker cannot be used; the message was not stored there."""


class SpoolFull(SpoolError):
    """The spool has no room for the message, which was not stored; `messages` and `bytes` are its contents."""

    def __init__(self, text: str, *, messages: int, bytes: int) -> None:
        super().__init__(text)
        self.messages = messages
        self.bytes = bytes


class MissingExtra(ActorworkError, ImportError):
    """An optional dependency is not installed; the text names the extra that brings it."""


class Verdict(Exception):
    """A handler raises a verdict to decide how its delivery ends; `reason` is stored with it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Verdict):
    """Run the message again, `delay` from now or (None) after the actor's own backoff.

    Each retry counts as an attempt. Once the attempts of the retry policy are spent (20 where the actor has none), the
    delivery fails.
    """

    def __init__(self, delay: Duration | None = None, reason: str = "") -> None:
        super().__init__(reason)
        delay = as_seconds(delay)
        if delay is not None and (not isinstance(delay, (int, float)) or not 0 <= delay < float("inf")):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"Retry(delay=…) wants finite seconds >= 0, or None, got {delay!r}")
        self.delay = delay


class Reject(Verdict):
    """Drop the message: counted and logged, not retried, no dead letter."""


class Fail(Verdict):
    """Fail the message now, whatever attempts are left: it becomes a dead letter."""


class Shutdown(Exception):
    """Raised by an actor to end itself for a reason that is not a failure; `term` is that reason."""

    def __init__(self, term: object = None) -> None:
        super().__init__(term)
        self.term = term


class Ignore(Exception):
    """Raised by `startup` if there is nothing to run: not a failure, the child's place stays empty."""
