"""What is left behind: the table on standard output and in a file, results.json, commands.txt."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.gpu.figures import Pair, Row, Start, row_of, starts_table, streams_table
from tests.bench.gpu.random_gguf import Shape
from tests.bench.gpu.replies import Load

__all__ = ["Report", "write"]

_GOAL = 0.99
_NO_VERDICT = (
    "no verdict: engine, gateway and client share the cores, so only the program itself was tried"
)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured, and how."""

    machine: Mapping[str, str]
    device: str
    shape_name: str
    shape: Shape
    load: Load
    rounds: Mapping[int, Sequence[Pair]]
    """By the number of streams."""
    starts: Mapping[str, Sequence[Start]]
    commands: Mapping[str, str]

    @property
    def rows(self) -> list[Row]:
        """What the rounds say, in order of the streams."""
        return [row_of(streams, pairs) for streams, pairs in self.rounds.items()]

    @property
    def text(self) -> str:
        """For people."""
        asked, answered = self.load.prompt_tokens, self.load.tokens
        return "\n".join(
            [
                f"model: {self.shape_name} shape, {self.shape.weights / 1e9:.2f} billion random "
                f"weights, Q4_0, on {self.device}; {asked} tokens asked, {answered} answered",
                *(f"{name}: {text}" for name, text in self.machine.items() if text),
                "",
                streams_table(self.rows),
                "",
                starts_table(self.starts),
                "",
                _verdict(self.rows) if self.device == "cuda" else _NO_VERDICT,
                "",
            ]
        )

    @property
    def values(self) -> dict[str, object]:
        """For programs."""
        return {
            "machine": dict(self.machine),
            "device": self.device,
            "shape": {"name": self.shape_name, **asdict(self.shape)},
            "load": asdict(self.load),
            "streams": [asdict(row) for row in self.rows],
            "rounds": {
                streams: [{"direct": asdict(bare), "gateway": asdict(ours)} for bare, ours in pairs]
                for streams, pairs in self.rounds.items()
            },
            "starts": {name: [asdict(one) for one in all_] for name, all_ in self.starts.items()},
            "commands": dict(self.commands),
        }


def write(report: Report, out: Path) -> None:
    """Print the table, and leave it in *out* with the values and the commands."""
    listed = "\n".join(f"# {name}\n{command}\n" for name, command in report.commands.items())
    (out / "results.json").write_text(json.dumps(report.values, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(report.text, encoding="utf-8")
    (out / "commands.txt").write_text(listed, encoding="utf-8")
    sys.stdout.write(report.text)


def _verdict(rows: Sequence[Row]) -> str:
    worst = min(rows, key=lambda row: row.ratio)
    met = "met" if worst.ratio >= _GOAL else "missed"
    return (
        f"goal, {_GOAL:.0%} of the direct tokens/s: {met} "
        f"(least {worst.ratio:.1%}, at {worst.streams} streams)"
    )
