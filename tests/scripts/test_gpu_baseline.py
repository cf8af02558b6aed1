"""scripts/gpu_baseline.sh: its model, its arithmetic, and a run on a CPU with the small shape."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from backend import validate
from tests.bench.gpu.figures import Start, Wave, percentile, row_of, starts_table, streams_table
from tests.bench.gpu.machine import CannotRun, check_disk, check_gpu, devices_in, memory_needed
from tests.bench.gpu.random_gguf import CONTROL, SHAPES, Shape, write_random_gguf
from tests.bench.gpu.replies import Load, begins_text, body_of, problem_of
from tests.bench.gpu.ways import repeatable

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_baseline.sh"
TINY = Shape(layers=1, dim=64, heads=2, kv_heads=1, ffn=96, vocab=300)


def test_script_measures_both_ways_with_the_real_engine(llama_server: Path, tmp_path: Path) -> None:
    """Whatever has not exactly the tokens asked for ends it with exit code 1."""
    words = "--device cpu --streams 1,2 --tokens 12 --prompt-tokens 9 --rounds 1 --starts 1"
    done = subprocess.run(
        [SCRIPT, *words.split(), "--binary", llama_server, "--out", tmp_path],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    info = validate(tmp_path / "random-small.gguf")
    assert (info.architecture, info.embedding_size, info.has_chat_template) == ("llama", 512, True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["streams"] for row in results["streams"]] == [1, 2]
    assert all(len(found) == 1 for found in results["starts"].values())
    assert done.stdout == (tmp_path / "table.md").read_text()
    commands = (tmp_path / "commands.txt").read_text()
    assert f"'LLAMA_API_KEY=***' {llama_server} --model" in commands
    for words in ("IDLE_ACTION=unload", " DATA_DIR=/", " PORT=", f"{sys.executable} -m gateway"):
        assert words in commands
    assert " PORT=0 " not in commands
    assert [len(results["rounds"][streams]) for streams in ("1", "2")] == [1, 1]
    assert {"date", "commit", "cpu", "system"} <= results["machine"].keys()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--streams a", 2, "'a' is not a whole number from 1 to 4096"),
        ("--out /proc/none", 2, "--out /proc/none: "),
        (
            "--device cpu --binary /bin/true --out {}",
            2,
            "ended before it was ready, with exit code 0",
        ),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, words: str, code: int, said: str) -> None:
    done = subprocess.run(
        [SCRIPT, *words.format(tmp_path).split()],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_can_be_repeated_and_tell_no_key() -> None:
    env = {"LLAMA_API_KEY": "hush", "MAX_QUEUE_PER_KEY": "7", "DATA_DIR": "/a b"}
    told = repeatable(env, ["serve", "--now"])
    assert told == "env -i 'LLAMA_API_KEY=***' MAX_QUEUE_PER_KEY=7 'DATA_DIR=/a b' serve --now"


def test_same_arguments_give_the_same_model(tmp_path: Path) -> None:
    paths = [write_random_gguf(tmp_path / name, TINY) for name in ("one.gguf", "two.gguf")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths


def test_weights_are_scaled_noise_and_no_end_can_be_chosen(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(write_random_gguf(tmp_path / "model.gguf", TINY))
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in reader.tensors
    }
    query = weights["blk.0.attn_q.weight"]
    assert query.shape == (TINY.dim, TINY.dim)
    assert query.std() == pytest.approx(1 / math.sqrt(TINY.dim), rel=0.05)
    assert abs(query.mean()) < query.std() / 10
    silent = len(CONTROL) + 256
    assert not weights["output.weight"][:silent].any()
    assert np.abs(weights["output.weight"][silent:]).sum(axis=1).all()


def test_the_large_shape_is_an_8b_model() -> None:
    shape = SHAPES["8b"]
    assert 8.0e9 < shape.weights < 8.1e9
    assert 4.5e9 < shape.file_bytes < 4.6e9
    assert shape.kv_bytes_a_token == 128 << 10


LOAD = Load(prompt_tokens=8, tokens=2)


def reply(*texts: str, tokens: int = 2) -> bytes:
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": None}}]}]
    chunks += [{"choices": [{"delta": {"content": text}}]} for text in texts]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "length"}]}]  # type: ignore[list-item]
    chunks += [{"choices": [], "usage": {"completion_tokens": tokens}}]  # type: ignore[dict-item]
    words = [json.dumps(chunk, separators=(",", ":")) for chunk in chunks]
    return b"".join(f"data: {word}\n\n".encode() for word in [*words, "[DONE]"])


def test_reply_as_asked_for_has_no_problem() -> None:
    assert problem_of(200, reply(" abcd", " efgh"), LOAD) is None
    assert problem_of(200, b": queued position=1\n\n" + reply(" abcd", " efgh"), LOAD) is None


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (429, b"{}", "status 429"),
        (200, b"", "without [DONE]"),
        (200, reply(" abcd", " efgh")[:-20], "without [DONE]"),
        (200, reply(" abcd", tokens=1), "[1] tokens, 2 were asked for"),
        (200, reply(" abcd efgh"), "1 events with text for 2 tokens"),
    ],
)
def test_reply_of_another_length_is_told(status: int, body: bytes, said: str) -> None:
    assert said in (problem_of(status, body, LOAD) or "")


def test_text_begins_with_the_first_token_not_with_the_role() -> None:
    whole = reply(" abcd", " efgh")
    begins = [begins_text(whole[:end]) for end in range(len(whole))]
    assert begins == sorted(begins)
    assert begins.index(True) == whole.index(b'" abcd') + 2


def test_prompts_are_as_long_as_asked_for_and_begin_differently() -> None:
    prompts = [
        json.loads(body_of(Load(20, 1), number))["messages"][0]["content"] for number in range(1000)
    ]
    assert {len(prompt) for prompt in prompts} == {20}
    assert len({prompt[:8] for prompt in prompts}) == 1000


def test_a_slot_has_room_for_the_prompt_and_the_answer() -> None:
    assert Load(64, 256).slot_tokens == 512
    assert Load(64, 128).slot_tokens == 256


def waves(*walls_s: float, gateway: float = 0.0, ttft: float = 0.1, asked: int = 40) -> list[Wave]:
    cpu = {"client": 0.5, "engine": 1.0, "gateway": gateway}
    return [Wave(1000, wall_s, (ttft, 3 * ttft) * (asked // 2), cpu) for wall_s in walls_s]


def test_row_compares_the_rounds_pair_by_pair() -> None:
    direct, through = waves(10, 5, 8), waves(10, 5.5, 10, gateway=0.2, ttft=0.11)
    row = row_of(2, list(zip(direct, through, strict=True)))
    assert (row.streams, row.rounds) == (2, 3)
    assert (row.direct_tokens_s, row.gateway_tokens_s) == (125, 100)
    assert (row.ratio_low, row.ratio_high) == (0.8, 1)
    assert row.ratio == pytest.approx(5 / 5.5)
    assert row.direct_ttft_p50 == pytest.approx(200)
    assert row.added_ttft_p50 == pytest.approx(20)
    assert row.added_ttft_p99 == pytest.approx(30)
    assert row.gateway_core == pytest.approx(0.6 / 25.5)
    assert row.gateway_us_a_token == pytest.approx(200)
    assert row.client_core == pytest.approx(1.5 / 23)
    assert "90.9% (80.0% to 100.0%)" in streams_table([row])


def test_p99_of_few_requests_is_not_told() -> None:
    few = [(bare, ours) for bare, ours in zip(waves(8, asked=98), waves(9, asked=98), strict=True)]
    assert (row_of(1, few).direct_ttft_p99, row_of(1, few).added_ttft_p99) == (None, None)
    assert "| 200.0, - ms" in streams_table([row_of(1, few)])


def test_percentiles_interpolate_and_take_what_there_is() -> None:
    assert percentile([], 50) == 0
    assert percentile([7], 99) == 7
    assert percentile([1, 2, 3], 50) == 2
    assert percentile(list(range(101)), 99) == 99


def test_starts_are_told_as_median_and_spread() -> None:
    table = starts_table({"start": [Start(3.0, 1.0), Start(2.0, 1.5), Start(7.0)], "wake": []})
    assert "3.00 s (2.00 to 7.00) | 1.25 s (1.00 to 1.50) | 3" in table
    assert table.splitlines()[-1].split() == ["|", "wake", "|", "-", "|", "-", "|", "0", "|"]


LISTED = """\
Available devices:
  CUDA0: NVIDIA H200 (143156 MiB, 142600 MiB free)
  CUDA1: NVIDIA RTX (PRO) 6000 (97251 MiB, 96000 MiB free)
  Vulkan0: something (100 MiB, 100 MiB free)
"""


def test_devices_are_read_from_what_the_engine_lists() -> None:
    assert devices_in("Available devices:\n  (none)\n") == ()
    found = devices_in(LISTED)
    assert [device.name for device in found] == ["NVIDIA H200", "NVIDIA RTX (PRO) 6000"]
    assert found[0].free_bytes == 142600 << 20


def test_what_is_missing_is_said_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match=r"sees no CUDA device.*--binary"):
        check_gpu((), 1)
    small = devices_in("  CUDA0: A card (8000 MiB, 7000 MiB free)")
    with pytest.raises(CannotRun, match=r"19\.\d GB of GPU memory.*7\.3 are free.*--streams 1,8"):
        check_gpu(small, memory_needed(SHAPES["8b"], Load(64, 256), 64))
    check_gpu(small, memory_needed(SHAPES["small"], Load(64, 256), 4))
    with pytest.raises(CannotRun, match=r"GB of disk are needed.*--out"):
        check_disk(tmp_path, Shape(10**6, 4096, 32, 8, 14336, 128_256))
