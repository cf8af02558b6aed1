"""Check a GGUF file before an engine is started on it.

The engine would refuse a broken file too, but only after it was launched, with a reason deep in
its log, and a supervisor would try again. Here the file is named, with the size its own header
asks for and the size found, within a second and without reading the tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ModelInvalid
from backend.supply.gguf_header import BrokenHeader, GgufHeader

__all__ = ["GgufInfo", "validate"]

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_POOLING_RANK = 4


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """What the header says that matters before a launch."""

    path: Path
    kind: str
    """``model``, ``adapter`` (a LoRA) or ``mmproj`` (an image or audio projector)."""
    architecture: str
    name: str | None
    context_tokens: int | None
    """The context length the model was trained for."""
    embedding_size: int | None
    has_chat_template: bool
    causal: bool
    """False for encoder models, which embed but do not generate."""
    ranks: bool
    """True for a reranker (its pooling is a rank)."""
    tensors: int
    size_bytes: int
    """Over all shards."""
    shards: int


def validate(path: Path) -> GgufInfo:
    """
    Read the header of the model at *path* and hold it against the file.

    A model in several shards is checked shard by shard when *path* is the first one.

    Raises:
        ModelInvalid: The file is missing, no GGUF, damaged, or shorter than its tensors need.
    """
    header = _read_checked(path)
    others = _other_shards(path, header.number("split.count") or 1)
    parts = [header, *(_read_checked(other) for other in others)]
    if not any(part.tensors for part in parts):
        raise ModelInvalid(path, "it holds no tensors", None, header.size_bytes)
    return _describe(path, header, parts)


def _read_checked(path: Path) -> GgufHeader:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelInvalid(path, "not a regular file")
        with path.open("rb") as file:
            return GgufHeader(file, size)
    except BrokenHeader as exc:
        raise ModelInvalid(path, exc.reason, exc.expected_bytes, size) from None
    except FileNotFoundError:
        raise ModelInvalid(path, "there is no such file") from None
    except OSError as exc:
        raise ModelInvalid(path, f"cannot be read: {exc.strerror}") from exc


def _other_shards(path: Path, shards: int) -> list[Path]:
    match = _SHARD.search(path.name)
    if shards <= 1 or match is None:
        return []
    if int(match[1]) != 1:
        raise ModelInvalid(path, "a later part of a model in parts; name the first part")
    stem = path.name[: match.start()]
    return [
        path.with_name(f"{stem}-{number:05d}-of-{match[2]}.gguf")
        for number in range(2, min(shards, int(match[2])) + 1)
    ]


def _describe(path: Path, header: GgufHeader, parts: list[GgufHeader]) -> GgufInfo:
    architecture = header.text("general.architecture")
    if not architecture:
        raise ModelInvalid(path, "its header names no architecture", None, header.size_bytes)
    return GgufInfo(
        path=path,
        kind=_kind(header.text("general.type"), architecture),
        architecture=architecture,
        name=header.text("general.name"),
        context_tokens=header.number(f"{architecture}.context_length"),
        embedding_size=header.number(f"{architecture}.embedding_length"),
        has_chat_template=bool(header.text("tokenizer.chat_template")),
        causal=header.values.get(f"{architecture}.attention.causal") is not False,
        ranks=header.number(f"{architecture}.pooling_type") == _POOLING_RANK,
        tensors=sum(part.tensors for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        shards=len(parts),
    )


def _kind(declared: str | None, architecture: str) -> str:
    if declared == "mmproj" or architecture == "clip":
        return "mmproj"
    return "adapter" if declared == "adapter" else "model"
