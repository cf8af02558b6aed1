"""The counters of a running service, read from its metrics page.

Nothing on disk counts requests: the service does, in memory, since it started. So this asks it,
and says plainly when there is nobody to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.error import URLError
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, build_opener

__all__ = ["COUNTED_TOGETHER", "Counters", "CountersMissing", "fetch_counters", "parse_counters"]

_LIMIT_BYTES = 8 * 1024 * 1024
_TIMEOUT_S = 3.0
_FIELDS = {
    "gateway_key_requests_total": "requests",
    "gateway_key_in_progress": "in_progress",
    "gateway_key_queued": "waiting",
}
COUNTED_TOGETHER = "other"
"""The name under which a service with very many keys counts the rest of them."""


class CountersMissing(Exception):  # noqa: N818  (the name says what happened)
    """No counters could be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What one key has used since the service started, and what it has at this moment."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_progress: int = 0
    """Requests that run or wait now."""
    waiting: int = 0
    """Those of them that wait for a slot."""


def fetch_counters(url: str, key: str | None = None) -> Mapping[str, Counters]:
    """Ask a running service.

    Args:
        url: Its metrics page, ``http`` or ``https``; no proxy is used.
        key: An API key with the scope ``metrics``, where the page asks for one.

    Raises:
        CountersMissing: It did not answer, or not with metrics.
    """
    opener: OpenerDirector = build_opener(ProxyHandler({}), HTTPHandler, HTTPSHandler)
    if key:
        opener.addheaders.append(("X-API-Key", key))
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as reply:
            text = reply.read(_LIMIT_BYTES).decode("utf-8", "replace")
    except (URLError, OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, URLError) else exc
        raise CountersMissing(f"{url} did not answer ({reason})") from exc
    return parse_counters(text)


def parse_counters(text: str) -> Mapping[str, Counters]:
    """Counters by key id, from a page of Prometheus text. PURE.

    Keys that were counted together appear under the name ``other``.

    Raises:
        CountersMissing: It is not such a page.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[str, int]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = _counter_name(sample.name, sample.labels)
                if name is not None:
                    found.setdefault(sample.labels["key"], {})[name] = int(sample.value)
    except (ValueError, KeyError) as exc:
        raise CountersMissing("the page holds no metrics of this service") from exc
    return {key: Counters(**values) for key, values in found.items()}


def _counter_name(sample: str, labels: Mapping[str, str]) -> str | None:
    if sample in _FIELDS:
        return _FIELDS[sample]
    if sample == "gateway_key_tokens_total" and labels.get("direction") in ("prompt", "completion"):
        return f"{labels['direction']}_tokens"
    return None
