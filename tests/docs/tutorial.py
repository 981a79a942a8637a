"""The pages of the tutorial as a reader uses them: files to write, commands to type, and what programs print.

A block of code below a line with a file's name in bold is that file; a later one replaces an earlier one. A block of
Python without a name is one line, which replaces another one. A `console` block has commands (`$ …`) and what they
print; a `text` block is what a program prints that runs already.
"""

import os
import re
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

import attrs

from tests.examples.programs import PATIENCE, until

TUTORIAL: Final = Path(__file__).parents[2] / "docs" / "tutorial"
PAGES: Final = sorted(TUTORIAL.glob("[0-9]*.md"))

_BLOCK: Final = re.compile(r"(?:^\*\*`([\w./-]+)`\*\*\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SERVING: Final = re.compile(r"python (shop|bank)\.py|redis-server |uvicorn |actorwork (run|web|top) ")
_PASSING: Final = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:]+(\.\d+)?Z?"  # a time
    r"|\b[0-9a-f]{8,32}(-[0-9a-f]{1,4})?\b"  # an id
    r"|\b\d+(\.\d+)? ?(ms|s|m|h)\b"  # a duration
    r"|\bsqlite:/\S+"
    r"|\b\d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d\b"  # a time in the name of a file
    r"|\b[\w-]+@[\w-]+\b"  # a user
    r"|[+-]\d\d:\d\d\b"  # a timezone
    r"|\[\d+\]|\bprocess \d+"
    r"|\b\d+ albums, \d+\.\d\d EUR"
    r"|\bRedis \d[\d.]*"  # a version
    r"|…"
)
"""What differs each time."""


@attrs.frozen
class Block:
    """A block of code of a page; `file` is the name that stands above it, or empty."""

    file: str
    language: str
    text: str


def blocks(page: str) -> Sequence[Block]:
    return [Block(file, language, text) for file, language, text in _BLOCK.findall(page)]


def write(block: Block, directory: Path) -> Path:
    path = directory / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")
    return path


def change(directory: Path, line: str) -> None:
    """Replace the line, the only one in the directory, that assigns to the same last name as `line`."""
    target = line.partition(" = ")[0].rpartition(" ")[2]
    assigns = re.compile(rf"^ *(\w+, )*{target} = .*\n", re.MULTILINE)
    ((path, text),) = [
        (path, text) for path in directory.glob("*.py") if assigns.search(text := path.read_text(encoding="utf-8"))
    ]
    changed, times = assigns.subn(line, text)
    assert times == 1
    path.write_text(changed, encoding="utf-8")


def files_of(number: int, directory: Path, address: str = "127.0.0.1") -> Path:
    """Write the files that a reader has at the end of a page; `address` is that of services on this machine."""
    for page in PAGES[:number]:
        for block in blocks(page.read_text(encoding="utf-8").replace("127.0.0.1", address)):
            if block.file:
                write(block, directory)
            elif block.language == "python":
                change(directory, block.text)
    return directory


def is_printed(shown: str, line: str) -> bool:
    """Whether a line is what the page shows, apart from what differs each time."""
    shown, parts, end = re.sub(" …$", "…", shown), list[str](), 0
    for passing in _PASSING.finditer(shown):
        parts += [re.escape(shown[end : passing.start()]), ".*"]
        end = passing.end()
    pattern = "".join((*parts, re.escape(shown[end:])))
    return re.fullmatch(re.sub(r"(\\ )+", r"\\s+", pattern), line.rstrip()) is not None


class Reader:
    """Follows a page in a directory: writes its files, types its commands, and looks at what they print."""

    def __init__(self, directory: Path, address: str, environment: Mapping[str, str]) -> None:
        """`address` takes the place of 127.0.0.1 wherever a page names it."""
        self.directory = directory
        self.address = address
        self._environment = {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
        self._environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1", **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._printed: defaultdict[str, list[Path]] = defaultdict(list)

    def follow(self, page: str) -> None:
        for block in blocks(page.replace("127.0.0.1", self.address)):
            if block.file:
                write(block, self.directory)
            elif block.language == "python":
                change(self.directory, block.text)
            elif block.language == "console":
                self._type(block.text)
            elif block.language == "text":
                lines = block.text.splitlines()
                if lines[0] == "^C":
                    self.stop("python shop.py")
                self._expect(lines, [path for paths in self._printed.values() for path in paths])

    def _type(self, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, *shown = re.sub(r"\\\n *", "", part).splitlines()
            if killed := re.fullmatch(r"pkill -(\w+) -f \"(.*)\"", command):
                self.stop(killed[2], int(killed[1]))
            elif re.fullmatch(r"kill -9 \d+", command):
                self._kill_child()
            elif exported := re.fullmatch(r"export (\w+)=(\S+)", command):
                self._environment[exported[1]] = exported[2]
            elif _SERVING.match(command):
                self.stop(command)  # One who types it again has stopped it.
                self._start(command)
                # What follows may have been printed before the program was killed.
                self._expect(shown[:1], [self._printed[command][-1]])
                self._expect(shown[1:], self._printed[command])
            else:
                self._run(command, shown)

    def _start(self, command: str) -> None:
        runs = self._printed[command]
        path = self.directory.with_name(f"printed-{len(self._printed)}-{len(runs)}")
        runs.append(path)
        with path.open("wb") as output:
            self._running[command] = subprocess.Popen(
                shlex.split(command), cwd=self.directory, env=self._environment, stdout=output, stderr=output
            )

    def _run(self, command: str, shown: Sequence[str]) -> None:
        """Run a command and look for the lines. One that lists is run again: a node reports soon after its start."""
        until_when = monotonic() + PATIENCE
        while True:
            ended = subprocess.run(
                ["bash", "-c", command],
                cwd=self.directory,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=2 * PATIENCE,
                check=False,
            )
            lines = iter(ended.stdout.splitlines())
            missing = [one for one in shown if one != "…" and not any(is_printed(one, line) for line in lines)]
            if not missing:
                return
            if " ls " not in command or monotonic() > until_when:
                raise AssertionError(f"$ {command}\n{ended.stdout}\nwants: {missing[0]}")

    def _expect(self, shown: Iterable[str], files: Sequence[Path]) -> None:
        """Wait until running programs have printed these lines, in any order."""
        for line in shown:
            if line not in {"…", "^C"}:
                self._wait_for(line, files)

    def _wait_for(self, line: str, files: Sequence[Path]) -> None:
        def printed() -> str:
            return "\n".join(path.read_text(encoding="utf-8") for path in files)

        def find() -> bool | None:
            return any(is_printed(line, one) for one in printed().splitlines()) or None

        until(find, f"{line!r} in:\n{{}}", printed)

    def stop(self, beginning: str, signal: int = 2) -> None:
        """End the programs whose commands begin so, as Ctrl-C does, or with another signal."""
        for command in [command for command in self._running if command.startswith(beginning)]:
            process = self._running.pop(command)
            process.send_signal(signal)
            process.wait(PATIENCE)

    def _kill_child(self) -> None:
        """Kill the first process of the tree, whose number the program has printed."""
        (printed,) = [self._printed[command][-1] for command in self._running if command.startswith("actorwork run")]
        os.kill(int(re.findall(r"drawing 1 is up: process (\d+)", printed.read_text(encoding="utf-8"))[0]), 9)

    def leave(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
