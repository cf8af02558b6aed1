"""The generator of test models; that the engine takes them is shown where the engine is tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import pytest

GENERATOR = Path(__file__).with_name("tiny_gguf.py")


@pytest.mark.parametrize(
    ("kind", "architecture"), [("chat", "llama"), ("rerank", "qwen3"), ("mmproj", "clip")]
)
def test_same_arguments_give_the_same_readable_file(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    paths = [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    for path in paths:
        subprocess.run([sys.executable, GENERATOR, "--kind", kind, "--out", path], check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    field = gguf.GGUFReader(paths[0]).get_field("general.architecture")
    assert field is not None
    assert field.contents() == architecture
