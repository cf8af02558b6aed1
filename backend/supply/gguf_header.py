"""Read the header of a GGUF file, believing nothing in it before it is checked.

The layout: magic, version, two counts; the keys with their values; the table of tensors; then,
aligned, the tensors' data, of which nothing is read here.

Rules:
- Plain reads only. Mapping a file that is still being written (or cut) ends the process when a
  page is gone.
- Every length is held against the file's size and a bound first, so that a hostile header costs
  neither memory nor time.
- The sizes of tensor types are those of the ``gguf`` library, which a test compares: importing it
  brings numpy and takes a tenth of a second of every start. A type that is not known here is left
  for the engine to judge, which may be newer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

__all__ = ["TENSOR_BLOCKS", "BrokenHeader", "GgufHeader"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 17
_MAX_DIMENSIONS = 4
_MAX_HEADER_BYTES = 256 << 20
"""Far above the largest vocabulary known (some 20 MiB); bounds the memory and the time used."""
_MAX_STRINGS = 1 << 22
"""In all lists together; the largest vocabularies have under a million, merges included."""
_CHUNK_BYTES = 1 << 20

_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in enumerate("BbHhIif?")
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}  # fmt: skip
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

TENSOR_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
    41: (128, 18),  # Q1_0
}
"""Tensor type -> values in a block, bytes of a block."""

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself"),
    (b"PK\x03\x04", "a ZIP archive (perhaps a PyTorch checkpoint), not GGUF"),
    (b"<", "a web page, not GGUF"),
    (b"\x1f\x8b", "gzip-compressed; unpack it first"),
    (b"tjgg", "of llama.cpp's old format from before GGUF; convert it"),
    (b"fmgg", "of llama.cpp's old format from before GGUF; convert it"),
    (b"lmgg", "of llama.cpp's old format from before GGUF; convert it"),
    (b"{", "JSON, not GGUF"),
)


class BrokenHeader(Exception):  # noqa: N818 (says what it is)
    """The header cannot be what it says; carries the reason and the size it asks for."""

    def __init__(self, reason: str, expected_bytes: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected_bytes = expected_bytes


class _Reader:
    """Reads forward through the header; never past the file's end or the bound."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._size = size_bytes
        self._buffer = b""
        self._start = 0
        self._at = 0
        self._strings_left = _MAX_STRINGS

    @property
    def position(self) -> int:
        return self._start + self._at

    def need(self, count: int) -> None:
        """Have *count* more bytes in the buffer."""
        end = self.position + count
        if end > self._size:
            raise BrokenHeader("truncated inside its header", end)
        if end > _MAX_HEADER_BYTES:
            raise BrokenHeader("its header is larger than any model's")
        missing = self._at + count - len(self._buffer)
        if missing > 0:
            rest = self._buffer[self._at :]
            self._start, self._at = self.position, 0
            self._buffer = rest + self._file.read(max(missing, _CHUNK_BYTES))
            if len(self._buffer) < count:
                raise BrokenHeader("shrank while it was read", end)

    def peek(self, count: int) -> bytes:
        """Return the next *count* bytes, or as many as there are, without moving on."""
        count = min(count, self._size - self.position)
        self.need(count)
        return self._buffer[self._at : self._at + count]

    def number(self, layout: struct.Struct) -> int | float | bool:
        self.need(layout.size)
        (value,) = layout.unpack_from(self._buffer, self._at)
        self._at += layout.size
        return value  # type: ignore[no-any-return]  # one of the scalar layouts

    def count(self, layout: struct.Struct = _U64) -> int:
        return int(self.number(layout))

    def string(self) -> bytes:
        length = self.count()
        self.need(length)
        self._at += length
        return self._buffer[self._at - length : self._at]

    def skip_strings(self, count: int) -> None:
        self._strings_left -= count
        if self._strings_left < 0:
            raise BrokenHeader("not believable: it lists more strings than any vocabulary has")
        for _ in range(count):
            self.string()

    def skip(self, count: int) -> None:
        end = self.position + count
        if end > self._size:
            raise BrokenHeader("truncated inside its header", end)
        while count > 0:
            piece = min(count, _CHUNK_BYTES)
            self.need(piece)
            self._at += piece
            count -= piece


