"""The dashboard in a real browser: Chromium of the distribution, driven by Playwright.

    apt-get install chromium && pip install -e '.[browser]' && pytest -m browser

No build of a browser is downloaded; `CHROMIUM` names another one than that of the PATH. axe-core comes from a package
of the extra, and is evaluated by the driver, since the pages would not load it.
"""

import importlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actorwork.actors.actor import Actor
from actorwork.actors.entities.entity import Entity
from actorwork.actors.handlers.table import receive
from actorwork.brokers import open_broker
from actorwork.clients.opening import open_client
from actorwork.errors import MessageFailed
from actorwork.message import Envelope
from actorwork.policy.runs.values import Plan, StepPlan
from actorwork.policy.schedule import Interval
from actorwork.policy.trigger import Trigger
from actorwork.runtime.system import open_system
from actorwork.settings import Entities, Settings
from actorwork.web.access import Access
from actorwork.web.dashboard import NAVIGATION, app
from actorwork.web.serving import Place, serve_pages
from actorwork.workflows import Flow, group, step
from tests.patience import PATIENCE

pytestmark = pytest.mark.browser

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MILLISECONDS = PATIENCE * 1000
LONG = "a-name-of-many-characters-" * 10


class Cart(Entity[dict[str, int]]):
    settings = Settings(title="cart", entities=Entities(history=5))

    @receive
    async def put(self, *, pieces: int) -> None:
        self.state["pieces"] = self.state.get("pieces", 0) + pieces


CARTS = Cart.settings.default_source, Cart.settings.id


