"""Chaos: real processes under random faults, for as long as you like.

    python -m tests.chaos --seconds 60 --seed 7
    python -m tests.chaos --seconds 3600 --acts kept,embedded --verbose
    python -m tests.chaos --cluster --seconds 60 --seed 7
    python -m tests.chaos --chords 1000 --seed 7 --broker sqlite
    python -m tests.chaos --entities 60 --seed 7 --cluster

A run has rounds of a minute. The first one has the given seed, each further one the next seed. A round has four acts:

    kept        Redis with an append-only file: nothing may be lost, nothing settled twice
    forgetful   Redis without one, killed and flushed: only messages that it forgot may be lost
    embedded    the embedded broker: as `kept`
    cluster     three primaries with a replica each, of which slots move and primaries change, die, come back and
                are parted from each other: as `kept`

With `--chords` there is one act instead, of that many chords of ten members, at Redis, the embedded broker or, with
`--cluster`, a cluster. Faults of nodes, and on a cluster all others, go on until the last one was started; each body
must run to one accepted end, with the values of its own members. With `--entities` there is one of numbers that are
appended to the states of 200 keys, for that many seconds: each state must list its own, once and in order.

A failing run prints the command that repeats it. The plan of faults is then the same, but the timing is not, so
repeat it more than once.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from actorwork.groups import leaves

from .chord_act import BROKERS, ChordAct
from .cluster_act import ClusterAct, ClusterChordAct, ClusterEntityAct
from .entity_act import EntityAct
from .environment import Act

SHARES: Final = {"kept": 0.5, "forgetful": 0.25, "embedded": 0.25, "cluster": 0.25}
ROUND: Final = 60.0
CHORDS: Final = 1000
ENTITIES: Final = 60.0


def tell(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a program, and printing is what it does


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Random faults, and an account at the end."
    )
    parser.add_argument("--seconds", type=float, default=60, help="seconds of faults, in all (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the first round (default: random)")
    parser.add_argument("--acts", default=",".join(SHARES), help="acts to play, separated by commas (default: all)")
    parser.add_argument("--cluster", action="store_true", help="--acts cluster, or --broker cluster")
    parser.add_argument(
        "--chords", type=int, nargs="?", const=CHORDS, help=f"play chords: how many (default: {CHORDS})"
    )
    parser.add_argument(
        "--entities", type=float, nargs="?", const=ENTITIES, help=f"play entities: seconds (default: {ENTITIES:g})"
    )
    parser.add_argument("--broker", choices=BROKERS, default="redis", help="broker of these two (default: redis)")
    parser.add_argument("--verbose", action="store_true", help="print each fault")
    chosen = parser.parse_args(arguments)
    acts = ["cluster"] if chosen.cluster else chosen.acts.split(",")
    broker = "cluster" if chosen.cluster else chosen.broker
    if unknown := [act for act in acts if act not in SHARES]:
        parser.error(f"no act {', '.join(unknown)}; there are {', '.join(SHARES)}")
    seed = random.randrange(1_000_000) if chosen.seed is None else chosen.seed
    if chosen.chords is not None and chosen.chords < 1:
        parser.error(f"--chords wants a number of at least 1, got {chosen.chords}")
    if chosen.chords is not None:
        return 0 if play_chords(seed, chosen.chords, broker, is_verbose=chosen.verbose) else 1
    if chosen.entities is not None:
        return 0 if play_entities(seed, chosen.entities, broker, is_verbose=chosen.verbose) else 1
    left = chosen.seconds
    number = 0
    while left > 0:
        seconds = min(left, ROUND)
        left -= seconds
        if not play_round(seed + number, seconds, acts, is_verbose=chosen.verbose):
            return 1
        number += 1
    return 0


def play_round(seed: int, seconds: float, acts: Sequence[str], *, is_verbose: bool) -> bool:
    again = f"python -m tests.chaos --seconds {seconds:g} --seed {seed} --acts {','.join(acts)} --verbose"
    tell(f"chaos for {seconds:g} s; to repeat it: {again}")
    whole = sum(SHARES[act] for act in acts)

    def in_turn(folder: Path, say: Callable[[str], None]) -> Iterator[Act]:
        for name in acts:
            kind = ClusterAct if name == "cluster" else Act
            yield kind(name, seed, seconds * SHARES[name] / whole, folder / name, say=say)

    return play(in_turn, again, is_verbose=is_verbose)


def play_chords(seed: int, count: int, broker: str, *, is_verbose: bool) -> bool:
    again = f"python -m tests.chaos --chords {count} --seed {seed} --broker {broker} --verbose"
    tell(f"chaos for {count} chords; to repeat it: {again}")

    def in_turn(folder: Path, say: Callable[[str], None]) -> Iterator[Act]:
        kind = ClusterChordAct if broker == "cluster" else ChordAct
        yield kind(broker, count, seed, folder / "chords", say=say)

    return play(in_turn, again, is_verbose=is_verbose)


def play_entities(seed: int, seconds: float, broker: str, *, is_verbose: bool) -> bool:
    again = f"python -m tests.chaos --entities {seconds:g} --seed {seed} --broker {broker} --verbose"
    tell(f"chaos with entities for {seconds:g} s; to repeat it: {again}")

    def in_turn(folder: Path, say: Callable[[str], None]) -> Iterator[Act]:
        kind = ClusterEntityAct if broker == "cluster" else EntityAct
        yield kind(broker, seconds, seed, folder / "entities", say=say)

    return play(in_turn, again, is_verbose=is_verbose)


def play(in_turn: Callable[[Path, Callable[[str], None]], Iterator[Act]], again: str, *, is_verbose: bool) -> bool:
    """Play acts one after another; return whether all of their promises were kept."""
    folder = Path(tempfile.mkdtemp(prefix="actorwork-chaos-"))
    began = time.monotonic()
    told: list[str] = []

    def say(text: str) -> None:
        told.append(f"{time.monotonic() - began:7.2f} {text}")
        if is_verbose:
            tell(told[-1])

    for act in in_turn(folder, say):
        try:
            tell(f"  {trio.run(act.play, strict_exception_groups=True)}")
        except Exception as error:  # noqa: BLE001 - every failure is reported with its seed
            if not is_verbose:
                tell("\n".join(told[-40:]))
            for leaf in leaves(error):
                tell("".join(traceback.format_exception(leaf)))
            tell(f"failed in {act.name} with seed {act.seed}; logs and notes are in {folder}")
            tell(f"to repeat it: {again}")
            return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
