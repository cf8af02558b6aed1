"""The public port's table of routes. A path that is not here does not exist."""

from __future__ import annotations

from gateway.app import Route
from gateway.dialects import DIALECTS
from gateway.endpoints import MODELS_PREFIX, Endpoints
from gateway.inference import Inference
from health import HEALTH_PATHS

__all__ = ["ROUTE_NAMES", "route_patterns", "route_table"]

_ONE_MODEL = "/v1/models/{id}"
_KEYED = ("/v1/models", "/info", "/v1/server/info", "/gpu/status", "/metrics", "/reload")

ROUTE_NAMES = frozenset((*DIALECTS, *_KEYED, *HEALTH_PATHS, _ONE_MODEL, "/version"))
"""Every name a route may have in logs and metrics."""


def route_table(
    inference: Inference,
    endpoints: Endpoints,
    *,
    health_check_path: str,
    metrics_need_key: bool,
) -> dict[str, Route]:
    """Routes by exact path."""
    table = {
        path: Route(
            path,
            {"POST": inference.endpoint(dialect)},
            scope="inference",
            error_body=dialect.error_body,
        )
        for path, dialect in DIALECTS.items()
    }
    table["/v1/models"] = Route("/v1/models", {"GET": endpoints.list_models})
    for path in ("/info", "/v1/server/info"):
        table[path] = Route(path, {"GET": endpoints.info})
    table["/gpu/status"] = Route("/gpu/status", {"GET": endpoints.gpu_status})
    table["/version"] = Route("/version", {"GET": endpoints.version}, open=True)
    table["/metrics"] = Route(
        "/metrics", {"GET": endpoints.metrics}, scope="metrics", open=not metrics_need_key
    )
    table["/reload"] = Route("/reload", {"POST": endpoints.reload}, scope="admin")
    for path in HEALTH_PATHS | {health_check_path}:
        table[path] = Route(path, {"GET": endpoints.health}, open=True)
    return table


def route_patterns(endpoints: Endpoints) -> tuple[tuple[str, Route], ...]:
    """Routes by prefix, tried after the exact ones."""
    return ((MODELS_PREFIX, Route(_ONE_MODEL, {"GET": endpoints.one_model})),)
