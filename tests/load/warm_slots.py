"""Does it pay to keep prompt caches over an unload? ``python -m tests.load.warm_slots``

The demo model on the real engine, one thread for computing. A prompt is processed, its slot is
written to a file, the process is killed; in a new process the same prompt with a short continuation
is asked for, once after a restore and once without. What is measured: the size of the file, how
long it takes to write, to read and hash from the disk (the gateway looks whether a file is whole
before it is restored) and to restore,
and the time to the first token of the continuation. The two kinds take turns in one run, so that
a machine that is busy with other things is unfair to neither.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from backend import EngineSettings, FindSettings, find, resolve
from gateway.config import load
from gateway.wiring import model_settings
from tests.support.engine_process import running_engine

__all__ = ["Round", "measure"]

_PROMPTS = (250, 1000, 3500)
_CONTEXT = 4096
_FILE = "slot-0.bin"
_HEAD = """\
| prompt | file | save | read, hash | restore | TTFT, restored | TTFT, computed | ratio |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Round:
    """One prompt, once restored and once computed. Times in seconds."""

    tokens: int
    file_bytes: int
    save_s: float
    hash_s: float
    restore_s: float
    warm_ttft_s: float
    cold_ttft_s: float
    warm_cached: int

    @property
    def ratio(self) -> float:
        """How many times faster a restore and the rest of the prompt are than the whole prompt."""
        return self.cold_ttft_s / (self.hash_s + self.restore_s + self.warm_ttft_s)


def measure(settings: EngineSettings, tokens: int, seed: int) -> Round:
    """One round.

    Args:
        settings: With a folder for the files.
        tokens: About so many the prompt shall have.
        seed: Prompts of different seeds have nothing in common.
    """
    folder = settings.slot_save_dir
    assert folder is not None
    chat = _conversation(tokens, seed)
    with _started(settings) as engine:
        prompt_tokens = _ask(engine, chat[:1]).prompt_tokens
        save_s = _timed(lambda: _act(engine, "save"))
    size = (folder / _FILE).stat().st_size
    _forget(folder / _FILE)
    with _started(settings) as engine:
        hash_s = _timed(lambda: _hash(folder / _FILE))
        restore_s = _timed(lambda: _act(engine, "restore"))
        warm = _ask(engine, chat)
    with _started(settings) as engine:
        cold = _ask(engine, chat)
    (folder / _FILE).unlink()
    assert cold.cached_tokens == 0, cold
    return Round(
        prompt_tokens, size, save_s, hash_s, restore_s, warm.ttft_s, cold.ttft_s, warm.cached_tokens
    )


@dataclass(frozen=True, slots=True)
class _Reply:
    ttft_s: float
    prompt_tokens: int
    cached_tokens: int


def _started(settings: EngineSettings) -> AbstractContextManager[httpx.Client]:
    assert settings.slot_save_dir is not None
    return running_engine(settings, settings.slot_save_dir.parent)


def _ask(engine: httpx.Client, messages: list[dict[str, str]]) -> _Reply:
    """An answer of one token: when it is there, the first token is."""
    body: dict[str, Any] = {"messages": messages, "max_tokens": 1, "id_slot": 0}
    began_s = time.perf_counter()
    reply = engine.post("/v1/chat/completions", json=body, timeout=300).json()
    took_s = time.perf_counter() - began_s
    usage = reply["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return _Reply(took_s, usage["prompt_tokens"], cached)


def _act(engine: httpx.Client, action: str) -> None:
    engine.post(f"/slots/0?action={action}", json={"filename": _FILE}).raise_for_status()


def _forget(path: Path) -> None:
    """Out of the page cache with it: between an unload and a wake there may be hours."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _hash(path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def _timed(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _conversation(tokens: int, seed: int) -> list[dict[str, str]]:
    """A prompt, an answer, and a short question after it. A sentence has some twelve tokens."""
    sentences = (
        f"Item {seed * 1000 + number} costs {number * 7919 % 1000}." for number in range(tokens)
    )
    text, count = "", tokens // 12
    for _ in range(count):
        text += next(sentences) + " "
    return [
        {"role": "user", "content": text},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "And which of them costs the least?"},
    ]


def _demo(folder: Path, threads: int) -> EngineSettings:
    """The demo model as the gateway would start it, with one slot."""
    found = find(FindSettings())
    assert found is not None, "no llama-server here: run 'make setup'"
    model = resolve(model_settings(load({}).settings))
    return EngineSettings(
        binary=found.path,
        model=model.path,
        alias="demo",
        ctx=_CONTEXT,
        parallel=1,
        threads=threads,
        slot_save_dir=folder,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    sys.stdout.write(_HEAD)
    with tempfile.TemporaryDirectory(prefix="lg-warm-") as place:
        folder = Path(place, "slots")
        folder.mkdir(mode=0o700)
        settings = _demo(folder, given.threads)
        for tokens in _PROMPTS:
            rounds = [measure(settings, tokens, seed) for seed in range(1, given.rounds + 1)]
            sys.stdout.write(_row(rounds) + "\n")
            sys.stdout.flush()


def _row(rounds: list[Round]) -> str:
    def ms(name: str) -> str:
        return f"{1000 * median(getattr(each, name) for each in rounds):,.1f} ms"

    first = rounds[0]
    ratios = sorted(each.ratio for each in rounds)
    return (
        f"| {first.tokens} | {first.file_bytes / (1 << 20):.1f} MiB | {ms('save_s')} | "
        f"{ms('hash_s')} | {ms('restore_s')} | {ms('warm_ttft_s')} | {ms('cold_ttft_s')} | "
        f"{median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f}) |"
    )


if __name__ == "__main__":
    main()
