"""What the service counts, and the bounds on it.

Rules:
- written by the API loop's thread only, read by any thread (`render` runs on the health thread);
- every label value comes from a closed set that is known before the first request; whatever else
  arrives is counted under ``other``, so no client can add a series. Key ids are the one open set
  and end at *keys_max*;
- figures per key are left out unless asked for, because ``/metrics`` may be open to anyone;
- what a request is counted under is looked up once per request, the rest is additions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric

from gateway.observe.accesslog import AccessRecord
from gateway.observe.exposition import (
    Histogram,
    Labels,
    as_dict,
    as_text,
    counters,
    gauges,
    histograms,
)
from gateway.observe.labels import (
    AUTH_FAILURE_REASONS,
    ENGINE_EXIT_CAUSES,
    LIMIT_NAMES,
    OTHER,
    REJECT_REASONS,
    STATUS_CLASSES,
    bump,
    reject_reason,
    seeded,
)
from health import ServiceState, Snapshot

__all__ = ["KeyLoad", "Metrics"]

_LOOP_STALL_S = 0.25

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WAIT = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)


class _ModelSeries:
    """What is counted per model."""

    __slots__ = ("cached", "completion", "per_token", "prompt", "ttft")

    def __init__(self) -> None:
        self.prompt = 0
        self.cached = 0
        self.completion = 0
        self.ttft = Histogram(_TTFT)
        self.per_token = Histogram(_PER_TOKEN)


class _KeySeries:
    """What is counted per key id."""

    __slots__ = ("completion", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.prompt = 0
        self.completion = 0


@dataclass(frozen=True, slots=True)
class KeyLoad:
    """What one key has at this moment: requests that run or wait, and those of them that wait."""

    in_progress: int
    waiting: int


class Metrics:
    """
    Counts requests and renders what was counted.

    Args:
        routes: Route names a request may have; others are ``other``. See `know_routes`.
        models: Public model names; others are ``other``. See `know_models`.
        keys_max: Key ids that get a series of their own.
        log_dropped: Gives how many log lines could not be written so far.
        process: Whether the process's own figures (CPU, memory, descriptors) are rendered too.
    """

    def __init__(
        self,
        *,
        routes: Iterable[str] = (),
        models: Iterable[str] = (),
        keys_max: int = 200,
        log_dropped: Callable[[], int] = lambda: 0,
        process: bool = True,
    ) -> None:
        self._routes = frozenset(routes)
        self._models = frozenset(models)
        self._keys_max = keys_max
        self._log_dropped = log_dropped
        self._requests: dict[Labels, Histogram] = {}
        # The same by what records say, while that is of the closed sets.
        self._found: dict[tuple[str, int, str | None], tuple[Histogram, str]] = {}
        self._by_model: dict[str, _ModelSeries] = {}
        self._by_key: dict[str, _KeySeries] = {}
        self._queue_wait = Histogram(_WAIT)
        self._bytes_in = 0
        self._bytes_out = 0
        self._rejected = seeded(REJECT_REASONS)
        self._auth_failures = seeded(AUTH_FAILURE_REASONS)
        self._engine_exits = seeded(ENGINE_EXIT_CAUSES)
        self._upstream: dict[Labels, float] = {("opened",): 0, ("reused",): 0}
        self._limits_reached = seeded(LIMIT_NAMES)
        self._retries = 0
        self._client_stalls = 0
        self._streams_crowded_out = 0
        self._slot_leaks = 0
        self._engine_wedges = 0
        self._replays = 0
        self._continued = 0
        self._keys_reload_errors = 0
        self._loop_stalls = 0
        self._loop_lag_s = 0.0
        self._start_phases: Mapping[str, float] = {}
        self._start_s: float | None = None
        self._busy_keys: Callable[[], Mapping[str, KeyLoad]] = dict
        self._process: CollectorRegistry | None = None
        if process:
            self._process = CollectorRegistry()
            ProcessCollector(namespace="gateway", registry=self._process)

    def __repr__(self) -> str:
        return f"<Metrics {len(self._requests)} request series, {len(self._by_key)} keys>"

    # -- counting

    def know_routes(self, routes: Iterable[str]) -> None:
        """Replace the route names; series that exist stay."""
        self._routes = frozenset(routes)
        self._found.clear()

    def know_models(self, models: Iterable[str]) -> None:
        """Replace the public model names; series that exist stay."""
        self._models = frozenset(models)
        self._found.clear()

    def know_busy_keys(self, busy_keys: Callable[[], Mapping[str, KeyLoad]]) -> None:
        """Say what keys have at this moment; asked in the API loop's thread only."""
        self._busy_keys = busy_keys

    def observe(self, record: AccessRecord) -> None:
        """Count a request that has ended; once per record."""
        found = self._found.get((record.route, record.status, record.model))
        seconds, model = self._find(record) if found is None else found
        seconds.observe(record.total_s)
        self._bytes_in += record.bytes_in
        self._bytes_out += record.bytes_out
        if record.error_code is not None:
            reason = reject_reason(record.error_code, record.route, record.model)
            if reason is not None:
                bump(self._rejected, reason)
        if record.prompt_tokens or record.queue_s or record.ttft_s is not None:
            self._count_work(record, model)
        if record.retry_count:
            self._retries += 1
        if record.limit is not None:
            bump(self._limits_reached, record.limit)
        key_id = record.key_id
        if key_id is not None:
            self._count_key(record, key_id)

    def reject(self, reason: str) -> None:
        """
        Count a request that was turned away without a record.

        Those with a record are counted by `observe` from their error code.
        """
        bump(self._rejected, reason)

    def auth_failed(self, reason: str) -> None:
        """Count a credential that was not accepted; *reason* as the keyring gives it."""
        bump(self._auth_failures, reason)

    def engine_exited(self, cause: str) -> None:
        """Count an engine process that ended."""
        bump(self._engine_exits, cause)

    def client_stalled(self) -> None:
        """Count a stream that was cut because its client did not read."""
        self._client_stalls += 1

    def stream_crowded_out(self) -> None:
        """Count a stream that was cut because all readers together were too far behind."""
        self._streams_crowded_out += 1

    def engine_stuck(self) -> None:
        """Count an engine that lived and got nothing done."""
        self._engine_wedges += 1

    def replayed(self) -> None:
        """Count a request that was sent to another engine because the first died under it."""
        self._replays += 1

    def continued(self) -> None:
        """Count a stream that went on with another engine after the first had died."""
        self._continued += 1

    def slots_leaked(self, count: int) -> None:
        """Count slots that the engine kept at work for nobody."""
        self._slot_leaks += count

    def keys_reload_failed(self) -> None:
        """Count a keys file that could not be used."""
        self._keys_reload_errors += 1

    def upstream_opened(self, count: int = 1) -> None:
        """Count connections made to the engine."""
        self._upstream["opened",] += count

    def upstream_reused(self, count: int = 1) -> None:
        """Count exchanges that went over a connection that was there already."""
        self._upstream["reused",] += count

    def start_took(self, phases: Mapping[str, float], total_s: float | None) -> None:
        """Note what the newest start of the engine took, in seconds by phase, and to ready."""
        self._start_phases = dict(phases)
        self._start_s = total_s

    def loop_lagged(self, lag_s: float) -> None:
        """Note how late the API loop's last beat was, in seconds."""
        self._loop_lag_s = lag_s
        if lag_s > _LOOP_STALL_S:
            self._loop_stalls += 1

    # -- rendering

    def render(self, snapshot: Snapshot, *, per_key: bool = False) -> bytes:
        """
        The Prometheus text; safe to call from any thread.

        Args:
            snapshot: What the gauges show.
            per_key: Whether to add figures per key id: only for those who may know them.
        """
        return as_text(self._families(snapshot, per_key), self._process)

    def as_dict(self, snapshot: Snapshot, *, per_key: bool = False) -> dict[str, Any]:
        """The same figures for JSON."""
        return as_dict(self._families(snapshot, per_key))

    # -- inside

    def _find(self, record: AccessRecord) -> tuple[Histogram, str]:
        """The series of a request's seconds, and the label of its model."""
        route = record.route if record.route in self._routes else OTHER
        model = ""
        if record.model is not None:
            model = record.model if record.model in self._models else OTHER
        status = STATUS_CLASSES[min(max(record.status // 100, 1), 5) - 1]
        labels = (route, status, model)
        series = self._requests.get(labels)
        if series is None:
            series = self._requests[labels] = Histogram(_SECONDS)
        known = route == record.route and model == (record.model or "")
        if known and 100 <= record.status < 600:
            self._found[record.route, record.status, record.model] = series, model
        return series, model

    def _count_work(self, record: AccessRecord, model: str) -> None:
        self._queue_wait.observe(record.queue_s)
        series = self._by_model.get(model)
        if series is None:
            series = self._by_model[model] = _ModelSeries()
        series.prompt += record.prompt_tokens
        series.cached += record.cached_tokens
        series.completion += record.completion_tokens
        if record.ttft_s is not None:
            series.ttft.observe(record.ttft_s)
            if record.completion_tokens > 1:
                decode_s = max(record.total_s - record.ttft_s, 0.0)
                series.per_token.observe(decode_s / (record.completion_tokens - 1))

    def _count_key(self, record: AccessRecord, key_id: str) -> None:
        series = self._by_key.get(key_id)
        if series is None:
            name = key_id if len(self._by_key) < self._keys_max else OTHER
            series = self._by_key.setdefault(name, _KeySeries())
        series.requests += 1
        series.prompt += record.prompt_tokens
        series.completion += record.completion_tokens

    def _families(self, snapshot: Snapshot, per_key: bool) -> Iterator[Metric]:
        yield from _gauge_families(snapshot)
        yield gauges(
            "gateway_event_loop_lag_seconds",
            "How late the API loop's last beat was.",
            (),
            {(): self._loop_lag_s},
        )
        yield from self._start_families()
        yield from self._request_families()
        yield from self._model_families()
        yield from self._event_families()
        if per_key:
            yield from self._key_families()

    def _start_families(self) -> Iterator[Metric]:
        phases: dict[Labels, float] = {(name,): took for name, took in self._start_phases.items()}
        text = "Seconds of the newest start; 'model_read' runs beside 'boot' and 'load'."
        yield gauges("gateway_cold_start_seconds", text, ("phase",), phases)
        total: dict[Labels, float] = {} if self._start_s is None else {(): self._start_s}
        text = "Seconds of the newest start until ready: 'boot' of the first, 'load', 'warm_up'."
        yield gauges("gateway_start_seconds", text, (), total)

    def _request_families(self) -> Iterator[Metric]:
        labels = ("route", "status", "model")
        requests = dict(self._requests)
        totals = {key: float(sum(series.counts)) for key, series in requests.items()}
        yield counters("gateway_requests", "Requests that have ended.", labels, totals)
        text = "Seconds from the request's head to the end of its reply."
        yield histograms("gateway_request_seconds", text, labels, requests)
        text = "Seconds that requests waited for a slot."
        yield histograms("gateway_queue_wait_seconds", text, (), {(): self._queue_wait})
        sizes: dict[Labels, float] = {("in",): self._bytes_in, ("out",): self._bytes_out}
        yield counters("gateway_bytes", "Bytes of bodies.", ("direction",), sizes)

    def _model_families(self) -> Iterator[Metric]:
        models = dict(self._by_model)
        tokens: dict[Labels, float] = {}
        for name, series in models.items():
            tokens["prompt", name] = series.prompt
            tokens["cached", name] = series.cached
            tokens["completion", name] = series.completion
        text = "Tokens; 'cached' ones are a part of 'prompt'."
        yield counters("gateway_tokens", text, ("direction", "model"), tokens)
        ttft: dict[Labels, Histogram] = {(name,): series.ttft for name, series in models.items()}
        text = "Seconds until the first event of a generation."
        yield histograms("gateway_ttft_seconds", text, ("model",), ttft)
        per_token: dict[Labels, Histogram] = {
            (name,): series.per_token for name, series in models.items()
        }
        text = "Seconds per completion token after the first, averaged over a request."
        yield histograms("gateway_token_seconds", text, ("model",), per_token)

    def _event_families(self) -> Iterator[Metric]:
        for name, text, label, values in (
            ("http_rejected", "Requests turned away.", "reason", self._rejected),
            ("auth_failures", "Credentials refused.", "reason", self._auth_failures),
            ("limits_reached", "Requests refused by a limit.", "limit", self._limits_reached),
            ("engine_exits", "Engine processes that ended.", "cause", self._engine_exits),
            ("upstream_connections", "Connections to the engine.", "how", self._upstream),
        ):
            yield counters(f"gateway_{name}", text, (label,), values)
        for name, text, value in (
            ("client_stalls", "Streams cut because the client did not read.", self._client_stalls),
            ("streams_crowded_out", "Streams cut for want of memory.", self._streams_crowded_out),
            ("slot_leaks", "Slots at work for nobody for too long.", self._slot_leaks),
            ("engine_wedges", "Engines that lived and got nothing done.", self._engine_wedges),
            ("replays", "Requests sent again after the engine died.", self._replays),
            ("streams_continued", "Streams that another engine went on with.", self._continued),
            ("retries", "Requests that an SDK sent again.", self._retries),
            ("keys_reload_errors", "Keys files that were not usable.", self._keys_reload_errors),
            ("log_dropped", "Log lines that could not be written.", self._log_dropped()),
            ("event_loop_stalls", "Beats that came over 250 ms late.", self._loop_stalls),
        ):
            yield counters(f"gateway_{name}", text, (), {(): value})

    def _key_families(self) -> Iterator[Metric]:
        keys = dict(self._by_key)
        requests: dict[Labels, float] = {
            (name,): float(series.requests) for name, series in keys.items()
        }
        yield counters("gateway_key_requests", "Requests by key.", ("key",), requests)
        tokens: dict[Labels, float] = {}
        for name, series in keys.items():
            tokens["prompt", name] = series.prompt
            tokens["completion", name] = series.completion
        yield counters("gateway_key_tokens", "Tokens by key.", ("direction", "key"), tokens)
        yield from self._busy_key_families()

    def _busy_key_families(self) -> Iterator[Metric]:
        busiest = sorted(self._busy_keys().items(), key=lambda item: -item[1].in_progress)
        busy = busiest[: self._keys_max]
        text = "Requests by key that run or wait now."
        running: dict[Labels, float] = {(name,): float(load.in_progress) for name, load in busy}
        yield gauges("gateway_key_in_progress", text, ("key",), running)
        text = "Requests by key that wait for a slot now."
        waiting: dict[Labels, float] = {(name,): float(load.waiting) for name, load in busy}
        yield gauges("gateway_key_queued", text, ("key",), waiting)


def _gauge_families(snapshot: Snapshot) -> Iterator[Metric]:
    states: dict[Labels, float] = {
        (state.value,): float(state is snapshot.state) for state in ServiceState
    }
    yield gauges("gateway_state", "1 for the state the service is in.", ("state",), states)
    for name, text, value in (
        ("requests_in_flight", "Requests the engine works on.", snapshot.in_flight),
        ("requests_queued", "Requests that wait for a slot.", snapshot.queued),
        ("slots_lingering", "Slots at work for a client who left.", snapshot.lingering),
        ("requests_pending", "In flight and queued.", snapshot.in_flight + snapshot.queued),
        ("slots", "Requests the engine can work on at once.", snapshot.slots),
        ("idle_seconds", "Seconds since there was work.", snapshot.idle_s),
    ):
        yield gauges(f"gateway_{name}", text, (), {(): value})
    restarts = snapshot.engine.get("restarts", 0)
    text = "Engines that were started because the one before had died."
    value = float(restarts) if isinstance(restarts, int) else 0.0
    yield counters("gateway_engine_restarts", text, (), {(): value})
    build: dict[Labels, float] = {(snapshot.version, snapshot.platform): 1.0}
    yield gauges("gateway_build_info", "Version and place.", ("version", "platform"), build)
