"""Reading GPUs: the tool's output, and every way in which there is none."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from backend.gpu import Gpu, parse_gpus, read_gpus

MIB = 1 << 20
TWO = """0, NVIDIA GeForce RTX 4090, 24564, 1234, 37
1, NVIDIA GeForce RTX 4090, 24564, 0, 0
"""


def tool(body: str) -> tuple[str, ...]:
    """A stand-in for the vendor's tool."""
    return (sys.executable, "-S", "-c", body)


def test_each_line_is_a_gpu() -> None:
    assert parse_gpus(TWO) == (
        Gpu(0, "NVIDIA GeForce RTX 4090", 24564 * MIB, 1234 * MIB, 37),
        Gpu(1, "NVIDIA GeForce RTX 4090", 24564 * MIB, 0, 0),
    )


@pytest.mark.parametrize("absent", ["[N/A]", "[Not Supported]", "N/A", ""])
def test_a_figure_the_driver_does_not_give_is_none(absent: str) -> None:
    (gpu,) = parse_gpus(f"0, NVIDIA GB10, {absent}, {absent}, {absent}\n")
    assert gpu == Gpu(0, "NVIDIA GB10", None, None, None)


def test_a_name_may_hold_a_comma() -> None:
    (gpu,) = parse_gpus("3, Tesla, rev. B, 100, 50, 1\n")
    assert (gpu.index, gpu.name, gpu.utilisation_percent) == (3, "Tesla, rev. B", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "No devices were found\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "x, y, 1, 2, 3\n",
        "0, short\n",
    ],
)
def test_what_is_no_gpu_is_passed_over(text: str) -> None:
    assert parse_gpus(text) == ()


def test_the_tool_is_run_and_read() -> None:
    assert read_gpus(tool(f"import sys; sys.stdout.write({TWO!r})"), 20.0) == parse_gpus(TWO)


def test_without_the_tool_there_are_no_gpus(tmp_path: Path) -> None:
    assert read_gpus((str(tmp_path / "nvidia-smi"),)) == ()


def test_a_tool_that_fails_gives_no_gpus() -> None:
    assert read_gpus(tool(f"print({TWO!r}); raise SystemExit(9)"), 20.0) == ()


def test_output_that_is_no_text_gives_no_gpus() -> None:
    assert read_gpus(tool(r"import sys; sys.stdout.buffer.write(b'\xff\xfe\x00')"), 20.0) == ()


def test_a_tool_that_hangs_is_given_up() -> None:
    started = time.monotonic()
    assert read_gpus(tool("import threading; threading.Event().wait()"), 0.05) == ()
    assert time.monotonic() - started < 10
