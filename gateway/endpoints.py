"""Routes that are answered here, from memory: models, server facts, health, metrics, reload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import orjson

from backend import Gpu, read_gpus
from gateway.call import Call
from gateway.clocks import Clocks
from gateway.dialects.common import unknown_model
from gateway.errors import ApiError
from gateway.front.proxies import is_loopback
from gateway.front.reply import Reply
from gateway.limits.ledger import Ledger
from gateway.observe.metrics import Metrics
from gateway.status import ServiceStatus
from health import VerdictOptions, answer
from keys import Principal

__all__ = ["MODELS_PREFIX", "Endpoints"]

MODELS_PREFIX = "/v1/models/"
_GPU_READING_LASTS_S = 2.0
_RELOAD_PAUSE_S = 1.0


class Endpoints:
    """The endpoints, sharing what they need to know.

    Args:
        status: State of the service.
        models: Public model names, the first one the default.
        created: When the service started, seconds since the epoch: the models' ``created``.
        metrics: The counters.
        verdicts: The operator's choices about probes.
        reload: Reads the keys file anew; returns how many keys there are and what was wrong.
        ledger: What each key has spent.
        clocks: The time.
    """

    def __init__(
        self,
        *,
        status: ServiceStatus,
        models: Callable[[], tuple[str, ...]],
        created: int,
        metrics: Metrics,
        verdicts: VerdictOptions,
        reload: Callable[[], Awaitable[tuple[int, str | None]]],
        ledger: Ledger,
        clocks: Clocks,
    ) -> None:
        self._status = status
        self._models = models
        self._created = created
        self._metrics = metrics
        self._verdicts = verdicts
        self._reload = reload
        self._ledger = ledger
        self._clocks = clocks
        self._clock = clocks.monotonic
        self._reloaded_s = float("-inf")
        self._gpus: tuple[Gpu, ...] = ()
        self._gpus_read_s = float("-inf")

    # -- models

    async def list_models(self, call: Call) -> Reply:
        """GET /v1/models: readable by OpenAI's and by Anthropic's SDKs at once."""
        entries = [self._model(name) for name in self._models()]
        ids = [entry["id"] for entry in entries]
        return _json(
            call,
            {
                "object": "list",
                "data": entries,
                "has_more": False,
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
            },
        )

    async def one_model(self, call: Call) -> Reply:
        """GET /v1/models/{id}; an id with a slash comes percent-encoded."""
        path = call.request.raw_path.partition("?")[0]
        name = unquote(path.removeprefix(MODELS_PREFIX))
        if name not in self._models():
            raise unknown_model(name)
        return _json(call, self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        created_at = _rfc3339(self._created)
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "llama-gateway",
            "type": "model",
            "display_name": name,
            "created_at": created_at,
        }

    # -- the service about itself

    async def version(self, call: Call) -> Reply:
        """GET /version, open."""
        return _json(call, {"version": self._status.version, "api_version": "v1"})

    async def info(self, call: Call) -> Reply:
        """GET /info: the model, the engine, and the limits of the key that asks."""
        principal = call.principal
        return _json(
            call,
            {
                "version": self._status.version,
                "api_version": "v1",
                "state": self._status.state(),
                "models": list(self._models()),
                "engine": self._status.engine_facts(),
                "key": {
                    "id": principal.key_id if principal is not None else None,
                    "scopes": sorted(principal.scopes) if principal is not None else [],
                    **(self._standing(principal) if principal is not None else {}),
                },
            },
        )

    def _standing(self, principal: Principal) -> dict[str, Any]:
        """The limits in force for a key, and what is left of them."""
        standing = self._ledger.standing(principal, self._clocks.monotonic(), self._clocks.wall())
        gauges = {
            "requests_per_minute": standing.requests,
            "tokens_per_minute": standing.tokens,
            "tokens_per_day": standing.day,
        }
        return {
            "priority": principal.priority,
            "weight": principal.weight,
            "limits": {name: getattr(standing.limits, name) for name in standing.limits.__slots__},
            "remaining": {
                name: gauge.remaining if gauge is not None else None
                for name, gauge in gauges.items()
            },
            "in_use": standing.in_use,
            "tokens_today": standing.tokens_today,
        }

    async def gpu_status(self, call: Call) -> Reply:
        """GET /gpu/status: how busy this box is."""
        snapshot = self._status.snapshot()
        return _json(
            call,
            {
                "state": snapshot.state,
                "busy": snapshot.slots > 0 and snapshot.in_flight >= snapshot.slots,
                "slots": snapshot.slots,
                "in_flight": snapshot.in_flight,
                "queued": snapshot.queued,
                "lingering": snapshot.lingering,
                "node_id": self._status.node_id,
                "gpus": [
                    {
                        "index": gpu.index,
                        "name": gpu.name,
                        "memory_total_bytes": gpu.memory_total_bytes,
                        "memory_used_bytes": gpu.memory_used_bytes,
                        "utilisation_percent": gpu.utilisation_percent,
                    }
                    for gpu in await self._read_gpus()
                ],
            },
        )

    async def _read_gpus(self) -> tuple[Gpu, ...]:
        now = self._clock()
        if now - self._gpus_read_s >= _GPU_READING_LASTS_S:
            self._gpus_read_s = now
            self._gpus = await asyncio.get_running_loop().run_in_executor(None, read_gpus)
        return self._gpus

    # -- probes, counters, administration

    async def health(self, call: Call) -> Reply:
        """The same answers as on the health port."""
        path = call.request.raw_path.partition("?")[0]
        verdict = answer(path, self._status.snapshot(), self._clock(), self._verdicts)
        if verdict is None:
            raise ApiError("not_found")
        return Reply(
            status=verdict.status,
            body=verdict.body,
            headers=call.headers,
            content_type=verdict.content_type,
        )

    async def metrics(self, call: Call) -> Reply:
        """GET /metrics: Prometheus text, or JSON when the client asks for that.

        Figures of single keys are for holders of the scope, and for whoever is on this machine and
        came without a proxy.
        """
        snapshot = self._status.snapshot()
        scopes = call.principal.scopes if call.principal is not None else ()
        per_key = "metrics" in scopes or _is_local(call)
        if "application/json" in call.request.headers.get("Accept", ""):
            return _json(call, self._metrics.as_dict(snapshot, per_key=per_key))
        return Reply(
            body=self._metrics.render(snapshot, per_key=per_key),
            headers=call.headers,
            content_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def reload(self, call: Call) -> Reply:
        """POST /reload: read the keys file now; at most once a second, and without a body."""
        if not call.request.content.at_eof():
            raise ApiError("payload_too_large", "This path takes no body.", close=True)
        now = self._clock()
        pause_s = self._reloaded_s + _RELOAD_PAUSE_S - now
        if pause_s > 0:
            raise ApiError("rate_limit_exceeded", "Once a second is enough.", retry_after_s=pause_s)
        self._reloaded_s = now
        keys, problem = await self._reload()
        return _json(call, {"keys": keys, "in_step": problem is None})


def _is_local(call: Call) -> bool:
    """Whether the caller is on this machine, and no proxy that speaks for others."""
    forwarded = {"Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"}
    headers = call.request.headers
    return is_loopback(call.record.client) and not any(name in headers for name in forwarded)


def _json(call: Call, value: Mapping[str, Any]) -> Reply:
    return Reply(body=orjson.dumps(value), headers=call.headers, content_type="application/json")


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
