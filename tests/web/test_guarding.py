"""Which requests are refused: by credentials, hosts, foreign sites, types, sizes and paths."""

import base64
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
import trio
from starlette.requests import Request

from actorwork.errors import SettingsError
from actorwork.policy.reports import (
    EntityReport,
    HeldMessage,
    HoldUp,
    HotKey,
    LockReport,
    PartReport,
    StallReport,
)
from actorwork.policy.runs.values import Plan, StepPlan
from actorwork.records import TriggerDefinition
from actorwork.web import dashboard
from actorwork.web.access import PERMISSIONS, Access, Passwords, Token, TrustedHeader
from actorwork.web.dashboard import ACTIONS, PAGES, Dashboard, app
from actorwork.web.guarding import LARGEST_BODY
from actorwork.web.serving import check_place, place_of

from .conftest import ODD, bury, enter, report, visit

JSON = {"content-type": "application/json"}
SAME = {"sec-fetch-site": "same-origin"}
TOKEN = "a-token-of-enough-length"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def post_to(path: str) -> dict[str, Any]:
    headers = [(name.encode(), value.encode()) for name, value in {**JSON, **SAME, "host": "localhost"}.items()]
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}


async def raw_post(opened: Dashboard, path: str, chunk: bytes, times: int) -> list[dict[str, Any]]:
    """Send a body in chunks; return what is answered."""
    answers: list[dict[str, Any]] = []
    given = iter(range(times))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunk, "more_body": next(given) < times - 1}

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(dict(message))

    await opened(post_to(path), receive, send)
    # More would have been there to read.
    assert next(given) < times - 1
    return answers


async def test_without_users_only_this_machine_is_answered():
    async with visit(access=None) as here:
        assert "Sources" in await here.page("/sources")
        assert "no users" in await here.page("/sources", 403, x_forwarded_for="10.0.0.9")
        assert "no users" in await here.page("/sources", 403, host="rebound.example.org")
        assert "no users" in await here.page("/sources", 403, host="localhost.example.org:8080")
        assert "Sources" in await here.page("/sources", host="[::1]:8080")
    async with visit(access=None, address="10.0.0.9") as far:
        assert "no users" in await far.page("/sources", 403)
        assert (await far.json("/sources", 403))["error"].startswith("this dashboard has no users")


async def test_a_token_opens_the_door_as_bearer_and_as_a_password():
    async with visit(access=Token(TOKEN, role="viewer"), address="10.0.0.9") as far:
        answer = await far.http.get("/sources")
        assert (answer.status_code, answer.headers["www-authenticate"][:5]) == (401, "Basic")
        for wrong in ("Bearer wrong", basic("ann", "wrong"), "Basic ???", "Bearer", "Digest x", f"Bearer {TOKEN}x"):
            await far.page("/sources", 401, authorization=wrong)
        assert "token" in await far.page("/sources", authorization=f"Bearer {TOKEN}")
        assert "ann" in await far.page("/sources", authorization=basic("ann", TOKEN))
    with pytest.raises(ValueError, match="16 characters"):
        Token("short")
    with pytest.raises(ValueError, match="no role is called 'boss'"):
        Token(TOKEN, role="boss")


async def test_users_with_passwords_have_their_own_roles():
    users = Passwords.read("# ours\nann:admin:pass:with:colons\n\nben:viewer:other\n")
    async with visit(access=users) as guest:
        assert "admin" in await guest.page("/sources", authorization=basic("ann", "pass:with:colons"))
        assert "viewer" in await guest.page("/sources", authorization=basic("ben", "other"))
        for name, password in (("ann", "other"), ("ben", "pass:with:colons"), ("", ""), ("carl", "")):
            await guest.page("/sources", 401, authorization=basic(name, password))
    for line in ("ann:admin", "ann:boss:x", ":admin:x", "ann:admin:"):
        with pytest.raises(ValueError, match="line 1 is not NAME:ROLE:PASSWORD"):
            Passwords.read(line)
    with pytest.raises(ValueError, match="there is no user in it"):
        Passwords.read("\n")


async def test_a_header_is_believed_from_named_proxies_alone():
    rule = TrustedHeader(proxies=["10.0.0.0/24"], role=None, roles={"ann": "operator"})
    async with visit(access=rule, address="10.0.0.7") as behind:
        assert "operator" in await behind.page("/sources", x_forwarded_user="ann")
        await behind.page("/sources", 401, x_forwarded_user="ben")
        await behind.page("/sources", 401)
        twice = await behind.http.get("/sources", headers=[("x-forwarded-user", "eve"), ("x-forwarded-user", "ann")])
        assert twice.status_code == 401
    async with visit(access=rule, address="10.0.1.7") as outside:
        await outside.page("/sources", 401, x_forwarded_user="ann")
    with pytest.raises(ValueError, match="named proxies"):
        TrustedHeader(proxies=[])


