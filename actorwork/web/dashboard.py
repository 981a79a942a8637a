"""The ASGI application: from a request to a response.

    host and path ── access ── permission ── page: view ── JSON, or a template drawn from it
                                         └── action: foreign? ── plan ── record ── do ── record

A page has a twin below `/api`, and answers `Accept: application/json` itself. An action takes JSON below `/api`, and a
form without; there, it asks before it begins. Permissions are checked here, before a view or a plan runs, and by these
where they depend on what is asked for; templates only leave out what would be refused.
"""

from __future__ import annotations

import json
import logging
import secrets as secret_numbers
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, cast
from urllib.parse import parse_qs

import anyio
import attrs
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from actorwork.errors import ActorworkError, BrokerError
from actorwork.groups import leaves
from actorwork.shown import Value
from actorwork.telemetry.formatting import one_line
from actorwork.web import live
from actorwork.web.access import Access, Local, Rule, access_of
from actorwork.web.guarding import HEADERS, LARGEST_BODY, foreign_write, wrong_host
from actorwork.web.masking import SECRETS, Masking
from actorwork.web.opening import OpenedBroker
from actorwork.web.pages import (
    entities,
    flows,
    letters,
    messages,
    overview,
    pausing,
    records,
    schedules,
    spooled,
    trigger_changes,
)
from actorwork.web.rendering import renderer
from actorwork.web.request import Action, Done, Form, Page, Plan, Progress, Refused, Sight, not_found

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Any]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Any]

BODY_WITHIN: Final = 10.0
"""Seconds that the body of a request may take."""
ANSWER_WITHIN: Final = 15.0
"""Seconds that a page or an action may take."""

_ROOMS: Final = (overview, entities, letters, messages, flows, schedules, trigger_changes, pausing, spooled, records)
PAGES: Final[Mapping[str, Page]] = {page.path: page for room in _ROOMS for page in room.PAGES}
ACTIONS: Final[Mapping[str, Action]] = {
    action.path: action for room in _ROOMS for action in getattr(room, "ACTIONS", ())
}
NAVIGATION: Final = (
    *("/overview", "/actors", "/entities", "/sources", "/messages", "/nodes", "/runs", "/triggers"),
    *("/dead", "/delayed", "/pauses", "/spool", "/audit"),
)
HOME: Final = "/overview"

log = logging.getLogger("actorwork.web")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Options(Value):
    """How a dashboard is set up, checked."""

    rules: tuple[Rule, ...] = attrs.field(factory=lambda: (Local(),))
    hosts: tuple[str, ...] = ()
    root_path: str = ""
    masking: Masking = attrs.field(factory=Masking)
    is_reason_needed: bool = False
    spool: Path | None = None
    trace_url: str = ""


def app(
    broker: object = None,
    *,
    access: Rule | Iterable[Rule] | None = None,
    hosts: Iterable[str] = (),
    root_path: str = "",
    secrets: Collection[str] = SECRETS,
    reason_required: bool = False,
    spool: str | Path | None = None,
    trace_url: str = "",
) -> Dashboard:
    """Return the dashboard of a broker, as an ASGI application for Trio and asyncio.

    `broker` is a URL, an open broker or a client; None is the embedded broker. `access` is a rule, or several of them,
    of which the first that knows a request's user decides; without any, only requests from this machine are answered.
    `hosts` are the names by which it may be addressed, if not by all; `root_path` is where a proxy has put it.
    `secrets` are parts of the names of values that are masked. With `reason_required`, each action wants a reason.
    `spool` is the file of a spool on this machine. `trace_url` is where traces are shown, with `{trace_id}` in it:
    messages that have one link to it.

    Mounted in an application on asyncio, it opens its broker with its first request; on Trio, enter `Dashboard.open`.
    Raises `MissingExtra` without the extra `web`, and `BrokerError` for a URL that names no kind of broker.
    """
    rules = () if access is None else (access,) if callable(access) else tuple(access)
    root = root_path.rstrip("/")
    if root and not root.startswith("/"):
        raise ValueError(f"root_path begins with a slash, got {root_path!r}")
    if trace_url and ("{trace_id}" not in trace_url or not trace_url.startswith(("https://", "http://", "/"))):
        raise ValueError(
            "trace_url is an address with {trace_id} in it, such as https://traces.example.org/trace/{trace_id},"
            f" got {trace_url!r}"
        )
    return Dashboard(
        OpenedBroker(broker),
        Options(
            rules=rules or (Local(),),
            hosts=tuple(hosts),
            root_path=root,
            masking=Masking(secrets),
            is_reason_needed=reason_required,
            spool=None if spool is None else Path(spool),
            trace_url=trace_url,
        ),
    )


