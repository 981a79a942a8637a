# pyright: basic, reportMissingImports=false, reportMissingTypeStubs=false
"""thespian, with all actors in one process (`simpleSystemBase`): with a process for each it is hardly comparable."""

from typing import Any

from thespian.actors import Actor, ActorExitRequest, ActorSystem

from benchmarks.actors.measuring import Cases, Figures, Stopwatch, main, memory, resident


class Counter(Actor):
    n = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - thespian calls it so
        if message == "get":
            self.send(sender, self.n)
        elif isinstance(message, int):
            self.n += 1


def tell(n: int) -> Figures:
    system = ActorSystem("simpleSystemBase")
    counter = system.createActor(Counter)
    system.ask(counter, "get", 5)
    watch = Stopwatch()
    for i in range(n):
        system.tell(counter, i)
    assert system.ask(counter, "get", 30) == n
    return watch.rate(n)


def ask(n: int) -> Figures:
    system = ActorSystem("simpleSystemBase")
    counter = system.createActor(Counter)
    system.ask(counter, "get", 5)
    watch = Stopwatch()
    for _ in range(n):
        system.ask(counter, "get", 5)
    return watch.rate(n)


def spawn_stop(n: int) -> Figures:
    system = ActorSystem("simpleSystemBase")
    watch = Stopwatch()
    for _ in range(n):
        counter = system.createActor(Counter)
        system.ask(counter, "get", 5)
        system.tell(counter, ActorExitRequest())
    return watch.rate(n)


def idle(n: int) -> Figures:
    system = ActorSystem("simpleSystemBase")
    before = resident()
    actors = [system.createActor(Counter) for _ in range(n)]
    system.ask(actors[0], "get", 5)
    return memory(n, before)


CASES: Cases = {
    "tell": (20_000, tell),
    "ask_timeout": (10_000, ask),
    "spawn_stop": (1_000, spawn_stop),
    "memory": (5_000, idle),
}

if __name__ == "__main__":
    main("thespian", CASES)
