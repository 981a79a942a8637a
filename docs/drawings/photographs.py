"""`python -m docs.drawings.photographs`: photograph the dashboard and `actorwork top`, for the README.

It runs the shop of `examples/dashboard.py` for a minute, in a directory of its own. The dashboard is shown by Chromium
(the extra `browser`), the terminal as SVG by rich. What they show is what that shop did, so it differs each time.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from actorwork.brokers import open_broker
from actorwork.cli.top import screen_of
from actorwork.inspection import Inspection

ROOT: Final = Path(__file__).parents[2]
PICTURES: Final = ROOT / "docs" / "pictures"
UNTIL_BUSY: Final = 60.0
"""Seconds until enough has happened, and gone wrong."""
PATIENCE: Final = 60.0
COLUMNS: Final = 128


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


def wait_until_served(url: str) -> None:
    """Wait for the dashboard; raises `OSError` if it is not served within a minute."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - a server started here
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def photograph_dashboard(url: str, directory: str) -> None:
    """Write `dashboard.png`. The address of the broker is shown without the directory, which is gone afterwards."""
    driver: Any = importlib.import_module("playwright.sync_api")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 1060}).new_page()
        page.goto(url)
        page.wait_for_selector("text=What needs a person")
        while True:
            page.evaluate(
                "([from]) => document.querySelectorAll('main *').forEach(element => {"
                " if (!element.children.length) element.textContent = element.textContent.replace(from, '') })",
                [f"{directory}/"],
            )
            page.screenshot(path=PICTURES / "dashboard.png")
            # The page follows what happens: it may have been drawn again in between.
            if directory not in page.inner_text("main"):
                break
        browser.close()


def photograph_top(broker: str, directory: str) -> None:
    """Write `top.svg`: one look of `actorwork top`, without the directory, as above."""

    async def look() -> Any:
        async with open_broker(broker) as opened:
            return await Inspection(opened).overview()

    out = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    out.print("[bold green]$[/] actorwork top", highlight=False)
    screen: Any = screen_of(trio.run(look))
    head: Any = screen.renderables[0]
    out.print(Text(head.plain.replace(f"{directory}/", ""), style="bold"), *screen.renderables[1:], sep="\n")
    drawn = out.export_svg(title="actorwork top", theme=MONOKAI, unique_id="top")
    # The font would be fetched from another site, which a picture may not do: any monospaced one will do.
    drawn = re.sub(r" *@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    fonts = 'font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace'
    drawn = drawn.replace("font-family: Fira Code, monospace", fonts)
    (PICTURES / "top.svg").write_text(drawn.rstrip() + "\n", encoding="utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        broker = f"sqlite:///{directory}/shop.db"
        port = free_port()
        command = [sys.executable, str(ROOT / "examples" / "dashboard.py"), "--broker", broker]
        command += ["--listen", f"127.0.0.1:{port}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.DEVNULL) as shop:
            try:
                wait_until_served(f"http://127.0.0.1:{port}/")
                time.sleep(UNTIL_BUSY)
                photograph_dashboard(f"http://127.0.0.1:{port}/", directory)
                photograph_top(broker, directory)
            finally:
                shop.terminate()


if __name__ == "__main__":
    main()