class Dashboard:
    """The pages of one broker, as an ASGI application; made by `app`."""

    def __init__(self, broker: OpenedBroker, options: Options) -> None:
        self._broker = broker
        self._options = options
        self._renderer = renderer()
        self._sending = secret_numbers.token_hex(8)
        self._sent = 0
        self._streams = live.Streams()
        self._under_way: dict[tuple[str, str], Progress] = {}
        self.is_closing = False

    def __repr__(self) -> str:
        return f"<Dashboard of {self._broker!r}>"

    # ---- its life ----

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Dashboard]:
        """Open the broker for the time of the block, and end streams at its end. Never waits for the broker."""
        self.is_closing = False
        async with anyio.create_task_group() as group:
            await group.start(self._broker.keep)
            try:
                yield self
            finally:
                self.is_closing = True
                group.cancel_scope.cancel()

    def close_streams(self) -> None:
        """End all streams within a second, and begin no others: the server stops."""
        self.is_closing = True

    async def aclose(self) -> None:
        """Close the broker that a first request has opened, in an application on asyncio."""
        self.is_closing = True
        await self._broker.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(Request(scope, receive), scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.open():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    # ---- a request ----

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        root, path = self._place(scope)
        asks_json = path == "/api" or path.startswith("/api/") or _prefers_json(request)
        access: Access | None = None
        try:
            problem = wrong_host(request, self._options.hosts)
            if problem is not None:
                raise Refused(problem, 421)
            response: Any
            if path.startswith("/static/"):
                response = self._static(path.removeprefix("/static/"))
            else:
                access = await access_of(self._options.rules, request)
                response = (
                    self._unknown(request) if access is None else await self._respond(request, access, root, path)
                )
        except Exception as raised:  # noqa: BLE001 - whatever it is, the user gets an answer, and the log the rest
            response = self._failed(raised, root, path, access, asks_json=asks_json)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        await response(scope, receive, send)

    def _place(self, scope: Scope) -> tuple[str, str]:
        """Return the path of the dashboard, and that of the request within it: a proxy may have removed the former."""
        root = cast("str", scope.get("root_path") or "").rstrip("/") or self._options.root_path
        path = cast("str", scope["path"])
        if root and (path == root or path.startswith(f"{root}/")):
            path = path[len(root) :]
        return root, path.rstrip("/") or "/"

    async def _respond(self, request: Request, access: Access, root: str, path: str) -> Any:
        is_api = path == "/api" or path.startswith("/api/")
        name = (path.removeprefix("/api") or "/") if is_api else path
        if path == "/api":
            return _json_response(_index())
        if request.method == "POST":
            return await self._act(request, access, root, name, is_api=is_api)
        if request.method not in ("GET", "HEAD"):
            raise Refused(f"this address takes GET and POST, not {request.method[:20]}", 405)
        if name in ACTIONS:
            raise Refused("an action wants POST", 405)
        if name == "/":
            name = HOME
        if name == "/live" and not is_api:
            return await self._stream(request, access, root)
        if name == "/under-way" and is_api:
            # Only of this user's actions: a name is the sender's own.
            found = self._under_way.get((access.who, request.query_params.get("id", "")))
            return _json_response({"so_far": None if found is None else found.count})
        page = PAGES.get(name)
        if page is None:
            named = _named(name) if is_api else None
            if named is None:
                raise not_found(f"there is no page {path[:300]}")
            page, wanted = named
            sight = await self._sight(access, {**request.query_params, "id": wanted})
            return _json_response(await self._seen(page, sight))
        sight = await self._sight(access, request.query_params)
        facts = await self._seen(page, sight)
        if is_api or _prefers_json(request):
            return _json_response(facts)
        frame = self._frame(root, page.path, page.title, access, str(request.url.query), is_live=page.is_live)
        main = self._renderer.main(page.template, facts, frame)
        return _html_response(self._renderer.whole(main, frame))

    def _static(self, name: str) -> Response:
        if name not in self._renderer.files:
            raise not_found("there is no such file")
        data, kind = self._renderer.files[name]
        return Response(data, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    def _unknown(self, request: Request) -> Response:
        rules = self._options.rules
        if all(isinstance(rule, Local) for rule in rules):
            raise Refused(
                "this dashboard has no users: it answers only this machine, addressed as localhost and through no"
                " proxy; give it a token, passwords or a trusted header",
                403,
            )
        log.warning("the dashboard refused a request of %s without valid credentials", _address(request))
        return Response(
            "this dashboard wants credentials\n",
            401,
            {"WWW-Authenticate": 'Basic realm="actorwork", charset="UTF-8"'},
            "text/plain; charset=utf-8",
        )

    async def _sight(
        self, access: Access, query: Mapping[str, str], remembered: MutableMapping[str, Any] | None = None
    ) -> Sight:
        self._sent += 1
        return Sight(
            broker=await self._broker.reached(),
            access=access,
            masking=self._options.masking,
            query=dict(query),
            spool=self._options.spool,
            trace_url=self._options.trace_url,
            sending=f"{self._sending}-{self._sent:x}",
            remembered={} if remembered is None else remembered,
        )

    async def _seen(self, page: Page, sight: Sight) -> dict[str, Any]:
        sight.want(page.permission)
        with anyio.fail_after(ANSWER_WITHIN):
            return await page.view(sight)

    # ---- live pages ----

    async def _stream(self, request: Request, access: Access, root: str) -> live.Stream:
        path, _, text = request.query_params.get("page", "").partition("?")
        page = PAGES.get(HOME if path == "/" else path)
        if page is None or not page.is_live:
            raise not_found("there is no such page to follow")
        self._streams.expect_room()
        access_then = access
        parameters = {name: values[0] for name, values in parse_qs(text).items()}
        frame = self._frame(root, page.path, page.title, access, text, is_live=True)
        remembered: dict[str, Any] = {}

        async def draw() -> str:
            # A user may lose a right while a page is open.
            now = await access_of(self._options.rules, request)
            if now is None or now.permissions != access_then.permissions:
                raise Refused("your rights have changed: reload the page", 403)
            facts = await self._seen(page, await self._sight(access, parameters, remembered))
            return self._renderer.main(page.template, facts, frame)

        return live.Stream(draw, lambda: self.is_closing, self._streams)

    # ---- actions ----

    async def _act(self, request: Request, access: Access, root: str, name: str, *, is_api: bool) -> Response:
        problem = foreign_write(request)
        if problem is not None:
            log.warning("the dashboard refused an action of %s: %s", _address(request), one_line(problem))
            raise Refused(problem, 403)
        action = ACTIONS.get(name)
        if action is None:
            if name in PAGES:
                raise Refused("a page wants GET", 405)
            raise not_found(f"there is no action {name[:300]}")
        sight = await self._sight(access, {})
        sight.want(action.permission)
        form = await read_form(request, is_json=is_api)
        with anyio.fail_after(ANSWER_WITHIN):
            plan = await action.plan(sight, form)
        if form.flag("dry_run") or not (is_api or form.flag("confirm")):
            facts = {
                "question": plan.question,
                "how_many": plan.how_many,
                "is_grave": plan.is_grave,
                "reason_required": self._options.is_reason_needed,
            }
            return _json_response(facts) if is_api else self._confirm(access, root, action, form, facts, plan)
        if self._options.is_reason_needed and not form.text("reason").strip():
            raise Refused("this dashboard wants a reason for each action: the field 'reason'")
        mark = access.who, form.text("under_way")[:100]
        self._under_way[mark] = sight.progress
        try:
            done = await self._carry_out(sight, action, plan, form.text("reason"), _address(request))
        finally:
            self._under_way.pop(mark, None)
        facts = {"done": done.text, "how_many": done.how_many, "problems": list(done.problems)}
        if is_api:
            return _json_response(facts)
        frame = self._frame(root, "", "Done", access)
        return _html_response(
            self._renderer.whole(self._renderer.main("done.html", facts | {"back": plan.back}, frame), frame)
        )

    def _confirm(
        self, access: Access, root: str, action: Action, form: Form, facts: Mapping[str, Any], plan: Plan
    ) -> Response:
        fields = [
            (name, value)
            for name in form.fields
            if name not in ("confirm", "dry_run", "reason")
            for value in form.texts(name)
        ]
        frame = self._frame(root, "", "Confirm", access)
        shown = {**facts, "action": action.path, "fields": fields, "back": plan.back, "reason": form.text("reason")}
        return _html_response(self._renderer.whole(self._renderer.main("confirm.html", shown, frame), frame))

    async def _carry_out(self, sight: Sight, action: Action, plan: Plan, reason: str, ip: str) -> Done:
        """Do what was planned: recorded before, and completed after."""
        audit, access = sight.broker.audit, sight.access
        entry = await audit.append(action.name, plan.what, who=access.who, role=access.role, reason=reason, ip=ip)
        what = (one_line(access.who), action.name, one_line(plan.what))
        try:
            done = await plan.do()
        except Exception as error:
            log.warning("%s: %s: %s failed: %s", *what, one_line(str(error)))
            await audit.complete(entry, f"failed: {error}")
            raise
        log.info("%s: %s: %s: %s", *what, one_line(done.text))
        await audit.complete(entry, "done", done.how_many)
        return done

    # ---- what is around a page ----

    def _frame(
        self, root: str, path: str, title: str, access: Access | None, query: str = "", *, is_live: bool = False
    ) -> dict[str, Any]:
        may: Sequence[str] = () if access is None else sorted(access.permissions)
        return {
            "base": root,
            "path": path,
            "title": title,
            "who": "" if access is None else access.who,
            "role": "" if access is None else access.role,
            "may": may,
            "navigation": [(one, PAGES[one].title) for one in NAVIGATION],
            "follow": f"{path}{f'?{query}' if query else ''}" if is_live else "",
        }

    def _failed(self, raised: Exception, root: str, path: str, access: Access | None, *, asks_json: bool) -> Response:
        """Answer with an error: a sentence for what a user can do something about, a number for the log otherwise."""
        error = next(leaves(raised))
        if isinstance(error, Refused):
            text, status = str(error), error.status
        elif isinstance(error, TimeoutError):
            text, status = f"the broker did not answer within {ANSWER_WITHIN:g} s", 503
        elif isinstance(error, (BrokerError, ActorworkError)):
            text, status = f"the broker refused: {error}", 502
        else:
            number = secret_numbers.token_hex(4)
            log.error("the dashboard failed at %s (error %s)", one_line(path), number, exc_info=raised)
            text, status = f"this failed; the log has the reason, under the number {number}", 500
        if asks_json:
            return _json_response({"error": text}, status)
        # The page keeps its place in the navigation: a user whose run is gone goes on from the list of runs.
        frame = self._frame(root, path if path in PAGES else "", "Error", access)
        main = self._renderer.main("error.html", {"text": text, "status": status}, frame)
        return _html_response(self._renderer.whole(main, frame), status)


async def read_form(request: Request, *, is_json: bool) -> Form:
    """Read the fields of an action, as JSON or as a form; refuses other types, and what is too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wanted = "application/json" if is_json else "application/x-www-form-urlencoded"
    if kind != wanted:
        raise Refused(f"this request wants Content-Type: {wanted}, got {kind[:100] or 'none'}", 415)
    body = bytearray()
    with anyio.move_on_after(BODY_WITHIN) as waiting:
        try:
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LARGEST_BODY:
                        raise Refused(f"a request has {LARGEST_BODY:,} bytes at most", 413)
        except ClientDisconnect:
            raise Refused("the request has ended before its body") from None
    if waiting.cancelled_caught:
        raise Refused(f"the body of the request has not come within {BODY_WITHIN:g} s", 408)
    try:
        text = body.decode()
        fields: Any = json.loads(text) if is_json else parse_qs(text, keep_blank_values=True, max_num_fields=20_000)
    except (ValueError, RecursionError) as error:
        raise Refused(f"this is not {'JSON' if is_json else 'a form'}: {error}") from None
    if not isinstance(fields, dict):
        raise Refused("a JSON object was expected")
    return Form(cast("dict[str, Any]", fields))


def _named(path: str) -> tuple[Page, str] | None:
    """Return the page of one thing, and its id, by a path of the API such as `/messages/ID` and `/nodes/ID/stacks`."""
    for place, page in _OF_ONE:
        if path.startswith(place):
            wanted = path.removeprefix(place)
            if page == "/node" and wanted.endswith("/stacks"):
                return PAGES["/node/stacks"], wanted.removesuffix("/stacks")
            return PAGES[page], wanted
    return None


_OF_ONE: Final = (("/messages/", "/message"), ("/nodes/", "/node"), ("/runs/", "/run"))


def _index() -> dict[str, Any]:
    return {
        "pages": {f"/api{page.path}": page.permission for page in PAGES.values()},
        "actions": {f"/api{action.path}": action.permission for action in ACTIONS.values()},
    }


def _prefers_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _json_response(facts: object, status: int = 200) -> Response:
    text = json.dumps(facts, ensure_ascii=False, default=str)
    return Response(text.encode(errors="backslashreplace"), status, media_type="application/json")


def _html_response(text: str, status: int = 200) -> Response:
    return Response(text.encode(errors="backslashreplace"), status, media_type="text/html; charset=utf-8")
