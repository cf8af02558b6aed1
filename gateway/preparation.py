"""Finds what is to be started: the engine's program, the model, and the start line made of both.

Slow (a first start may build and download), so it runs in a thread and reports progress.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path

from backend import Address, EngineCommand, Progress, build_command, find_or_build, resolve
from gateway.settings import Settings
from gateway.wiring import automatic_context, engine_settings, find_settings, model_settings

__all__ = ["prepare_engine"]

_log = logging.getLogger(__name__)


def prepare_engine(
    settings: Settings, environ: Mapping[str, str], address: Address, progress: Progress
) -> EngineCommand:
    """The command that starts the engine.

    Args:
        settings: The effective settings.
        environ: The service's own environment, from which the engine gets an allow-list.
        address: Where the engine is to listen.
        progress: Told of long steps.

    Raises:
        OperatorError: A tool, the model or an argument is wrong; the text says what to do.
    """
    binary: Path | None = None
    model: Path | None = None
    ctx = settings.ctx
    if settings.engine != "mock":
        engine = find_or_build(find_settings(settings), progress=progress)
        _log.info("engine: %s (%s, from %s)", engine.path, engine.version, engine.source)
        resolved = resolve(model_settings(settings), progress)
        _log.info("model: %s from %s", resolved.name, resolved.source)
        binary, model = engine.path, resolved.path
        if ctx is None and resolved.info is not None:
            ctx = automatic_context(resolved.info.context_tokens, settings.parallel)
    key = secrets.token_urlsafe(32)
    return build_command(
        engine_settings(settings, binary, model, ctx), address=address, key=key, environ=environ
    )
