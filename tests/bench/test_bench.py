"""``make bench`` from end to end, without nginx and without a clock that anything hangs on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.cpu import family

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


def test_end_by_a_signal_leaves_no_process_and_no_folder_behind(
    tmp_path: Path, short_dir: Path
) -> None:
    """SIGTERM ends with 143, Ctrl+C with 130, one line and what was measured until then."""
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        out, scratch = tmp_path / number.name, short_dir / f"{number:d}"
        scratch.mkdir()
        command = [sys.executable, "-m", "tests.bench", "--quick", "--without-nginx"]
        command += ["--only", "embeddings", "streams16", "--rounds", "999", "--out", str(out)]
        with subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as bench:  # fmt: skip
            assert bench.stderr is not None
            said = ""
            while "embeddings  gateway" not in said:
                said = bench.stderr.readline()
                assert said
            children = family(bench.pid)
            bench.send_signal(number)
            told, errors = bench.communicate(timeout=60)
        assert (bench.returncode, told) == (code, ""), errors
        assert len(children) == 3  # the generator, the gateway, its engine
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        assert not list(scratch.glob("lg-bench-*"))
        assert "Traceback" not in errors
        assert (out / "results.json").exists() == (number == signal.SIGINT)
        assert errors.count("stopped") == (number == signal.SIGINT)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--rounds", "0"], "'0' is not a whole number of 1 or more"),
        (["--out", "/dev/null/x"], "no file can be written there"),
    ],
)
def test_wrong_option_is_told_before_anything_is_measured(
    wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
