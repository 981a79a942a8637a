"""What the steps of a run returned, joined to the message of a step, or to the result, that waits for them.

The scripts that settle steps do so for what has few, short ones (lua/run_messages.lua). What has many, or long ones, is
joined by those who read it: the message of a step by the node that has it to handle (inputs.py), the result by the
client that asks for it. It is with the run, at its home, and read in pages.

The header of such a message ends with a proof that only the run can make. Any program that may write to a source could
otherwise have its actor read the results of a run which it may not read itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs

from actorwork.message import INPUTS
from actorwork.policy.runs.values import RESULT, End, Template, filled, groups_in, grown, needs_of, template_from
from actorwork.streams import keys
from actorwork.streams.plans import end_from
from actorwork.streams.transport.redis_py import checked

if TYPE_CHECKING:
    from actorwork.message import Json
    from actorwork.streams.transport.commands import Commands

_MOST_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 4_194_304
"""What a page of long inputs is to have, if they are about as long as each other."""
_SHORT: Final = 128
"""Bytes; as in `lua/run_messages.lua`."""


class InputsGoneError(Exception):
    """A step whose inputs cannot be fetched, now or later."""


@attrs.frozen
class _Step:
    """What a header says."""

    home: str
    run: str
    number: int
    proof: str

    @classmethod
    def of(cls, header: Json) -> _Step:
        parts = header.split("/") if isinstance(header, str) else ()
        if len(parts) != 4 or not parts[2].isdecimal():
            raise InputsGoneError(f"its header `{INPUTS}` wants home/run/step/proof, got {header!r:.100}")
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def is_sent_by_run(self, secret: bytes) -> bool:
        made = hashlib.sha1(b"%b/inputs/%b/%d" % (secret, self.run.encode(), self.number), usedforsecurity=False)
        return hmac.compare_digest(made.hexdigest().encode(), self.proof.encode())


async def joined(client: Commands, header: Json) -> bytes:
    """Return the message of a step, with the inputs that its header `INPUTS` leads to.

    Raises `InputsGoneError` if the run does not have them, and `RedisError` if it cannot be asked.
    """
    step = _Step.of(header)
    at = keys.run(step.home, step.run)
    secret, plan, kept_apart, long = await _fields(
        client,
        (at, "secret"),
        (f"{at}:steps", step.number),
        (f"{at}:templates", step.number),
        (f"{at}:state", f"b{step.number}"),
    )
    if secret is None or plan is None:
        raise InputsGoneError(
            f"its inputs were kept with run {step.run!r}, which was forgotten, or has ended longer ago than its results"
            " are kept: start it anew"
        )
    if not step.is_sent_by_run(secret):
        raise InputsGoneError(f"its header `{INPUTS}` names run {step.run!r}, which has not sent it")
    row = json.loads(plan)
    if kept_apart is not None:
        row |= json.loads(kept_apart)
    return (await _text(client, at, template_from(row["template"]), int(long or 0))).encode()


async def result_of(client: Commands, home: str, run: str) -> str | None:
    """Return the result of a run that has succeeded, as JSON; None if it is not kept any more."""
    at = keys.run(home, run)
    template, long = await _fields(client, (at, "result_template"), (f"{at}:state", f"b{RESULT}"))
    try:
        return (
            None if template is None else await _text(client, at, template_from(json.loads(template)), int(long or 0))
        )
    except InputsGoneError:
        return None


async def _text(client: Commands, at: str, template: Template, long: int) -> str:
    """Fill a template in with what other steps returned; `long`: bytes of those that are long."""
    template = await _grown(client, at, template)
    needs = sorted({need.step for need in needs_of(template)})
    ends = await _ends(client, at, needs, long)
    for need in needs_of(template):
        _, end = ends.get(need.step, ("", None))
        if end is None or (need.wants == "result" and end.kind != "done"):
            raise InputsGoneError(
                f"its run has no {need.wants} of step {need.step} any more: it was retried or forgotten, or its keys at"
                " the broker were changed"
            )
    return "".join(filled(template, ends, tuple))


async def _fields(client: Commands, *of: tuple[str, str | int]) -> list[bytes | None]:
    """Return fields of several hashes, by the one command that all of this needs a right to."""
    commands = [("HMGET", key, field) for key, field in of]
    return [value for (value,) in checked(await client.call_many(commands, idempotent=True))]


async def _grown(client: Commands, at: str, template: Template) -> Template:
    """Return a template whose groups have the members that were added to them."""
    groups = sorted(set(groups_in(template)))
    if not groups:
        return template
    added: list[bytes | None] = await client.call("HMGET", f"{at}:grown", *groups, idempotent=True)
    return grown(template, {group: json.loads(text) for group, text in zip(groups, added, strict=True) if text})


async def _ends(client: Commands, at: str, steps: Sequence[int], long: int) -> dict[int, tuple[str, End]]:
    """Return how steps have ended, with the names of those that are not done; `long`: bytes of long results."""
    found: dict[int, tuple[str, End]] = {}
    others: list[int] = []
    size = math.ceil(min(_MOST_AT_ONCE, _BYTES_AT_ONCE / (_SHORT + long / max(1, len(steps)))))
    for page in _pages(steps, size):
        values: list[bytes | None] = await client.call("HMGET", f"{at}:values", *page, idempotent=True)
        for step, value in zip(page, values, strict=True):
            if value is None:
                others.append(step)
            else:
                found[step] = "", End("done", value.decode())
    for page in _pages(others, _MOST_AT_ONCE):
        ends, plans = checked(
            await client.call_many([("HMGET", f"{at}:{part}", *page) for part in ("ends", "steps")], idempotent=True)
        )
        for step, end, plan in zip(page, ends, plans, strict=True):
            if end is not None and plan is not None:
                found[step] = json.loads(plan)["name"], end_from(end)
    return found


def _pages(steps: Sequence[int], size: int) -> Sequence[Sequence[int]]:
    return [steps[first : first + size] for first in range(0, len(steps), size)]