class Till(Actor):
    settings = Settings(
        title="till",
        sources={"orders"},
        concurrency=4,
        triggers=[Trigger(title="count", schedule=Interval(hours=1), kwargs={"n": 0})],
    )

    @receive
    async def take(self, *, n: int, password: str = "") -> None:
        if n < 0:
            raise ValueError(f"no order has the number {n}")
        if n > 1000:
            await trio.sleep_forever()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Serve a shop in which something is wrong; yields the URL, of an admin or (below it) of a viewer."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shop')}/shop.db"
    serving: dict[str, Any] = {}
    is_up, stop = threading.Event(), trio.Event()

    def access(request: Any) -> Access:
        return Access("ann", request.headers.get("x-role", "admin"))

    async def main() -> None:
        serving["token"] = trio.lowlevel.current_trio_token()
        async with (
            open_broker(url) as broker,
            open_system([Till, Cart], broker=broker, grace=1),
            open_client(broker) as client,
        ):
            await client.ref(Till).submit({"n": 2000}, id="stuck")
            for key in ("ann", "ann", "ann", "bea", LONG[:200]):
                await client.ref(Cart, key=key).ask({"pieces": 2})
            await broker.entities.put(*CARTS, "newer", b"[]", schema=9)
            await client.ref(Cart, key="newer").tell({"pieces": 9})
            await broker.publish(
                [Envelope("orders", f"bad-{n}", b'{"n": -%d, "password": "geheim"}' % n) for n in (1, 2)]
            )
            await broker.publish([Envelope("orders", f"torn-{n}", b'{"n": -3}') for n in (1, 2)])
            torn = [step(Till, {"n": -4}, name=name) for name in ("torn picture", "torn letter")]
            with suppress(MessageFailed):
                await (await client.start(Flow(group(torn)), id="run-3")).result(timeout=60)
            await broker.publish([Envelope("orders", f"later-{n}", b'{"n": 1}', delay=3600 + n) for n in range(300)])
            await client.pause(source="paused-source", reason=LONG)
            for run in ("run-1", "run-2"):
                steps = (
                    StepPlan(name="approved", kind="signal"),
                    StepPlan(name=LONG, source="nowhere", template=("1",)),
                )
                await broker.runs.start(Plan(id=run, home="h", steps=steps, result=("1",), title=f"words of {run}"))
            while len(await broker.dead_letters.list("orders")) < 4:  # noqa: ASYNC110 - no event says it
                await trio.sleep(0.01)
            serving["broker"] = broker
            async with trio.open_nursery() as nursery:
                serve = partial(serve_pages, app(broker, access=access), Place("127.0.0.1", 0), stop=stop.wait)
                serving["url"] = await nursery.start(serve)
                is_up.set()

    thread = threading.Thread(target=lambda: trio.run(main))
    thread.start()
    assert is_up.wait(PATIENCE)
    yield serving["url"]
    serving["token"].run_sync_soon(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def chromium() -> Generator[Any]:
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.fail(f"this wants chromium and playwright: {(__doc__ or '').splitlines()[2].strip()}")
    # By name: the extra is no part of what a change is checked with.
    driver: Any = importlib.import_module("playwright.sync_api")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def window(chromium: Any, width: int = 1440, scheme: str = "light", role: str = "admin") -> Generator[Any]:
    """Open a page of a browser; nothing on it may fail in the console."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, extra_http_headers={"x-role": role}
    )
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    troubles: list[str] = []

    def note(message: Any) -> None:
        if getattr(message, "type", "error") == "error":
            troubles.append(str(getattr(message, "text", message)))

    page.on("console", note)
    page.on("pageerror", note)
    yield page
    context.close()
    # What the server refuses is what some tests are about.
    assert [one for one in troubles if "the server responded with a status of 4" not in one] == []


def violations(page: Any, *, contrast: bool = True) -> list[str]:
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    (axe,) = Path(spec.origin).parent.rglob("axe.min.js")
    page.evaluate(axe.read_text(encoding="utf-8"))
    options = RULES | {"rules": {"color-contrast": {"enabled": contrast}}}
    found: Any = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


def places(page: Any, shop: str) -> list[str]:
    page.goto(f"{shop}/dead/letters")
    letter = page.locator("td.name a").first.get_attribute("href")
    page.goto(f"{shop}/nodes")
    node = page.locator("td.name a").first.get_attribute("href")
    return [
        *NAVIGATION, letter, node, node.replace("/node?", "/node/stacks?"), "/dead/letters", "/run?id=run-1",
        "/run?id=run-3", "/run?id=none", "/message?id=stuck", "/message?id=nothing", "/nowhere",
        "/entities?actor=cart", "/entity?actor=cart&key=ann", "/entity?actor=cart&key=newer",
        "/entity?actor=cart&key=nobody", "/send?actor=till", "/source?name=orders", "/trigger?actor=till&title=count",
        "/actor?title=till", "/actor?title=cart",
    ]  # fmt: skip


# Contrast costs three quarters of what axe-core takes. It is measured where a page is narrowest and where it is widest:
# between them the layout is another one, of the same colours.
@pytest.mark.parametrize(
    ("width", "scheme"), [(360, "light"), (360, "dark"), (900, "light"), (1440, "light"), (1440, "dark")]
)
def test_each_page_is_accessible_and_fits(shop: str, chromium: Any, width: int, scheme: str):
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    wrong: dict[str, list[str]] = {}
    for place in places(page, shop):
        page.goto(f"{shop}{place}")
        page.locator("main h1, main .empty").first.wait_for()
        found = violations(page, contrast=width != 900)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append("it is wider than the window")
        if found:
            wrong[place] = found
    context.close()
    assert wrong == {}


def test_a_page_follows_what_happens_elsewhere(shop: str, chromium: Any):
    with window(chromium) as watching, window(chromium) as acting:
        watching.goto(f"{shop}/pauses")
        watching.locator("#live[data-state=live]").wait_for()
        acting.goto(f"{shop}/sources")
        acting.locator("tr", has_text="orders").get_by_role("button", name="Pause orders").click()
        acting.locator("dialog input").fill("stocktaking")
        acting.locator("dialog input").press("Enter")
        watching.get_by_text("stocktaking").wait_for()
        acting.locator("tr", has_text="orders").get_by_role("button", name="Resume orders").click()
        acting.locator("dialog button.main").click()
        watching.get_by_text("stocktaking").wait_for(state="detached")


def test_a_page_that_is_hidden_asks_for_nothing_and_follows_again_once_it_is_seen(shop: str, chromium: Any):
    hide = """is => {
        Object.defineProperty(document, "hidden", { get: () => is, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    asked: list[str] = []
    with window(chromium) as watching, window(chromium) as acting:
        watching.goto(f"{shop}/pauses")
        watching.locator("#live[data-state=live]").wait_for()
        watching.evaluate(hide, True)
        watching.locator("#live[data-state=paused]").wait_for()
        watching.on("request", lambda request: asked.append(str(request)))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        acting.goto(f"{shop}/sources")
        acting.get_by_role("button", name="Pause orders").click()
        acting.locator("dialog input").fill("unseen")
        acting.locator("dialog input").press("Enter")
        acting.get_by_role("button", name="Resume orders").wait_for()
        assert watching.get_by_text("unseen").count() == 0
        assert asked == []
        watching.evaluate(hide, False)
        watching.get_by_text("unseen").wait_for()
        acting.get_by_role("button", name="Resume orders").click()
        acting.locator("dialog button.main").click()
        watching.get_by_text("unseen").wait_for(state="detached")


def test_an_update_leaves_what_stays_and_the_focus_where_they_are(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/sources")
        page.evaluate("window.kept = [...document.querySelectorAll('main > *, form')]")
        page.get_by_role("button", name="Pause orders").focus()
        page.keyboard.press("Enter")
        page.locator("dialog input").fill("stocktaking")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Resume orders").wait_for()
        page.locator("#said p").wait_for()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Resume orders"
        page.keyboard.press("Enter")
        page.locator("dialog[open]").wait_for()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Pause orders").wait_for()
        assert page.evaluate("kept.filter(one => !one.isConnected).length") == 0


def test_a_source_is_paused_by_the_keyboard_alone(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/sources")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "find"
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Pause orders":
                break
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.locator("dialog[open]").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="hidden")
        page.get_by_role("button", name="Pause orders").focus()
        page.keyboard.press("Enter")
        page.locator("dialog[open]").wait_for()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Resume orders").click()
        page.locator("dialog button.main").click()
        page.get_by_role("button", name="Pause orders").wait_for()


def test_a_dead_letter_is_edited_and_replayed(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/dead/letters")
        page.get_by_role("link", name="bad-1").click()
        payload = page.locator("textarea")
        assert "geheim" not in payload.input_value()
        payload.fill(payload.input_value().replace("-1", "1"))
        page.get_by_role("button", name="Replay with this payload").click()
        page.locator("dialog button.main").click()
        page.wait_for_url("**/dead")
        page.goto(f"{shop}/dead/letters")
        page.get_by_role("link", name="bad-2").wait_for()
        assert page.get_by_role("link", name="bad-1").count() == 0


def test_a_state_is_replaced_and_forgotten(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/entities")
        page.locator("td.name").get_by_role("link", name="cart").click()
        page.locator("td.name").get_by_role("link", name="ann", exact=True).click()
        page.locator(".past summary", has_text="Version 3").click()
        state = page.locator("textarea")
        state.fill(state.input_value().replace("6", "7"))
        page.get_by_role("button", name="Replace the state").click()
        page.locator("dialog button.main").click()
        page.locator(".past summary", has_text="Version 4").wait_for()
        assert "7" in state.input_value()
        page.get_by_role("button", name="Forget").click()
        page.locator("dialog button.main").click()
        page.wait_for_url("**/entities?actor=cart")
        page.get_by_text(LONG[:200]).first.wait_for()
        assert page.locator("td.name").get_by_role("link", name="ann", exact=True).count() == 0


def test_a_run_is_cancelled(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/run?id=run-2")
        page.get_by_role("button", name="Cancel", exact=True).first.click()
        page.locator("dialog input").fill("no longer wanted")
        page.locator("dialog button.main").click()
        page.locator(".head .badge", has_text="cancelled").wait_for()
        page.get_by_text("no longer wanted").first.wait_for()


def test_a_viewer_has_no_buttons_and_is_refused_what_they_send(shop: str, chromium: Any):
    with window(chromium, role="viewer") as page:
        page.goto(f"{shop}/sources")
        assert page.locator("main button").count() == 0
        status = page.evaluate(
            "fetch('/api/pauses/pause', {method: 'POST', headers: {'Content-Type': 'application/json'},"
            ' body: \'{"kind": "everything"}\'}).then(answer => answer.status)'
        )
        assert status == 403


def test_without_its_script_the_dashboard_works(shop: str, chromium: Any):
    context = chromium.new_context(java_script_enabled=False)
    context.set_default_timeout(MILLISECONDS)
    page = context.new_page()
    page.goto(f"{shop}/sources")
    page.get_by_role("button", name="Pause orders").click()
    page.get_by_role("button", name="Confirm").click()
    page.get_by_role("link", name="Back").click()
    page.get_by_role("button", name="Resume orders").click()
    page.get_by_role("button", name="Confirm").click()
    page.get_by_text("resumed source 'orders'").wait_for()
    context.close()


def do(page: Any, path: str, **fields: object) -> str:
    """Act as another user does meanwhile, of whom the page knows nothing; return what was done."""
    facts = page.evaluate(
        "([path, fields]) => fetch(path, {method: 'POST', headers: {'Content-Type': 'application/json'},"
        " body: JSON.stringify(fields)}).then(answer => answer.json())",
        [f"/api{path}", fields],
    )
    return facts["done"]


def is_at(page: Any, selector: str) -> bool:
    return page.evaluate("selector => document.activeElement.matches(selector)", selector)


def test_a_page_of_a_state_follows_and_what_is_written_about_an_older_one_is_kept_and_not_stored(
    shop: str, chromium: Any
):
    with window(chromium) as page:
        page.goto(f"{shop}/entity?actor=cart&key=bea")
        page.locator("#live[data-state=live]").wait_for()
        state, behind = page.locator("textarea"), page.locator("[data-behind]")
        do(page, "/entities/put", actor="cart", key="bea", state='{"pieces": 20}', schema="1")
        page.locator(".past summary", has_text="Version 2").wait_for()
        assert "20" in state.input_value(), "an untouched form follows"
        assert not behind.is_visible()
        page.locator("[name=force]").check()
        state.fill('{"pieces": 50}')
        page.evaluate("document.activeElement.setSelectionRange(2, 8)")
        do(page, "/entities/put", actor="cart", key="bea", state='{"pieces": 30}', schema="1")
        behind.wait_for()
        page.locator(".past summary", has_text="Version 3").wait_for()
        assert (state.input_value(), is_at(page, "textarea")) == ('{"pieces": 50}', True)
        assert page.evaluate("[document.activeElement.selectionStart, document.activeElement.selectionEnd]") == [2, 8]
        assert page.locator("[name=force]").is_checked()
        page.get_by_role("button", name="Replace the state").click()
        page.locator("dialog button.main").click()
        page.locator("#said", has_text="has the version 3, not 2").wait_for()
        assert state.input_value() == '{"pieces": 50}'
        page.get_by_role("button", name="Take that state").click()
        behind.wait_for(state="hidden")
        assert "30" in state.input_value()
        assert not page.locator("[name=force]").is_checked()
        state.fill(state.input_value().replace("30", "31"))
        page.get_by_role("button", name="Replace the state").click()
        page.locator("dialog button.main").click()
        page.locator(".past summary", has_text="Version 4").wait_for()
        assert "31" in state.input_value()
        assert not behind.is_visible()


def test_a_page_of_a_trigger_follows_and_what_is_written_about_an_older_one_is_kept_and_not_stored(
    shop: str, chromium: Any
):
    def change(**fields: object) -> None:
        do(page, "/triggers/change", actor="till", title="count", **fields)

    with window(chromium) as page:
        page.goto(f"{shop}/trigger?actor=till&title=count")
        page.locator("#live[data-state=live]").wait_for()
        every, overlap, behind = (page.locator(one) for one in ("[name=every]", "[name=overlap]", "[data-behind]"))
        change(every="2h", overlap="skip", description="each order")
        page.locator("dd", has_text="each order").wait_for()
        assert (every.input_value(), overlap.input_value()) == ("2h", "skip")
        every.fill("3h")
        change(description="all orders")
        behind.wait_for()
        page.locator("dd", has_text="all orders").wait_for()
        assert (every.input_value(), is_at(page, "[name=every]")) == ("3h", True)
        assert page.locator("[name=description]").input_value() == "each order"
        page.get_by_role("button", name="Change the trigger").click()
        page.locator("#said", has_text="was changed since this form was filled in").wait_for()
        page.get_by_role("button", name="Take it as it is now").click()
        behind.wait_for(state="hidden")
        assert (every.input_value(), page.locator("[name=description]").input_value()) == ("2h", "all orders")
        every.fill("3h")
        page.get_by_role("button", name="Change the trigger").click()
        page.locator("dialog button.main").click()
        page.locator("dd", has_text="every 3h").wait_for()
        page.get_by_role("button", name="Reset").click()
        page.locator("dialog button.main").click()
        page.locator("dd", has_text="every 1h").wait_for()
        page.wait_for_function("document.querySelector('[name=every]').value === '1h'")


def test_an_update_leaves_ticks_and_the_focus_in_a_list_that_grows_and_shrinks(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/dead/letters")
        page.locator("#live[data-state=live]").wait_for()
        ticked = page.get_by_label("Message torn-1")
        ticked.check()
        sent = do(page, "/messages/send", source="orders", payload='{"n": -7}')
        # The newest comes first, before what is ticked.
        newest = page.get_by_label(f"Message {sent.removeprefix('sent ')}")
        newest.wait_for()
        assert ticked.is_checked()
        assert is_at(page, "[aria-label='Message torn-1']")
        do(page, "/dead/drop", letter=newest.get_attribute("value"))
        newest.wait_for(state="detached")
        assert ticked.is_checked()
        assert is_at(page, "[aria-label='Message torn-1']")


def test_an_action_that_takes_longer_than_a_second_says_that_it_is_under_way(shop: str, chromium: Any):
    held: list[Any] = []

    def hold(route: Any) -> None:
        if "under_way" in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    with window(chromium) as page:
        page.goto(f"{shop}/pauses")
        page.route("**/api/pauses/pause", hold)
        page.locator("select[name=kind]").select_option("actor")
        page.get_by_label("Name", exact=True).fill("cart")
        page.get_by_role("button", name="Pause", exact=True).click()
        page.locator("dialog button.main").click()
        page.locator("#said", has_text="Under way").wait_for()
        held[0].continue_()
        page.locator("#said", has_text="Paused actor 'cart'").wait_for()
        page.get_by_role("button", name="Resume cart").click()
        page.locator("dialog button.main").click()
        page.get_by_role("button", name="Resume cart").wait_for(state="detached")


def test_chosen_steps_of_a_run_are_retried(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/run?id=run-3")
        page.get_by_role("button", name="Retry the chosen").click()
        page.locator("#said", has_text="no step is chosen").wait_for()
        page.get_by_label("Step torn picture").check()
        page.get_by_role("button", name="Retry the chosen").click()
        page.locator("dialog h2", has_text="Retry 'torn picture' of run 'run-3'?").wait_for()
        page.locator("dialog input").fill("mended")
        page.locator("dialog button.main").click()
        page.locator("#said", has_text="Retrying 'torn picture' of run").wait_for()
        page.goto(f"{shop}/audit")
        page.locator("tr", has_text="run run-3: 'torn picture'").get_by_text("mended").wait_for()


def test_a_key_that_stands_still_is_forgotten(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/entity?actor=cart&key=newer")
        page.locator(".why.bad", has_text="A newer program wrote this state").wait_for()
        page.get_by_role("button", name="Forget").click()
        page.locator("dialog h2", has_text="A message of this key that runs is handled again").wait_for()
        page.locator("dialog button.main").click()
        page.wait_for_url("**/entities?actor=cart")
        page.locator("tr", has_text="newer").wait_for()
        page.goto(f"{shop}/entity?actor=cart&key=newer")
        page.wait_for_function("document.querySelector('textarea').value.includes('\"pieces\": 9')")
        page.locator(".why.bad").wait_for(state="detached")


def test_a_page_whose_object_has_gone_says_so_and_keeps_what_it_showed(shop: str, chromium: Any):
    with window(chromium) as page:
        page.goto(f"{shop}/entities?actor=cart")
        do(page, "/triggers/put", actor="till", title="once", every="1d", message="{}")
        page.goto(f"{shop}/trigger?actor=till&title=once")
        page.locator("#live[data-state=live]").wait_for()
        do(page, "/triggers/delete", actor="till", title="once")
        page.locator("#stale", has_text="This page shows what was known before").wait_for()
        page.locator("#live[data-state=trouble]").wait_for()
        assert page.locator("h1").inner_text() == "once"
        do(page, "/triggers/put", actor="till", title="once", every="2d", message="{}")
        page.locator("#stale").wait_for(state="detached")
        page.locator("dd", has_text="every 2d").wait_for()
        do(page, "/triggers/delete", actor="till", title="once")


def test_an_error_page_has_its_user_and_the_way_on(shop: str, chromium: Any):
    with window(chromium, role="viewer") as page:
        for place in ("/run?id=none", "/nowhere", "/send"):
            page.goto(f"{shop}{place}")
            assert page.locator(".user").inner_text().split() == ["ann", "viewer"]
            page.get_by_role("link", name="To the overview").wait_for()
