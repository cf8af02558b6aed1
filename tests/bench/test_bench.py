"""``make bench`` from end to end, without nginx and without a clock that anything hangs on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_quick_run_measures_the_gateway_with_everything_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--without-nginx"]
    command += ["--only", "embeddings", "streams16", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "CPU of a paced event at 16 streams, against nginx" in done.stdout
    told = json.loads((tmp_path / "results.json").read_text())
    for name, measured in (("embeddings", {"direct", "gateway"}), ("streams16", {"gateway"})):
        doors = told["workloads"][name]["rounds"]
        assert set(doors) == measured
        assert all(one["count"] and not one["failed"] for one in doors["gateway"])
        assert doors["gateway"][0]["us"] > 0
    assert told["workloads"]["embeddings"]["rounds"]["direct"][0]["us"] == 0