class GgufHeader:
    """The parsed header: scalars and strings by key, and how far the tensors reach."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.values: dict[str, object] = {}
        reader = _Reader(file, size_bytes)
        tensors, keys = self._read_start(reader)
        for _ in range(keys):
            self._read_pair(reader)
        self.tensors = tensors
        self._check_tensors(reader)

    def number(self, key: str) -> int | None:
        """Return the whole number under *key*; None when there is none."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """Return the text under *key*; None when there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def _read_start(self, reader: _Reader) -> tuple[int, int]:
        if self.size_bytes == 0:
            raise BrokenHeader("empty file", 24)
        start = reader.peek(24)
        if not start.startswith(_MAGIC):
            raise BrokenHeader(_name_foreign(start))
        if self.size_bytes < 24:
            raise BrokenHeader("truncated inside its header", 24)
        reader.skip(len(_MAGIC))
        version = reader.count(_U32)
        if version not in _VERSIONS:
            big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
            raise BrokenHeader(
                "GGUF for big-endian machines"
                if big_endian
                else f"GGUF version {version} is not supported (2 and 3 are)"
            )
        tensors, keys = reader.count(), reader.count()
        if tensors > _MAX_TENSORS or keys > _MAX_KEYS:
            raise BrokenHeader(f"not believable: {tensors} tensors and {keys} keys in its header")
        return tensors, keys

    def _read_pair(self, reader: _Reader) -> None:
        key = reader.string().decode("utf-8", "replace")
        kind = reader.count(_U32)
        if kind == _STRING:
            self.values[key] = reader.string().decode("utf-8", "replace")
        elif kind == _ARRAY:
            _skip_array(reader)
        else:
            self.values[key] = reader.number(_layout(kind))

    def _check_tensors(self, reader: _Reader) -> None:
        reach = 0
        for _ in range(self.tensors):
            reach = max(reach, _tensor_end(reader))
        alignment = self.number("general.alignment") or _DEFAULT_ALIGNMENT
        if alignment <= 0 or alignment & (alignment - 1):
            raise BrokenHeader(f"its alignment of {alignment} bytes is not a power of two")
        data = -(-reader.position // alignment) * alignment
        if reach and data + reach > self.size_bytes:
            raise BrokenHeader("truncated: its tensors reach beyond its end", data + reach)


def _tensor_end(reader: _Reader) -> int:
    """Read one row of the tensor table; return where its data ends, counted from the data."""
    reader.string()
    dimensions = reader.count(_U32)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise BrokenHeader(f"damaged: a tensor of {dimensions} dimensions")
    shape = [reader.count() for _ in range(dimensions)]
    kind, offset = reader.count(_U32), reader.count()
    block, block_bytes = TENSOR_BLOCKS.get(kind, (1, 0))
    if shape[0] % block:
        raise BrokenHeader(f"damaged: a row of {shape[0]} values does not fill blocks of {block}")
    elements = 1
    for extent in shape:
        elements *= extent
    return offset + elements // block * block_bytes


def _skip_array(reader: _Reader) -> None:
    kind, length = reader.count(_U32), reader.count()
    if kind == _STRING:
        reader.skip_strings(length)
    else:
        reader.skip(length * _layout(kind).size)


def _layout(kind: int) -> struct.Struct:
    layout = _SCALARS.get(kind)
    if layout is None:
        raise BrokenHeader(f"damaged: a value of unknown type {kind} in its header")
    return layout


def _name_foreign(start: bytes) -> str:
    if start[8:9] == b"{":  # after the length of its header, which may look like anything
        return "this is a safetensors file, not GGUF; convert it"
    for prefix, words in _FOREIGN:
        if start.lstrip().startswith(prefix):
            return f"this is {words}"
    return "this is no GGUF file (it does not begin with 'GGUF')"
