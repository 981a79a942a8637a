"""The examples of the chapter on web frameworks are run, so that they cannot rot."""

import ast
import asyncio
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from actorwork import Actor, Settings, SystemThread, receive
from tests.patience import PATIENCE

CHAPTER = Path(__file__).parents[2] / "docs" / "integrations.md"


class Greeter(Actor):
    settings = Settings(title="greeter")

    @receive
    async def greet(self, *, name: str) -> str:
        return f"Hello {name}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    url = f"sqlite:///{tmp_path_factory.mktemp('chapter') / 'messages.db'}"
    with SystemThread(Greeter, broker=url):
        yield url


def section(title: str, url: str, defined: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run the examples of a section; return what they define."""
    defined = {} if defined is None else defined
    defined |= {"__name__": "chapter", "url": url}
    for example in examples(title):
        exec(compile(example, str(CHAPTER), "exec"), defined)
    return defined


def examples(title: str) -> list[str]:
    (text,) = re.findall(
        rf"^## {title}\n(.*?)(?=^## |\Z)", CHAPTER.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    found: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return found


def test_the_section_on_fastapi(url: str) -> None:
    chapter = section("FastAPI and Starlette", url)
    with TestClient(chapter["app"]) as browser:
        sent = browser.post("/greetings/Ann").json()
        assert "event: end" in browser.get(f"/greetings/{sent}/events").text
    chapter["app"].router.lifespan_context = chapter["own"]
    with TestClient(chapter["app"]) as browser:
        assert browser.post("/greetings/Ann").status_code == 202


def test_the_section_on_django(django_settings: Any) -> None:
    chapter = section("Django", "")
    interface = importlib.import_module("actorwork.integrations.django.interface")
    assert set(chapter["INSTALLED_APPS"]) <= set(django_settings.INSTALLED_APPS)
    with importlib.import_module("django.test").override_settings(TASKS=chapter["TASKS"]):
        backend = interface.tasks().task_backends["default"]
        assert backend.check() == []
        assert [backend.chosen.settings_of(queue).concurrency for queue in ("default", "mail")] == [8, 2]
    sent: list[str] = []
    chapter["place_order"](importlib.import_module("django.db").transaction, SimpleNamespace(enqueue=sent.append), "x")
    assert sent == ["x"]


def test_the_section_on_flask(url: str) -> None:
    chapter = section("Flask", url)
    app = chapter["create_app"]()
    sent = app.test_client().post("/greetings/Ann").text
    with app.app_context():
        assert chapter["actors"].client.receipt(sent).result(timeout=PATIENCE) == "Hello Ann"
    chapter["actors"].close(app)


async def test_the_section_on_quart(tmp_path: Path) -> None:
    chapter = section("Quart-Trio", f"sqlite:///{tmp_path / 'messages.db'}")
    async with chapter["app"].test_app() as serving:
        answer = await serving.test_client().get("/greet/Ann")
        assert await answer.get_data(as_text=True) == "Hello Ann"


@pytest.mark.usefixtures("no_litestar_logs")
def test_the_section_on_litestar(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("chapter")  # Litestar looks there for what annotations name.
    monkeypatch.setitem(sys.modules, "chapter", module)
    chapter = section("Litestar", url, vars(module))
    with importlib.import_module("litestar.testing").TestClient(chapter["app"]) as browser:
        sent = browser.post("/greetings/Ann").text
        assert "event: end" in browser.get(f"/greetings/{sent}/events").text


def test_the_cells_of_the_section_on_notebooks(url: str) -> None:
    """Each cell runs in a task of its own on the loop of the kernel, and may await: so does ipykernel run them."""
    notebook: dict[str, Any] = {"__name__": "__main__", "url": url}
    printed: list[str] = []
    notebook["print"] = printed.append

    async def run_cell(source: str) -> None:
        running = eval(compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), notebook)
        if running is not None:
            await running

    async def kernel() -> None:
        async with asyncio.timeout(60):
            for cell in examples("Notebooks"):
                await asyncio.create_task(run_cell(cell))

    asyncio.run(kernel())
    assert notebook["words"] == 2
    assert printed[-1] == "SUCCESS"
    notebook["client"].close()
