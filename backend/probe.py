"""Is the engine ready, and is it ours?

An answer from ``/health`` alone would be enough for an impostor, or for a leftover engine on the
same port. So readiness also needs ``/props``, which llama-server gives only to who has its key, and
our key is known to nobody but our own child.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from backend.address import Address
from backend.client import EngineClient
from backend.errors import BackendError
from backend.status import EngineProps

Fetch = Callable[[str, str], Awaitable[tuple[int, bytes]]]
"""(method, path) -> (status, body), with the engine's key; raises BackendError or OSError."""


@dataclass(frozen=True, slots=True)
class ProbeReady:
    """It serves and it is ours."""

    props: EngineProps


@dataclass(frozen=True, slots=True)
class ProbeLoading:
    """It is not up yet, or it says that it loads."""


@dataclass(frozen=True, slots=True)
class ProbeWrong:
    """Something answers, but not as our engine would; worth a line in the log."""

    reason: str


ProbeResult = ProbeReady | ProbeLoading | ProbeWrong
_PATIENCE_S = 1.0

Probe = Callable[[Address, str], Awaitable[ProbeResult]]
"""(address, key) -> result. Must end by itself within a few seconds, whatever the engine does."""


async def probe(fetch: Fetch) -> ProbeResult:
    """
    Ask once.

    1. ``/health`` fails or says 503 -> loading;
    2. ``/props`` refuses our key -> wrong;
    3. both answer, and ``/props`` makes sense -> ready, with the facts from it and the model list.
    """
    try:
        status, _ = await fetch("GET", "/health")
        if status != 200:
            return ProbeLoading()
        status, body = await fetch("GET", "/props")
        if status == 503:
            return ProbeLoading()
        if status != 200:
            return ProbeWrong(f"/props answered {status} to our key")
        _, models = await fetch("GET", "/v1/models")
    except (BackendError, OSError):
        return ProbeLoading()
    return _read(body, models)


async def probe_engine(address: Address, key: str) -> ProbeResult:
    """`probe` over a connection of its own; ends within a few seconds."""
    client = EngineClient(address, key, connect_timeout_s=_PATIENCE_S)

    async def fetch(method: str, path: str) -> tuple[int, bytes]:
        return await client.request(method, path, timeout_s=_PATIENCE_S)

    try:
        return await probe(fetch)
    finally:
        client.close()


def _read(body: bytes, models: bytes) -> ProbeResult:
    try:
        props = orjson.loads(body)
        slots = int(props["total_slots"])
        context = int(props["default_generation_settings"]["n_ctx"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return ProbeWrong("/props is not llama-server's")
    if slots < 1 or context < 1:
        return ProbeWrong("/props tells of no slot or no context")
    modalities = props.get("modalities") or {}
    meta = _model_meta(models)
    return ProbeReady(
        EngineProps(
            slots=slots,
            context_tokens=context,
            build=str(props.get("build_info", "")),
            vocab_size=_number(meta, "n_vocab"),
            embedding_size=_number(meta, "n_embd"),
            trained_context=_number(meta, "n_ctx_train"),
            vision=bool(modalities.get("vision")),
            audio=bool(modalities.get("audio")),
        )
    )


def _model_meta(models: bytes) -> dict[str, Any]:
    """The numbers of the one model; nothing here is needed to serve."""
    try:
        meta = orjson.loads(models)["data"][0]["meta"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _number(meta: dict[str, Any], name: str) -> int | None:
    value = meta.get(name)
    return value if isinstance(value, int) else None
