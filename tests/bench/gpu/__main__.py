"""What the gateway costs in front of a GPU: ``scripts/gpu_baseline.sh``, which calls this.

In one go, within `--minutes`: get llama-server, write a model of real size with random weights,
start both ways (bare, and behind the gateway with everything on), ask them in turns at several
numbers of streams, and print a table. docs/gpu-baseline.md says how to read it.

- ``random_gguf``: the model; ``machine``: what must be there, and the engine; ``ways``: both ways;
- ``replies`` (pure): what is asked and whether the answer is right; ``asking``: the load;
- ``starts``, ``rounds``: what is measured; ``figures`` (pure), ``report``: what becomes of it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.gpu.asking import WrongReply
from tests.bench.gpu.machine import (
    CannotRun,
    check_disk,
    check_folder,
    check_gpu,
    engine_of,
    look,
    memory_needed,
)
from tests.bench.gpu.random_gguf import SHAPES, Shape, write_random_gguf
from tests.bench.gpu.replies import Load
from tests.bench.gpu.report import Report, write
from tests.bench.gpu.rounds import WARM_UP_TOKENS, Plan, rounds
from tests.bench.gpu.starts import starts
from tests.bench.gpu.ways import Setup
from tests.support.ending import end_tidily

_PROGRAM = "scripts/gpu_baseline.sh"
_OUT = str(Path(__file__).parents[3] / "build" / "gpu-baseline")


def main(arguments: Sequence[str]) -> int:
    """Exit code 0; 1 when a reply was wrong; 2 when this machine or the arguments do not do."""
    args = _parse(arguments)
    plan = Plan(
        streams=args.streams,
        load=Load(args.prompt_tokens, args.tokens),
        rounds=args.rounds,
        ends_s=time.monotonic() + 60 * args.minutes,
    )
    try:
        write(_measured(args, plan, shlex.join([_PROGRAM, *arguments])), args.out)
    except CannotRun as exc:
        _say(str(exc))
        return 2
    except WrongReply as exc:
        _say(f"{exc}; the logs are in {args.out}")
        return 1
    _say(f"written to {args.out}: results.json, table.md, commands.txt")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="What the gateway costs in front of llama-server on this machine's GPU.",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--binary", type=Path, help="this llama-server; else one is built")
    parser.add_argument("--source", type=Path, help="build from this folder or archive, offline")
    parser.add_argument("--shape", choices=SHAPES, help="8b; with --device cpu small")
    parser.add_argument("--streams", type=_numbers, help="1,8,32,64; with --device cpu 1,2,4")
    parser.add_argument("--tokens", type=_number, default=256, help="of each answer (256)")
    parser.add_argument("--prompt-tokens", type=_number, default=64, help="of each question (64)")
    parser.add_argument("--rounds", type=_number, default=4, help="of each way (4)")
    parser.add_argument("--starts", type=_number, default=3, help="of each way (3)")
    parser.add_argument("--minutes", type=float, default=9.0, help="then no more rounds (9)")
    parser.add_argument("--out", type=_folder, default=_OUT, help="build/gpu-baseline")
    args = parser.parse_args(arguments)
    on_gpu = args.device == "cuda"
    args.shape = args.shape or ("8b" if on_gpu else "small")
    args.streams = args.streams or ([1, 8, 32, 64] if on_gpu else [1, 2, 4])
    return args


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 4096")
    return int(text)


def _numbers(text: str) -> list[int]:
    numbers = sorted({_number(word) for word in text.split(",")})
    if numbers[-1] > 256:
        raise argparse.ArgumentTypeError("llama-server has 256 slots at most")
    return numbers


def _folder(text: str) -> Path:
    return Path(text).resolve()


def _measured(args: argparse.Namespace, plan: Plan, command: str) -> Report:
    check_folder(args.out)
    shape: Shape = SHAPES[args.shape]
    binary, built_by = engine_of(args.device, args.binary, args.source)
    devices, about = look(binary)
    slots = max(plan.streams)
    if args.device == "cuda":
        check_gpu(devices, memory_needed(shape, plan.load, slots))
    model = _model(args.out, args.shape)
    setup = Setup(binary, model, args.device, slots, plan.load.slot_tokens, args.out)
    setup.commands["all of it"] = command
    setup.commands["llama-server"] = shlex.join(built_by) or f"given: {args.binary or args.source}"
    setup.commands["the model"] = (
        f"python -m tests.bench.gpu.random_gguf --shape {args.shape} --out {model}"
    )
    with tempfile.TemporaryDirectory(prefix="lg-gpu-") as folder:
        _say("starts and wakes")
        first_question = replace(plan.load, tokens=WARM_UP_TOKENS)
        begun = starts(setup, first_question, args.starts, Path(folder))
        pairs = rounds(setup, plan, Path(folder) / "rounds")
    return Report(about, args.device, args.shape, shape, plan.load, pairs, begun, setup.commands)


def _model(out: Path, name: str) -> Path:
    model = out / f"random-{name}.gguf"
    if not model.is_file():
        shape = SHAPES[name]
        check_disk(out, shape)
        _say(f"writing {model} ({shape.file_bytes / 1e9:.1f} GB)")
        write_random_gguf(model, shape)
    return model


def _say(text: str) -> None:
    sys.stderr.write(f"gpu_baseline: {text}\n")


if __name__ == "__main__":
    end_tidily()
    sys.exit(main(sys.argv[1:]))
