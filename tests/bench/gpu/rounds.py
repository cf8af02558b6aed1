"""The rounds: both ways stand side by side, warm, and are asked in turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.gpu.asking import Target, run, wave
from tests.bench.gpu.figures import Pair, Wave
from tests.bench.gpu.machine import CannotRun
from tests.bench.gpu.replies import Load
from tests.bench.gpu.ways import Setup, bare, behind, differing_arguments, engine_below

__all__ = ["WARM_UP_TOKENS", "Plan", "rounds"]

WARM_UP_TOKENS = 8
_LEAST_REQUESTS = 8
"""In each round: few streams ask several times, one after another."""
_FIRST_NUMBER = 100
"""Of the prompts, none of which is asked twice; the starts have the ones before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    streams: Sequence[int]
    load: Load
    rounds: int
    ends_s: float
    """On the monotonic clock: rounds that would end later are left out, but for the first."""


def rounds(setup: Setup, plan: Plan, folder: Path) -> dict[int, list[Pair]]:
    """
    Measure all rounds; by number of streams.

    Args:
        folder: For the gateway's keys; it must not exist.
    """
    with ExitStack() as stack:
        gateway = stack.enter_context(behind(setup, folder))
        assert gateway.service is not None
        gateway.service.wait_for("ready: http://", 300)
        direct = stack.enter_context(bare(setup)).target
        through = _with_engine(setup, gateway.target)
        if others := differing_arguments(direct.pids["engine"], through.pids["engine"]):
            raise CannotRun(f"the engines have different arguments: {' '.join(others)}")
        return run(_in_turns(direct, through, plan))


def _with_engine(setup: Setup, target: Target) -> Target:
    engine = engine_below(target.pids["gateway"], setup.binary)
    return replace(target, pids={**target.pids, "engine": engine})


async def _in_turns(direct: Target, gateway: Target, plan: Plan) -> dict[int, list[Pair]]:
    number = await _warm_up((direct, gateway), plan)
    pairs: dict[int, list[Pair]] = {streams: [] for streams in plan.streams}
    for turn in range(plan.rounds):
        for streams, found in pairs.items():
            if turn and time.monotonic() + _lasted_s(found[-1]) > plan.ends_s:
                continue
            # Whoever came first comes second in the next round: what drifts meets both.
            order = (direct, gateway) if turn % 2 == 0 else (gateway, direct)
            found.append(await _pair(order, plan.load, streams, number))
            number += 2 * max(_LEAST_REQUESTS, streams)
        _tell(turn, plan, pairs)
    return pairs


async def _warm_up(targets: Sequence[Target], plan: Plan) -> int:
    load, number = replace(plan.load, tokens=WARM_UP_TOKENS), _FIRST_NUMBER
    for target in targets:
        await wave(target, load, max(plan.streams), 1, number)
        number += max(plan.streams)
    return number


async def _pair(order: Sequence[Target], load: Load, streams: int, number: int) -> Pair:
    turns = max(1, _LEAST_REQUESTS // streams)
    found: dict[str, Wave] = {}
    for target in order:
        found[target.name] = await wave(target, load, streams, turns, number)
        number += turns * streams
    return found["direct"], found["gateway"]


def _lasted_s(pair: Pair) -> float:
    return sum(wave.wall_s for wave in pair)


def _tell(turn: int, plan: Plan, pairs: dict[int, list[Pair]]) -> None:
    newest = [(streams, found[-1][1]) for streams, found in pairs.items()]
    speeds = ", ".join(f"{streams}: {one.tokens / one.wall_s:,.0f}" for streams, one in newest)
    sys.stderr.write(
        f"gpu_baseline: round {turn + 1} of {plan.rounds}; through the gateway, tokens/s by "
        f"streams: {speeds}\n"
    )
