"""The actor to which the applications send.

actorwork run examples.frameworks.actors:Counter
"""

import attrs
import trio

from actorwork import Actor, Message, Settings, receive


@attrs.frozen
class Count(Message["Counter", int]):
    text: str


class Counter(Actor):
    settings = Settings(title="counter", execution_timeout="1m")

    @receive
    async def count(self, message: Count) -> int:
        words = message.text.split()
        for number, word in enumerate(words, start=1):
            await trio.sleep(0.001)  # Counting is hard work.
            self.context.progress(number, len(words), word)
        return len(words)
