"""Finds what is to be started: the engine's program, the model, and the start line made of both.

Slow (a first start may build and download), so it runs in a thread and reports progress.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from backend import (
    Address,
    EngineCommand,
    EngineSettings,
    Gpu,
    OperatorError,
    Progress,
    ReadAhead,
    build_command,
    engine_threads,
    find_or_build,
    model_files,
    read_gpus,
    resolve,
)
from gateway.settings.model import Settings
from gateway.wiring import automatic_context, engine_settings, find_settings, model_settings

__all__ = ["prepare_engine"]

_log = logging.getLogger(__name__)


def prepare_engine(
    settings: Settings,
    environ: Mapping[str, str],
    address: Address,
    progress: Progress,
    read_ahead: ReadAhead,
    slot_save_dir: Path | None = None,
) -> EngineCommand:
    """The command that starts the engine.

    Args:
        settings: The effective settings.
        environ: The service's own environment, from which the engine gets an allow-list.
        address: Where the engine is to listen.
        progress: Told of long steps.
        read_ahead: Told of the model's files before anything else is done.
        slot_save_dir: Where the engine may write what its slots hold; None: nowhere.

    Raises:
        OperatorError: A tool, the model or an argument is wrong; the text says what to do.
    """
    if settings.engine == "mock":
        engine = engine_settings(settings, None, None)
    else:
        _begin_to_read(settings, read_ahead)
        engine = _real_engine(settings, progress)
    engine = replace(engine, slot_save_dir=slot_save_dir)
    return build_command(engine, address=address, key=secrets.token_urlsafe(32), environ=environ)


def _begin_to_read(settings: Settings, read_ahead: ReadAhead) -> None:
    if not settings.model_read_ahead:
        return
    try:
        read_ahead.start(model_files(model_settings(settings)))
    except (OperatorError, OSError):  # `resolve` will find the same and say it
        _log.debug("there is no model to read ahead yet")


def _real_engine(settings: Settings, progress: Progress) -> EngineSettings:
    found = find_or_build(find_settings(settings), progress=progress)
    _log.info("engine: %s (%s, from %s)", found.path, found.version, found.source)
    model = resolve(model_settings(settings), progress)
    _log.info("model: %s from %s", model.name, model.source)
    if model.hf is not None and found.source in ("cache", "build"):
        _log.warning(
            "the llama-server that is built here has no TLS and fetches nothing: unless the model "
            "is in the hub's cache already, use MODEL_URL, or set LLAMA_SERVER"
        )
    _look_at_gpus(settings)
    engine = engine_settings(settings, found.path, model.path)
    if engine.threads is None:
        engine = replace(engine, threads=engine_threads())
    if engine.ctx is None and model.info is not None:
        trained_tokens = model.info.context_tokens
        engine = replace(engine, ctx=automatic_context(trained_tokens, engine.parallel))
    return engine


def _look_at_gpus(settings: Settings) -> None:
    """In a thread of its own: nvidia-smi may take seconds, and nothing that follows needs it."""

    def look() -> None:
        _say_how_gpus_are_used(settings, read_gpus())

    threading.Thread(target=look, name="look-at-gpus", daemon=True).start()


def _say_how_gpus_are_used(settings: Settings, gpus: tuple[Gpu, ...]) -> None:
    if not gpus:
        return
    names = ", ".join(gpu.name for gpu in gpus)
    chosen = settings.split_mode is not None or bool(settings.tensor_split)
    if len(gpus) == 1 or chosen:
        _log.info("GPUs: %d (%s)", len(gpus), names)
    else:
        _log.warning(
            "GPUs: %d (%s); the model is spread over all of them by layers, as neither SPLIT_MODE "
            "nor TENSOR_SPLIT says otherwise",
            len(gpus),
            names,
        )