async def test_a_rule_of_the_host_may_wait_and_the_first_that_knows_the_user_decides():
    async def ask(request: Request) -> Access | None:
        return Access("carl", "nightshift", {"see", "pause"}) if request.headers.get("x-badge") == "7" else None

    async with visit(access=[ask, Token(TOKEN)]) as guest:
        assert "nightshift" in await guest.page("/sources", x_badge="7")
        assert "admin" in await guest.page("/sources", authorization=f"Bearer {TOKEN}")
        await guest.page("/sources", 401)
    with pytest.raises(ValueError, match="no permission is called 'fly'"):
        Access("carl", "own", {"fly"})


@pytest.mark.parametrize("path", sorted(ACTIONS))
async def test_each_action_wants_its_permission(path: str):
    without = set(PERMISSIONS) - {ACTIONS[path].permission}
    async with visit(access=lambda _: Access("ann", "own", without)) as guest:  # pyright: ignore[reportUnknownLambdaType]
        refused = await guest.do(path, 403, source="orders", entry="1-0", id="x", actor="a", title="t")
        assert f"does not include {ACTIONS[path].permission!r}" in refused["error"]
        assert not await guest.broker.audit.list()


async def test_whoever_may_not_see_sees_nothing():
    async with visit(access=lambda _: Access("ann", "own", {"pause"})) as blind:  # pyright: ignore[reportUnknownLambdaType]
        for path in PAGES:
            await blind.page(path, 403)
        assert (await blind.http.get("/live", params={"page": "/sources"})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({**JSON, **SAME}, 200),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site", "origin": "http://localhost"}, 403),
        ({**JSON, "sec-fetch-site": "none"}, 403),
        ({**JSON, "origin": "http://localhost"}, 200),
        ({**JSON, "origin": "https://localhost"}, 200),
        ({**JSON, "origin": "http://localhost:81"}, 403),
        ({**JSON, "origin": "http://evil.example"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "origin": "http://[broken"}, 403),
        (JSON, 403),
        ({**JSON, "authorization": f"Bearer {TOKEN}", "sec-fetch-site": "cross-site"}, 200),
        (SAME, 415),
        ({**SAME, "content-type": "text/plain"}, 415),
        ({**SAME, "content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
async def test_what_changes_something_comes_from_our_own_pages(headers: dict[str, str], code: int):
    async with visit() as guest:
        await guest.do("/pauses/pause", code, headers, kind="everything")
        assert len(await guest.broker.pauses.list()) == (1 if code == 200 else 0)


async def test_a_form_of_another_type_or_too_large_is_refused():
    async with visit() as guest:
        answer = await guest.http.post("/pauses/pause", json={"kind": "everything"}, headers=SAME)
        assert answer.status_code == 415
        answers = await raw_post(guest.dashboard, "/api/dead/edit", b" " * 100_000, LARGEST_BODY // 100_000 + 5)
        assert answers[0]["status"] == 413
        assert b"2,000,000" in answers[1]["body"]
        for broken in (b"{", b"[]", b"\xff", b"[" * 100_000, b'{"kind": 7}', b'{"kind": "everything", "name": {}}'):
            answer = await guest.http.post("/api/pauses/pause", content=broken, headers={**SAME, **JSON})
            assert answer.status_code == 400, broken[:20]
        many = "&".join(f"a{number}=1" for number in range(30_000))
        form = {**SAME, "content-type": "application/x-www-form-urlencoded"}
        assert (await guest.http.post("/pauses/pause", content=many, headers=form)).status_code == 400


@pytest.mark.parametrize(
    ("then", "status"), [(None, 408), ({"type": "http.disconnect"}, 400)], ids=["silence", "the end"]
)
async def test_a_form_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, then: dict[str, Any] | None, status: int
):
    monkeypatch.setattr(dashboard, "BODY_WITHIN", 0.05)
    answers: list[Any] = []
    begun = False

    async def receive() -> dict[str, Any]:
        nonlocal begun
        if not begun:
            begun = True
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await trio.sleep_forever() if then is None else then

    async def send(message: Any) -> None:
        answers.append(message)

    async with visit() as guest:
        await guest.dashboard(post_to("/api/pauses/pause"), receive, send)
    assert answers[0]["status"] == status
    assert not [record for record in caplog.records if record.name == "actorwork.web"]


async def test_only_hosts_that_are_named_are_answered():
    async with visit(hosts=["ops.example.org", "*.inner.example"]) as guest:
        await guest.page("/sources", host="ops.example.org:8443")
        await guest.page("/sources", host="a.inner.example")
        for wrong in ("evil.example", "inner.example", "xops.example.org", "ops.example.org.evil.example", "[", ""):
            await guest.page("/sources", 421, host=wrong)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../dashboard.py",
        "/static/%2e%2e/dashboard.py",
        "/static//etc/passwd",
        "/static/..%2fdashboard.py",
        "/static/",
        "/templates/base.html",
        "/%00",
        "/api/nothing",
        "/api/static/style.css",
        "/dead/replay/x",
    ],
)
async def test_no_path_leads_out_of_the_dashboard(path: str):
    async with visit() as guest:
        assert "def " not in await guest.page(path, 404)


async def test_every_answer_has_the_headers_that_keep_foreign_code_out():
    async with visit() as guest:
        for path in ("/sources", "/api/sources", "/nothing", "/static/script.js"):
            headers = (await guest.http.get(path)).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"].endswith("immutable")
        assert (await guest.http.get("/sources")).headers["cache-control"] == "no-store"


async def test_methods_that_mean_nothing_here_are_refused():
    async with visit() as guest:
        for method, path in (("PUT", "/sources"), ("DELETE", "/pauses/pause"), ("GET", "/pauses/pause")):
            assert (await guest.http.request(method, path)).status_code == 405
        assert (await guest.http.post("/sources", headers=SAME)).status_code == 405
        assert (await guest.http.post("/nothing", headers=SAME)).status_code == 404
        assert (await guest.http.head("/sources")).status_code == 200


def test_a_public_place_wants_users():
    check_place(place_of("127.0.0.1:0"), has_users=False)
    check_place(place_of("8080"), has_users=False)
    check_place(place_of("[::1]:8080"), has_users=False)
    check_place(place_of("0.0.0.0:8080"), has_users=True)
    for text in ("0.0.0.0:8080", "[::]:8080", "10.0.0.7:80", "ops.example.org:80"):
        with pytest.raises(SettingsError, match="could be reached by others, and has no users"):
            check_place(place_of(text), has_users=False)
    for wrong in ("", "localhost", "localhost:http", "a:70000", "a:-1"):
        with pytest.raises(SettingsError, match="HOST:PORT"):
            place_of(wrong)


_HELD = HeldMessage(what=ODD, since=1.0, source=ODD, key=ODD)
_ODD_ACTOR = PartReport(
    title=ODD,
    sources=("orders",),
    handling=1,
    in_hand=(_HELD,),
    hold_ups=(HoldUp(kind=ODD, name=ODD, waiting=1),),
    entities=EntityReport(stalled=1, stalled_keys=(ODD,), hot=(HotKey(key=ODD, count=3),)),
)
ODD_REPORT: dict[str, Any] = {
    "name": ODD,
    "version": ODD,
    "process": ODD,
    "pauses": (ODD,),
    "counters": {ODD: 1},
    "locks": (LockReport(name=ODD, actor=ODD, message=ODD, since=1.0, is_held=True),),
    "stalls": StallReport(count=1, seconds=1.0, at=1.0, last=1.0, stack=ODD),
    "tree": PartReport(title="root", kind="one_for_one", children=(_ODD_ACTOR,)),
}
ODD_TRIGGER = TriggerDefinition(
    source="orders",
    id="0123456789abcdef",
    actor=ODD,
    title=ODD,
    schedule='{"every": 60}',
    data=b"{}",
    details={"description": ODD},
)


async def test_no_name_breaks_out_of_a_page():
    async with visit() as guest:
        await enter(guest.broker, {ODD: [f"worker:{'a' * 16}:source"]})
        await bury(guest.broker, "orders", {ODD: {ODD: ODD, "n": 2**60}}, reason=ODD)
        await guest.broker.pauses.pause("actor", ODD, reason=ODD, by=ODD)
        await guest.broker.audit.append(ODD, ODD, who=ODD, reason=ODD)
        (letter,) = await guest.broker.dead_letters.list("orders")
        await report(guest.broker, 1, **ODD_REPORT)
        await guest.broker.triggers.register("orders", [ODD_TRIGGER])
        steps = (StepPlan(name=ODD, kind="signal"),)
        await guest.broker.runs.start(Plan(id="odd", home="h", steps=steps, result=("0",), title=ODD))
        pages: Sequence[tuple[str, dict[str, Any]]] = [
            *((path, {}) for path in PAGES if path not in ("/run", "/dead/letter")),
            ("/dead/letter", {"source": "orders", "entry": letter.entry}),
            ("/dead/letter", {"source": ODD, "entry": ODD}),
            ("/dead", {"text": ODD, "source": ODD}),
            ("/dead/letters", {"text": ODD}),
            ("/message", {"id": ODD}),
            ("/run", {"id": ODD}),
            ("/run", {"id": "odd"}),
            ("/node", {"id": f"{1:032x}"}),
            ("/source", {"name": "orders"}),
            ("/trigger", {"actor": ODD, "title": ODD}),
            ("/entities", {"actor": ODD}),
            ("/runs", {"status": ODD}),
            (f"/{ODD}", {}),
        ]
        seen = 0
        for path, parameters in pages:
            text = (await guest.http.get(path, params=parameters)).text
            assert "<script>alert" not in text, path
            assert "x" * 270 not in text.replace("x" * 260, ""), path
            seen += text.count("&lt;script&gt;alert")
        assert seen > 10
        page = await guest.page(f"/dead/letter?source=orders&entry={letter.entry}")
        assert str(2**60) in page
        assert "&lt;b&gt;bad&lt;/b&gt;" in page


def test_a_root_path_and_a_broker_are_checked():
    with pytest.raises(ValueError, match="begins with a slash"):
        app(root_path="ops")
    with pytest.raises(TypeError, match="a dashboard wants a broker's URL"):
        app(object())
