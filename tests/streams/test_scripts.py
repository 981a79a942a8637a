"""The server knows a script by the SHA-1 of its text: a wrong digest would have each call load it again."""

import hashlib

from actorwork.streams import scripts
from actorwork.streams.transport.commands import Script


def test_the_digest_of_each_script_is_that_of_its_whole_text() -> None:
    every = [value for value in vars(scripts).values() if isinstance(value, Script)]
    assert set(scripts.ALL) <= set(every)
    for script in every:
        assert script.sha == hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest(), script
