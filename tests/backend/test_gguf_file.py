"""A model file is judged by its header alone, quickly, whatever is in it."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import ModelInvalid
from backend.supply.gguf_file import validate
from backend.supply.gguf_header import TENSOR_BLOCKS

U32, U64, F32, BOOL, STRING, ARRAY = 4, 10, 6, 7, 8, 9
Q4_0 = 2


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", extent) for extent in shape)
        + struct.pack("<IQ", kind, offset)
    )


ARCHITECTURE = pair("general.architecture", STRING, text("llama"))
WEIGHTS = tensor("w", (8, 4))  # 128 bytes of F32


def gguf(
    pairs: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (WEIGHTS,),
    data: int = 128,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    tensor_count, pair_count = counts or (len(tensors), len(pairs))
    head = struct.pack("<4sIQQ", b"GGUF", version, tensor_count, pair_count)
    head += b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


@pytest.fixture
def write(tmp_path: Path) -> Iterator[object]:
    def to_file(raw: bytes, name: str = "m.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return to_file


def refusal(path: Path) -> ModelInvalid:
    with pytest.raises(ModelInvalid) as caught:
        validate(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_header_tells_what_a_launch_needs_to_know(write):
    info = validate(
        write(
            gguf(
                pairs=(
                    ARCHITECTURE,
                    pair("general.name", STRING, text("Tiny")),
                    pair("llama.context_length", U32, struct.pack("<I", 4096)),
                    pair("llama.embedding_length", U32, struct.pack("<I", 64)),
                    pair("tokenizer.chat_template", STRING, text("{{ messages }}")),
                    pair("tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
                    pair("scores", ARRAY, struct.pack("<IQff", F32, 2, 0.5, 1.5)),
                )
            )
        )
    )
    assert (info.architecture, info.name, info.kind) == ("llama", "Tiny", "model")
    assert (info.context_tokens, info.embedding_size, info.tensors) == (4096, 64, 1)
    assert info.has_chat_template
    assert info.causal
    assert not info.ranks


def test_reranker_and_encoder_are_told_apart(write):
    info = validate(
        write(
            gguf(
                pairs=(
                    pair("general.architecture", STRING, text("bert")),
                    pair("bert.attention.causal", BOOL, b"\0"),
                    pair("bert.pooling_type", U32, struct.pack("<I", 4)),
                )
            )
        )
    )
    assert not info.causal
    assert info.ranks


@pytest.mark.parametrize(
    ("declared", "kind"), [("mmproj", "mmproj"), ("adapter", "adapter"), ("model", "model")]
)
def test_kind_of_file_is_told(write, declared, kind):
    pairs = (ARCHITECTURE, pair("general.type", STRING, text(declared)))
    assert validate(write(gguf(pairs=pairs))).kind == kind


def test_cut_file_is_named_with_the_expected_and_the_found_size(write):
    whole = gguf()
    error = refusal(write(whole[:-1]))
    assert (error.expected_bytes, error.found_bytes) == (len(whole), len(whole) - 1)
    assert str(len(whole)) in str(error)


def test_every_cut_inside_the_header_is_noticed(write):
    whole = gguf(pairs=(ARCHITECTURE, pair("x", ARRAY, struct.pack("<IQ", U64, 3) + bytes(24))))
    for length in range(len(whole)):
        error = refusal(write(whole[:length]))
        assert error.found_bytes == length


def test_last_tensor_needs_no_padding_after_it(write):
    table = (tensor("a", (8, 4)), tensor("b", (3,), offset=128))
    assert validate(write(gguf(tensors=table, data=128 + 12))).tensors == 2
    assert refusal(write(gguf(tensors=table, data=128 + 11))).expected_bytes is not None


def test_quantised_tensors_are_measured_in_blocks(write):
    table = (tensor("q", (64, 2), kind=Q4_0),)  # 4 blocks of 18 bytes
    assert validate(write(gguf(tensors=table, data=72)))
    refusal(write(gguf(tensors=table, data=71)))
    assert "does not fill blocks" in str(refusal(write(gguf(tensors=(tensor("q", (33,), 2),)))))


def test_own_alignment_of_the_file_counts(write):
    pairs = (ARCHITECTURE, pair("general.alignment", U32, struct.pack("<I", 4096)))
    assert refusal(write(gguf(pairs=pairs))).expected_bytes == 4096 + 128
    pairs = (ARCHITECTURE, pair("general.alignment", U32, struct.pack("<I", 48)))
    assert "power of two" in str(refusal(write(gguf(pairs=pairs))))


def test_tensor_type_of_a_newer_engine_is_left_to_the_engine(write):
    assert validate(write(gguf(tensors=(tensor("w", (8, 4), kind=999),))))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"\n<!doctype html><html>login</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (struct.pack("<Q", 60) + b'{"__metadata__":{}}' + bytes(60), "safetensors"),
        (b"tjgg" + bytes(60), "old format"),
        (b"\x01\x02\x03\xff" + bytes(60), "no GGUF"),
        (b"GGUF\x00\x00\x00\x03" + bytes(60), "big-endian"),
        (gguf(version=1), "version 1"),
        (gguf(pairs=()), "no architecture"),
        (gguf(tensors=(), data=0), "no tensors"),
        (gguf(tensors=(tensor("w", (1, 1, 1, 1, 1)),)), "5 dimensions"),
        (gguf(pairs=(pair("k", 77, b""),)), "unknown type 77"),
        (gguf(pairs=(pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "unknown type 9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_file_is_called_what_it_is(write, raw, words):
    assert words in str(refusal(write(raw)))


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    "raw",
    [
        gguf(counts=(HUGE, 1)),
        gguf(counts=(1, HUGE)),
        gguf(pairs=(struct.pack("<Q", HUGE) + b"k",)),
        gguf(pairs=(text("k") + struct.pack("<IQ", STRING, HUGE),)),
        gguf(pairs=(pair("k", ARRAY, struct.pack("<IQ", STRING, HUGE)),)),
        gguf(pairs=(pair("k", ARRAY, struct.pack("<IQ", U64, HUGE)),)),
        gguf(tensors=(tensor("w", (HUGE, HUGE)),)),
        gguf(tensors=(tensor("w", (8, 4), offset=HUGE),)),
    ],
    ids=("tensors", "keys", "key", "string", "strings", "numbers", "shape", "offset"),
)
def test_unbelievable_numbers_cost_neither_memory_nor_time(write, raw):
    path = write(raw)
    begin = time.perf_counter()
    refusal(path)
    assert time.perf_counter() - begin < 1


def test_sparse_giant_full_of_nothing_is_refused_quickly(tmp_path):
    path = tmp_path / "giant.gguf"
    strings = (1 << 64) - 1
    with path.open("wb") as file:
        file.write(gguf(pairs=(pair("k", ARRAY, struct.pack("<IQ", STRING, strings)),)))
        file.truncate(1 << 40)
    begin = time.perf_counter()
    assert "more strings" in str(refusal(path))
    assert time.perf_counter() - begin < 1


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 200), byte=st.integers(0, 255))
def test_no_changed_byte_makes_anything_but_an_answer_or_a_refusal(tmp_path, at, byte):
    raw = bytearray(
        gguf(
            pairs=(
                ARCHITECTURE,
                pair("general.alignment", U32, struct.pack("<I", 32)),
                pair("t", ARRAY, struct.pack("<IQ", STRING, 1) + text("a")),
            )
        )
    )
    raw[at % len(raw)] = byte
    path = tmp_path / "changed.gguf"
    path.write_bytes(raw)
    try:
        validate(path)
    except ModelInvalid:
        pass


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "no such file" in str(refusal(tmp_path / "none.gguf"))
    assert "not a regular file" in str(refusal(tmp_path))


def shard(number: int, of: int) -> bytes:
    count = pair("split.count", 2, struct.pack("<H", of))
    return gguf(pairs=(ARCHITECTURE, count, pair("split.no", 2, struct.pack("<H", number - 1))))


def test_model_in_parts_needs_all_its_parts(write):
    first = write(shard(1, 2), "big-00001-of-00002.gguf")
    with pytest.raises(ModelInvalid, match="big-00002-of-00002"):
        validate(first)
    second = write(shard(2, 2)[:-5], "big-00002-of-00002.gguf")
    with pytest.raises(ModelInvalid, match="truncated"):
        validate(first)
    write(shard(2, 2), second.name)
    info = validate(first)
    assert (info.shards, info.tensors) == (2, 2)
    assert "name the first part" in str(refusal(second))


def test_sizes_of_tensor_types_are_those_of_the_library():
    known = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
    assert known == TENSOR_BLOCKS
