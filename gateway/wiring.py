"""Settings flow down as values: each part gets its own small settings, filled in here. Pure.

The other rooms know nothing of the big settings model and read no environment; this is the only
place that knows both sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from backend import EngineSettings, FindSettings, ModelSettings, SupervisorSettings, public_name
from gateway.dialects import FieldPolicy
from gateway.engine.link import ServedModel
from gateway.front.body import BodyRules
from gateway.front.server import ServerLimits
from gateway.lifecycle import DrainSettings
from gateway.relay import RelaySettings
from gateway.settings.model import Settings
from keys import Limits

__all__ = [
    "automatic_context",
    "body_rules",
    "default_limits",
    "drain_settings",
    "engine_settings",
    "field_policy",
    "find_settings",
    "keeps_prompts",
    "model_alias",
    "model_settings",
    "relay_settings",
    "served_model",
    "server_limits",
    "supervisor_settings",
]

_MOCK_NAME = "mock"
_SLOT_CONTEXT = 4096
_CUDA: dict[str, Literal["auto", "on", "off"]] = {"auto": "auto", "on": "on", "off": "off"}


def find_settings(settings: Settings) -> FindSettings:
    """Where to look for the engine."""
    return FindSettings(
        llama_server=settings.llama_server,
        cache_dir=settings.cache_dir,
        cuda=_CUDA[settings.engine_cuda],
    )


def model_settings(settings: Settings) -> ModelSettings:
    """Which model was asked for."""
    return ModelSettings(
        models_dir=settings.models_dir,
        model_path=settings.model_path,
        model_name=settings.model_name,
        model_url=settings.model_url,
        model_sha256=settings.model_sha256,
        model_hf=settings.model_hf,
        cache_dir=settings.cache_dir,
    )


def model_alias(settings: Settings) -> str:
    """The model's public name; known before any file is looked at."""
    if settings.model_alias:
        return settings.model_alias
    if settings.engine == "mock" and not (settings.model_name or settings.model_path):
        return _MOCK_NAME
    return public_name(model_settings(settings))


def automatic_context(trained_tokens: int | None, slots: int) -> int:
    """Context of all slots together when none was chosen: enough to try a model, on any machine.

    Left to llama-server it would depend on the memory that is free at that moment.
    """
    return slots * min(trained_tokens or _SLOT_CONTEXT, _SLOT_CONTEXT)


def engine_settings(settings: Settings, binary: Path | None, model: Path | None) -> EngineSettings:
    """How the engine is to be started."""
    return EngineSettings(
        kind="mock" if settings.engine == "mock" else "llama-server",
        binary=binary,
        model=model,
        hf=settings.model_hf if model is None and settings.engine != "mock" else None,
        alias=model_alias(settings),
        ctx=settings.ctx,
        parallel=settings.parallel,
        ngl=settings.ngl,
        tensor_split=",".join(f"{share:g}" for share in settings.tensor_split) or None,
        split_mode=settings.split_mode,
        threads=settings.threads,
        embeddings=_embeds(settings),
        rerank=_ranks(settings),
        pooling=settings.pooling,
        mmproj=settings.mmproj,
        extra_args=settings.extra_args,
    )


def keeps_prompts(settings: Settings) -> bool:
    """Whether what the slots hold is written to files when the engine is unloaded.

    Not where no prompt may be reused, nor where the engine cannot do it.
    """
    wanted = settings.idle_save_slots and settings.idle_action == "unload"
    able = settings.mmproj is None and not (settings.embeddings or settings.rerank)
    return wanted and able and settings.prompt_cache_scope == "shared"


def _embeds(settings: Settings) -> bool:
    return settings.embeddings or settings.engine == "mock"


def _ranks(settings: Settings) -> bool:
    return settings.rerank or settings.engine == "mock"


def supervisor_settings(settings: Settings) -> SupervisorSettings:
    """Times and budgets of supervision."""
    return SupervisorSettings(
        load_timeout_s=settings.load_timeout,
        stop_grace_s=settings.engine_stop_timeout,
        backoff_cap_s=settings.restart_backoff_max,
        crash_budget=settings.crash_limit,
        crash_window_s=settings.crash_window,
    )


def served_model(settings: Settings) -> ServedModel:
    """What the gateway says about the model."""
    return ServedModel(
        alias=model_alias(settings),
        generates=settings.engine == "mock" or not (settings.embeddings or settings.rerank),
        embeddings=_embeds(settings),
        rerank=_ranks(settings),
        slots_limit=settings.max_concurrent_requests,
    )


def field_policy(settings: Settings) -> FieldPolicy:
    """What happens to the fields of a request."""
    return FieldPolicy(
        unknown="reject" if settings.unknown_params == "reject" else "drop",
        allow=frozenset(settings.allow_fields),
        cache_prompt=settings.prompt_cache_scope == "shared",
        max_tokens_cap=settings.max_tokens_cap,
    )


def default_limits(settings: Settings) -> Limits:
    """What a key may spend that has no limits of its own; a setting of 0 means no limit."""
    return Limits(
        requests_per_minute=settings.max_requests_per_minute or None,
        tokens_per_minute=settings.max_tokens_per_minute or None,
        concurrency=settings.max_concurrent_per_key or None,
        tokens_per_day=settings.max_tokens_per_day or None,
    )


def body_rules(settings: Settings) -> BodyRules:
    """What a request body may be like."""
    return BodyRules(
        limit_bytes=settings.max_request_body_size,
        grace_s=settings.client_body_grace,
        slowest_bytes_per_s=settings.client_body_min_rate or 1e-9,
        max_structure=settings.max_json_items,
        max_depth=settings.max_json_depth,
    )


def relay_settings(settings: Settings) -> RelaySettings:
    """How long things may take on the way to the engine and back."""
    return RelaySettings(
        heartbeat_after_s=settings.heartbeat_after,
        heartbeat_interval_s=settings.heartbeat_interval,
        request_timeout_s=settings.request_timeout,
        queue_wait_s=settings.max_queue_wait,
    )


def server_limits(settings: Settings, open_files: int) -> ServerLimits:
    """Bounds on connections and request heads.

    Args:
        settings: The effective settings.
        open_files: How many files the process may have open; some are kept for other uses.
    """
    return ServerLimits(
        header_timeout_s=settings.client_header_timeout,
        keepalive_s=settings.keepalive_timeout,
        request_line_bytes=settings.max_request_line_size,
        header_line_bytes=settings.max_header_line_size,
        headers=settings.max_headers,
        header_block_bytes=settings.max_header_block_size,
        stream_buffer_bytes=settings.stream_buffer_bytes,
        stream_memory_bytes=settings.stream_memory,
        client_stall_s=settings.client_stall_timeout,
        connections=settings.max_connections or max(min(10_000, open_files - 128), 16),
        connections_per_address=settings.max_connections_per_address or 1 << 30,
    )


def drain_settings(settings: Settings) -> DrainSettings:
    """The shutdown budget."""
    return DrainSettings(
        delay_s=settings.drain_delay,
        timeout_s=settings.drain_timeout,
        engine_s=settings.engine_stop_timeout,
        failed_s=settings.failed_exit_delay,
    )
