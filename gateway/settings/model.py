"""PURE: every setting of the service, as one frozen model.

A field's name in lower case is its YAML key, in upper case its environment variable, with dashes
its flag. Field metadata carries the group, unit, description and whether the value is a secret; the
reference page, the example file and the flags are made from it. Values come in through
`gateway.config.load`; nothing else builds them in the service.

Defaults here are those of a plain machine. Where a default follows from another setting or from
the platform, `default_note` says how, and `gateway.settings.defaults` computes it.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gateway.settings.kinds import (
    Args,
    Duration,
    FilePath,
    Flag,
    Kind,
    Number,
    Size,
    Text,
    Url,
    Whole,
    Word,
    Words,
)

__all__ = ["GROUPS", "PLATFORMS", "SPECS", "Settings", "Spec"]

PLATFORMS = (
    "generic",
    "runpod-serverless",
    "runpod-pod",
    "vast-serverless",
    "vast",
    "fly",
    "knative",
    "cloud-run",
    "kubernetes",
    "modal",
)

GROUPS = {
    "address": "Addresses and platform",
    "access": "Who may use the service",
    "request": "What a request may look like",
    "queue": "Waiting and limits",
    "stream": "Streaming",
    "model": "The model",
    "engine": "The engine",
    "life": "Supervision, idling and stopping",
    "log": "Logs and metrics",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known about one setting besides its value."""

    name: str
    kind: Kind[Any]
    default: Any
    group: str
    description: str
    default_note: str | None
    secret: bool

    @property
    def env(self) -> str:
        """The environment variable."""
        return self.name.upper()

    @property
    def flag(self) -> str:
        """The command line flag."""
        return "--" + self.name.replace("_", "-")

    def masked(self, value: object) -> str:
        """*value* for people's eyes: secrets never show."""
        if value is None or not self.secret:
            return self.kind.write(value)
        return "***"


def _set(
    default: Any,
    group: str,
    description: str,
    *,
    note: str | None = None,
    secret: bool = False,
) -> Any:
    extra: dict[str, Any] = {
        "group": group,
        "default_note": note,
        "secret": secret,
    }
    return Field(default, description=description, repr=not secret, json_schema_extra=extra)


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", text):
        raise ValueError(text)
    return text.lower()


def _field_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}", text):
        raise ValueError(text)
    return text


