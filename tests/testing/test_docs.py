"""The examples of the chapter on testing are tests, and they pass."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CHAPTER = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", CHAPTER, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_chapter_pass(
    pytester: pytest.Pytester, outcomes: Callable[[], tuple[int, int, list[str]]]
):
    pytester.makeini("[pytest]\nactorwork_async = true\nactorwork_timeout = 30\nfilterwarnings = error\n")
    pytester.makepyfile(test_chapter="\n\n".join(EXAMPLES))
    assert outcomes() == (CHAPTER.count("async def test_"), 0, [])


@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda example: re.findall(r"test_\w+", example)[0])
def test_an_example_is_short(example: str):
    assert len(example.splitlines()) <= 9
