"""A program that is told to end leaves what it entered, and says nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys, tempfile
from tests.support.ending import end_tidily

end_tidily()
with tempfile.TemporaryDirectory() as folder:
    print(folder, flush=True)
    {wait}
"""
IN_THE_LOOP = "import asyncio, uvloop; uvloop.run(asyncio.Event().wait())"


@pytest.mark.parametrize("wait", ["signal.pause()", IN_THE_LOOP])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_its_code_and_nothing_left(number: signal.Signals, wait: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (128 + number, "")
    assert not folder.exists()