def _share(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(text)
    return value


_PORT = Whole(0, 65535)
_OPTIONAL_PATH = FilePath(unset_word="none")


class Settings(BaseModel):
    """The effective settings. Durations are seconds, sizes are bytes."""

    # `model_` is pydantic's own prefix; here it is the GGUF model that is meant.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # -- address
    host: Annotated[str, Text("an address or host name", r"[A-Za-z0-9._:\-]{1,253}")] = _set(
        "0.0.0.0",  # noqa: S104 (containers are reached from outside; keys guard the port)
        "address",
        "Address that both ports listen on.",
        note="0.0.0.0; on Vast Serverless 127.0.0.1, as the PyWorker stands in front",
    )
    port: Annotated[int, _PORT] = _set(
        8000,
        "address",
        "API port. 0 takes any free port.",
        note="8000; on Vast Serverless 18000, where a PyWorker looks for its model server",
    )
    port_health: Annotated[int, _PORT] = _set(
        8001,
        "address",
        "Health and metrics port, open before anything is loaded. Equal to PORT: one listener "
        "serves both.",
        note="PORT + 1; on RunPod the same as PORT when only PORT is set",
    )
    public_url: Annotated[str | None, Url("none")] = _set(
        None,
        "address",
        "Where clients reach the API port from outside. Only shown, when the service is ready.",
        note="unset; on a Vast instance from PUBLIC_IPADDR and VAST_TCP_PORT_<PORT>",
    )
    platform: Annotated[str, Word(PLATFORMS)] = _set(
        "generic",
        "address",
        "Which platform the service runs on. Chooses defaults and labels, nothing else.",
        note="found from the variables that the platform sets",
    )
    node_id: Annotated[str, Text("a short name", r"[A-Za-z0-9._:\-]{1,128}")] = _set(
        "local",
        "address",
        "Name of this instance in logs and status replies.",
        note="the platform's id of the instance, else the host name",
    )
    health_check_path: Annotated[
        str, Text("a path that starts with /", r"/[A-Za-z0-9._~/\-]{0,127}")
    ] = _set("/ping", "address", "One more path that answers as /ping does.")
    ping_while_loading: Annotated[str, Word(("204", "200"))] = _set(
        "204",
        "address",
        "Status of /ping while the model loads. 200 makes a load balancer send requests early; "
        "they then wait in the queue here.",
    )
    data_dir: Annotated[Path, FilePath()] = _set(
        Path("data"),
        "address",
        "Folder for models and keys.",
        note="/runpod-volume or /workspace where that platform is found, /data if it exists, "
        "else ./data",
    )
    cache_dir: Annotated[Path, FilePath()] = _set(
        Path("data/cache"),
        "address",
        "Folder for the built engine and the demo model.",
        note="the user's cache folder, such as ~/.cache/llama-gateway",
    )

    # -- access
    auth_enabled: Annotated[bool, Flag()] = _set(
        True, "access", "Whether requests need an API key. Switching it off is warned about."
    )
    auth_mode: Annotated[str, Word(("keys", "platform"))] = _set(
        "keys",
        "access",
        "keys: this service checks API keys. platform: something in front has already checked "
        "the caller, and no key is asked for here.",
    )
    auth_keys_file: Annotated[Path, FilePath()] = _set(
        Path("data/keys.yaml"),
        "access",
        "The file with the API keys.",
        note="DATA_DIR/keys.yaml",
    )
    auth_pepper_file: Annotated[Path, FilePath()] = _set(
        Path("data/keys.pepper"),
        "access",
        "The file with the secret that key digests are made with. Keep it apart from the keys "
        "file in backups.",
        note="next to the keys file, ending in .pepper",
    )
    auth_failures_per_minute: Annotated[int, Whole(0, 1_000_000)] = _set(
        20,
        "access",
        "Wrong keys that one client address may present in a minute before it gets 429. 0 "
        "switches this off.",
    )
    metrics_auth_enabled: Annotated[bool, Flag()] = _set(
        False, "access", "Whether /metrics on the API port needs a key with the scope 'metrics'."
    )
    trusted_proxies: Annotated[
        tuple[str, ...], Words("addresses or networks, such as 10.0.0.0/8,127.0.0.1", _network)
    ] = _set(
        (), "access", "Proxies whose X-Forwarded-For is believed. Empty: the peer is the client."
    )
    cors_origins: Annotated[
        tuple[str, ...], Words("origins, such as https://app.example.com, or *", _origin)
    ] = _set((), "access", "Web origins that browsers may call from. Empty: no CORS replies.")
    prompt_cache_scope: Annotated[str, Word(("shared", "key"))] = _set(
        "shared",
        "access",
        "shared: the engine may reuse the processed prompt of any request, which is fast but "
        "lets a caller measure whether someone else sent the same text. key: nothing is reused "
        "that another key sent; for now, nothing at all.",
    )

    # -- request
    max_request_body_size: Annotated[int, Size(1024, 1 << 30)] = _set(
        8 << 20,
        "request",
        "Largest request body.",
        note="8MiB; 32MiB when MMPROJ is set; never above 30MB on RunPod",
    )
    max_headers: Annotated[int, Whole(8, 1000)] = _set(
        100, "request", "Most header lines in one request."
    )
    max_header_line_size: Annotated[int, Size(256, 65536)] = _set(
        8190, "request", "Longest header line."
    )
    max_header_block_size: Annotated[int, Size(1024, 1 << 20)] = _set(
        32 << 10, "request", "Largest header block, all lines together."
    )
    max_request_line_size: Annotated[int, Size(256, 65536)] = _set(
        8190, "request", "Longest request line (method, path and version)."
    )
    client_header_timeout: Annotated[float, Duration(0.1)] = _set(
        10.0, "request", "Time from a request's first byte to the end of its headers."
    )
    client_body_grace: Annotated[float, Duration(0.1)] = _set(
        10.0,
        "request",
        "Time before a body's speed is looked at, and the longest it may stand still.",
    )
    client_body_min_rate: Annotated[int, Size()] = _set(
        1024,
        "request",
        "Bytes a second that a body must arrive with after that. 0: it must only not stand still.",
    )
    keepalive_timeout: Annotated[float, Duration()] = _set(
        75.0, "request", "How long an idle client connection is kept open."
    )
    max_json_items: Annotated[int, Whole(100, 10_000_000)] = _set(
        20_000, "request", "Most arrays and objects in one JSON body."
    )
    max_json_depth: Annotated[int, Whole(4, 200)] = _set(
        64, "request", "Deepest nesting of one JSON body."
    )
    max_body_memory: Annotated[int, Size(1 << 20)] = _set(
        256 << 20,
        "request",
        "Memory for all request bodies together, half of it at most for one key; above it 503.",
    )
    unknown_params: Annotated[str, Word(("drop", "reject"))] = _set(
        "drop",
        "request",
        "What happens to unknown body fields. drop: left out and named in x-ignored-params. "
        "reject: 400.",
    )
    allow_fields: Annotated[tuple[str, ...], Words("field names with commas", _field_name)] = _set(
        (), "request", "Further body fields that are passed to the engine as they are."
    )
    max_tokens_cap: Annotated[int | None, Whole(1, unset_word="none")] = _set(
        None, "request", "Most tokens one request may generate, whatever it asks for."
    )

    # -- queue
    max_concurrent_requests: Annotated[int | None, Whole(1, 4096, "auto")] = _set(
        None,
        "queue",
        "Requests that the engine works on at once. auto: as many as it has slots; more than "
        "that is never sent.",
    )
    max_queue_size: Annotated[int, Whole(0, 1_000_000)] = _set(
        256,
        "queue",
        "Requests that may wait for a slot. 0: nobody waits, 429 when all slots are busy.",
    )
    max_queue_per_key: Annotated[int, Whole(1, 1_000_000)] = _set(
        64,
        "queue",
        "Requests of one key that may wait; beyond it they get 429.",
        note="64; MAX_QUEUE_SIZE where keys are not checked",
    )
    max_queue_wait: Annotated[float, Duration()] = _set(
        300.0, "queue", "Longest wait for a slot; after it the request gets 503."
    )
    priority_ageing: Annotated[float, Duration(0.1)] = _set(
        60.0,
        "queue",
        "After this long without a turn, while higher classes wait, a key has one request moved up "
        "a priority class (batch, normal, high), so that none waits for ever.",
    )
    max_requests_per_minute: Annotated[int, Whole(0, 10_000_000)] = _set(
        100,
        "queue",
        "Requests a key may make in a minute, unless the key says otherwise. 0: no limit.",
        note="100; 0 where keys are not checked",
    )
    max_tokens_per_minute: Annotated[int, Whole(0, 1_000_000_000_000)] = _set(
        10_000_000,
        "queue",
        "Tokens, prompts and answers together, a key may use in a minute, unless the key says "
        "otherwise. 0: no limit.",
        note="10,000,000; 0 where keys are not checked",
    )
    max_tokens_per_day: Annotated[int, Whole(0, 1_000_000_000_000)] = _set(
        0,
        "queue",
        "Tokens a key may use in a day (UTC), unless the key says otherwise. 0: no limit.",
    )
    max_concurrent_per_key: Annotated[int, Whole(0, 1_000_000)] = _set(
        0,
        "queue",
        "Requests of a key that may run or wait at the same time, unless the key says otherwise. "
        "0: no limit.",
    )
    request_timeout: Annotated[float, Duration(1.0)] = _set(
        600.0,
        "queue",
        "For streams the longest gap between two bytes of the engine, for other requests the "
        "total time.",
        note="600; 320 on RunPod serverless, whose load balancer gives up after 330",
    )
    max_connections: Annotated[int | None, Whole(8, 1_000_000, "auto")] = _set(
        None,
        "queue",
        "Client connections in all. auto: 10,000, or what the open file limit leaves.",
    )
    max_connections_per_address: Annotated[int, Whole(0, 1_000_000)] = _set(
        256,
        "queue",
        "Client connections from one address that is not a trusted proxy. 0: no limit.",
    )

    # -- stream
    stream_buffer_bytes: Annotated[int, Size(65536, 1 << 30)] = _set(
        4 << 20, "stream", "What is held for one reader that is slower than the engine."
    )
    stream_memory: Annotated[int, Size(1 << 20)] = _set(
        256 << 20,
        "stream",
        "The same for all readers together; above it the one furthest behind is cut.",
    )
    client_stall_timeout: Annotated[float, Duration(0.1)] = _set(
        30.0, "stream", "How long a reader with a full buffer may stand still before it is cut."
    )
    heartbeat_after: Annotated[float, Duration(0.05)] = _set(
        5.0, "stream", "Silence before the first heartbeat comment of a stream."
    )
    heartbeat_interval: Annotated[float, Duration(0.05)] = _set(
        15.0, "stream", "Time between the heartbeats after that."
    )

    # -- model
    model_path: Annotated[Path | None, _OPTIONAL_PATH] = _set(
        None, "model", "The GGUF file to serve. Wins over the settings below."
    )
    model_name: Annotated[
        str | None, Text("a file name under MODELS_DIR", r"[^\x00-\x1f\x7f]{1,512}", "none")
    ] = _set(
        None,
        "model",
        "The GGUF file under MODELS_DIR, with or without .gguf; also the model's name in the API.",
    )
    models_dir: Annotated[Path, FilePath()] = _set(
        Path("data/models"), "model", "Folder with models.", note="DATA_DIR/models"
    )
    model_url: Annotated[str | None, Url("none")] = _set(
        None, "model", "Where to download the GGUF file from; a broken download is continued."
    )
    model_sha256: Annotated[
        str | None, Text("64 hexadecimal digits", r"[0-9A-Fa-f]{64}", "none")
    ] = _set(None, "model", "What the download of MODEL_URL must hash to.")
    model_hf: Annotated[
        str | None,
        Text(
            "owner/repo or owner/repo:quant",
            r"[\w.\-]{1,96}/[\w.\-]{1,96}(:[\w.\-]{1,64})?",
            "none",
        ),
    ] = _set(None, "model", "Model on Hugging Face, fetched by llama-server itself.")
    hf_token: Annotated[str | None, Text("a Hugging Face token", r"[\x21-\x7e]{1,512}", "none")] = (
        _set(None, "model", "Token for MODEL_HF; given to the engine only then.", secret=True)
    )
    model_alias: Annotated[
        str | None, Text("a model name", r"[A-Za-z0-9._:/+\-]{1,128}", "none")
    ] = _set(
        None, "model", "The model's name in the API.", note="made from the file or repository name"
    )
    mmproj: Annotated[Path | None, _OPTIONAL_PATH] = _set(
        None, "model", "Projector file that lets the model see images or hear audio."
    )
    model_read_ahead: Annotated[bool, Flag()] = _set(
        True,
        "model",
        "Read the model's file into memory while the engine is being started, if it fits there.",
    )

    # -- engine
    engine_kind: Annotated[
        str, Word(("auto", "llama-server", "llama-cpp-python", "mock", "external"))
    ] = _set(
        "auto",
        "engine",
        "Which engine runs. auto: mock with USE_MOCK_MODEL, external with BACKEND_URL, else "
        "llama-server. llama-cpp-python and external are not supported yet; they stop the start.",
    )
    use_mock_model: Annotated[bool, Flag()] = _set(
        False, "engine", "Run on a scripted stand-in for the engine; for tests and trying out."
    )
    llama_server: Annotated[Path | None, _OPTIONAL_PATH] = _set(
        None,
        "engine",
        "The llama-server program.",
        note="the one on PATH, else the one in the cache, else it is built",
    )
    engine_cuda: Annotated[str, Word(("auto", "on", "off"))] = _set(
        "auto", "engine", "Whether to build llama-server with CUDA. auto: when nvcc is there."
    )
    backend_url: Annotated[str | None, Url("none")] = _set(
        None,
        "engine",
        "An engine that runs elsewhere. Not supported yet; setting it stops the start.",
    )
    backend_api_key: Annotated[str | None, Text("an API key", r"[\x21-\x7e]{1,512}", "none")] = (
        _set(None, "engine", "The key that BACKEND_URL asks for.", secret=True)
    )
    backend_connect_timeout: Annotated[float, Duration(0.05)] = _set(
        5.0, "engine", "Time to connect to the engine."
    )
    ngl: Annotated[str, Text("auto, all or a number of layers", r"auto|all|-1|\d{1,4}")] = _set(
        "auto", "engine", "Model layers that go to the GPU."
    )
    tensor_split: Annotated[
        tuple[float, ...], Words("numbers with commas, such as 3,1", _share)
    ] = _set((), "engine", "Share of the model for each GPU, in their order.")
    split_mode: Annotated[str | None, Word(("none", "layer", "row", "tensor"), "auto")] = _set(
        None, "engine", "How the model is divided among several GPUs."
    )
    ctx: Annotated[int | None, Whole(0, 100_000_000, "auto")] = _set(
        None,
        "engine",
        "Context tokens in all; every slot gets CTX divided by PARALLEL. auto: 4096 for each slot, "
        "or what the model was trained with if that is less. 0: what the model was trained with, "
        "in all.",
    )
    parallel: Annotated[int, Whole(1, 256)] = _set(
        4, "engine", "Slots: requests that the engine works on at the same time."
    )
    threads: Annotated[int | None, Whole(1, 1024, "auto")] = _set(
        None,
        "engine",
        "Threads for the engine's computing. auto: the real cores this process may use, less one.",
    )
    extra_args: Annotated[tuple[str, ...], Args()] = _set(
        (),
        "engine",
        "More arguments for llama-server. Those that would open it up (--host, --api-key, "
        "--tools and the like) are refused.",
    )
    embeddings: Annotated[bool, Flag()] = _set(
        False, "engine", "Serve /v1/embeddings with this model instead of chat."
    )
    rerank: Annotated[bool, Flag()] = _set(
        False, "engine", "Serve /v1/rerank with this model instead of chat."
    )
    pooling: Annotated[str | None, Word(("none", "mean", "cls", "last", "rank"), "auto")] = _set(
        None, "engine", "How an embedding is made from the tokens."
    )

    # -- life
    load_timeout: Annotated[float, Duration(1.0)] = _set(
        1800.0, "life", "How long the engine may take to load the model."
    )
    engine_stop_timeout: Annotated[float, Duration(0.1, 300.0)] = _set(
        10.0, "life", "Time between asking the engine to stop and killing it."
    )
    restart_backoff_max: Annotated[float, Duration(0.1)] = _set(
        60.0, "life", "Longest pause before the engine is started again."
    )
    crash_limit: Annotated[int, Whole(1, 1000)] = _set(
        5, "life", "Crashes within CRASH_WINDOW after which the service gives up."
    )
    crash_window: Annotated[float, Duration(1.0)] = _set(300.0, "life", "See CRASH_LIMIT.")
    watchdog_seconds: Annotated[float, Duration()] = _set(
        60.0,
        "life",
        "How long an engine may do nothing for a request it has, or answer no probe, until it "
        "counts as stuck and is restarted. While it reads long prompts it has more time. 0: never.",
    )
    idle_action: Annotated[str, Word(("none", "unload", "exit", "stop-instance"))] = _set(
        "none",
        "life",
        "What to do after IDLE_TIMEOUT without work. unload: stop the engine until the next "
        "request. exit: end the process. stop-instance: ask the platform to stop the machine.",
    )
    idle_timeout: Annotated[float, Duration(0.1)] = _set(
        900.0, "life", "See IDLE_ACTION. Only requests that need the engine count as work."
    )
    idle_save_slots: Annotated[bool, Flag()] = _set(
        False,
        "life",
        "With IDLE_ACTION=unload: keep what the slots hold of prompts in files until the engine is "
        "back, so that it need not be computed again. The files hold the prompts' text; up to "
        "1 GiB, in a private folder for temporary files. With PROMPT_CACHE_SCOPE=key, with MMPROJ "
        "and with EMBEDDINGS or RERANK nothing is kept.",
    )
    stop_instance_url: Annotated[str | None, Url("none")] = _set(
        None,
        "life",
        "What IDLE_ACTION=stop-instance calls, with POST.",
        note="the platform's own interface on RunPod Pods and Vast instances",
    )
    drain_timeout: Annotated[float, Duration()] = _set(
        300.0,
        "life",
        "How long running requests may go on after SIGTERM, DRAIN_DELAY included.",
        note="300; less where the platform kills sooner: RunPod 25, Kubernetes and Knative 15, "
        "Vast and Cloud Run 8, Modal 8, Fly 0",
    )
    drain_delay: Annotated[float, Duration()] = _set(
        5.0,
        "life",
        "How long new requests are still taken after SIGTERM, until load balancers have noticed.",
    )
    failed_exit_delay: Annotated[float, Duration()] = _set(
        5.0,
        "life",
        "How long a service that has failed says why on its health port before it ends.",
    )

    # -- log
    log_level: Annotated[str, Word(("debug", "info", "warning", "error"))] = _set(
        "info", "log", "The least important lines that are still written."
    )
    log_format: Annotated[str, Word(("text", "json"))] = _set(
        "text", "log", "Lines for people, or one JSON object a line."
    )
    log_repeat_limit: Annotated[float, Number(1.0)] = _set(
        10.0, "log", "Lines of one kind written in a second; the rest are counted."
    )
    model_log: Annotated[Path | None, _OPTIONAL_PATH] = _set(
        None,
        "log",
        "A file that gets the line 'GATEWAY READY model=...' and the line 'model loaded' once, "
        "when the model is ready for the first time, and 'GATEWAY FATAL reason' when the service "
        "gives up; nothing else. Vast's worker watches it.",
    )
    metrics_max_keys: Annotated[int, Whole(0, 100_000)] = _set(
        200, "log", "API keys with figures of their own in /metrics; later ones share 'other'."
    )

    @property
    def checks_keys(self) -> bool:
        """Whether API keys tell callers apart; else all are one."""
        return self.auth_enabled and self.auth_mode == "keys"

    @property
    def one_listener(self) -> bool:
        """Whether the API and the health routes share a port (two free ports never do)."""
        return self.port == self.port_health != 0

    @property
    def engine(self) -> str:
        """The kind of engine that runs: llama-server, llama-cpp-python, mock or external."""
        if self.engine_kind != "auto":
            return self.engine_kind
        if self.use_mock_model:
            return "mock"
        return "external" if self.backend_url else "llama-server"


def _spec(name: str) -> Spec:
    info = Settings.model_fields[name]
    kind = next(part for part in info.metadata if isinstance(part, Kind))
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    return Spec(
        name=name,
        kind=kind,
        default=info.default,
        description=info.description or "",
        **extra,  # type: ignore[arg-type]
    )


SPECS: Mapping[str, Spec] = MappingProxyType({name: _spec(name) for name in Settings.model_fields})
