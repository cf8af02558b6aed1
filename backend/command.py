"""PURE: settings -> the engine's argument list and environment.

Who owns what:

- The gateway owns where the engine listens, its key, what it exposes, and how much it logs. Extra
  arguments from the operator may tune everything else; `EXTRA_ARGS` that would take one of these
  away are refused here, before anything is started.
- The environment is an allow-list. llama-server reads every option from `LLAMA_ARG_*` too, so a
  stray variable could open a port, switch on shell tools or start a model router.
- The key goes by environment: argument lists are readable by every user of the machine.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from backend.address import Address, TcpAddress, UnixAddress
from backend.errors import BadEngineArgument
from backend.extra_args import refuse_extra_args

EngineKind = Literal["llama-server", "mock"]

# The kernel's limit for a socket path is 107 bytes; the rest is room for a longer DATA_DIR later.
_SOCKET_PATH_LIMIT_BYTES = 104


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """
    What an operator can choose about the engine.

    Attributes:
        kind: Which program speaks the interface.
        binary: The llama-server to run; None for the mock.
        model: A local GGUF file, or None when *hf* names one.
        hf: ``owner/repo[:quant]``, fetched by the engine itself.
        alias: The public model name; it also keeps the file name out of replies.
        ctx: Context tokens of all slots together; None lets the engine fit it to the memory.
        parallel: Slots, at least 1. Never left to the engine, which would let slots share (and
            run out of) one pool.
        ngl: Layers on the GPU, a number or ``auto`` or ``all``; None is the engine's own default.
        tensor_split, split_mode: How to spread over several GPUs.
        threads: CPU threads for generation.
        batch_tokens: Tokens per prefill batch. A cancelled prompt is noticed between two batches,
            so this bounds how long a vanished client holds its slot.
        embeddings, rerank: Serve these routes instead of text.
        pooling: ``mean``, ``cls``, ``last`` or ``rank``.
        mmproj: Projector file for image and audio input.
        slot_save_dir: Private folder in which the engine may write what its slots hold; None
            leaves that switched off. It must exist when the engine starts.
        extra_args: More arguments, checked against the refused ones.
    """

    kind: EngineKind = "llama-server"
    binary: Path | None = None
    model: Path | None = None
    hf: str | None = None
    alias: str = "default"
    ctx: int | None = None
    parallel: int = 4
    ngl: int | str | None = None
    tensor_split: str | None = None
    split_mode: str | None = None
    threads: int | None = None
    batch_tokens: int = 512
    embeddings: bool = False
    rerank: bool = False
    pooling: str | None = None
    mmproj: Path | None = None
    slot_save_dir: Path | None = None
    extra_args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """
    Everything needed to start one engine.

    Attributes:
        argv: Program and arguments; holds no secret.
        env: The whole environment of the child. Holds the key, hence no repr.
        address: Where it will listen.
        key: The key that it will ask for.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    address: Address
    key: str = field(repr=False)


def build_command(
    settings: EngineSettings, *, address: Address, key: str, environ: Mapping[str, str]
) -> EngineCommand:
    """
    Put the start line together.

    Args:
        settings: The operator's choices.
        address: Where the engine is to listen. A Unix socket path must end in ``.sock``: that is
            how llama-server tells it from a host name.
        key: The engine's key, not empty.
        environ: The gateway's own environment, to pick from.

    Raises:
        BadEngineArgument: An extra argument that is refused, or settings that no engine could run.
    """
    _check(settings, address, key)
    argv = _mock_argv(settings, address) if settings.kind == "mock" else _llama(settings, address)
    env = {**clean_environment(environ, settings), "LLAMA_API_KEY": key}
    return EngineCommand((*argv, *settings.extra_args), MappingProxyType(env), address, key)


def _check(settings: EngineSettings, address: Address, key: str) -> None:
    refuse_extra_args(settings.extra_args)
    if not key or "," in key:
        raise BadEngineArgument("the engine key must not be empty nor hold a comma")
    if settings.parallel < 1:
        raise BadEngineArgument(f"PARALLEL must be at least 1, not {settings.parallel}")
    if isinstance(address, UnixAddress):
        _check_socket_path(address.path)
    if settings.kind == "llama-server":
        if settings.binary is None:
            raise BadEngineArgument("no llama-server program was given")
        if (settings.model is None) == (settings.hf is None):
            raise BadEngineArgument("give the engine either a model file or a Hugging Face name")


def _check_socket_path(path: str) -> None:
    if not path.endswith(".sock"):
        raise BadEngineArgument(f"the engine's socket path must end in .sock: {path}")
    if len(path.encode()) > _SOCKET_PATH_LIMIT_BYTES:
        raise BadEngineArgument(f"the engine's socket path is too long for a Unix socket: {path}")


# --- argument lists ---------------------------------------------------------------------------


def _listen(address: Address) -> tuple[str, ...]:
    if isinstance(address, TcpAddress):
        return ("--host", address.host, "--port", str(address.port))
    return ("--host", address.path)


def _mock_argv(settings: EngineSettings, address: Address) -> list[str]:
    argv = [sys.executable, "-m", "backend.mock", *_listen(address)]
    argv += ["--alias", settings.alias, "--parallel", str(settings.parallel)]
    argv += _option("--ctx-size", settings.ctx)
    argv += ["--sse-ping-interval", "-1"]
    argv += ["--embeddings"] if settings.embeddings else []
    argv += ["--reranking"] if settings.rerank else []
    argv += _option("--slot-save-path", settings.slot_save_dir)
    return argv


def _llama(settings: EngineSettings, address: Address) -> list[str]:
    argv = [str(settings.binary), *_model(settings), "--alias", settings.alias, *_listen(address)]
    argv += ["--parallel", str(settings.parallel), "--no-kv-unified", *_context(settings)]
    argv += _batches(settings)
    argv += _option("--n-gpu-layers", settings.ngl)
    argv += _option("--tensor-split", settings.tensor_split)
    argv += _option("--split-mode", settings.split_mode)
    argv += _option("--threads", settings.threads)
    argv += ["--embeddings"] if settings.embeddings else []
    argv += ["--reranking"] if settings.rerank else []
    argv += _option("--pooling", settings.pooling)
    argv += _option("--mmproj", settings.mmproj)
    argv += _option("--slot-save-path", settings.slot_save_dir)
    # Its thread pool grows too slowly in a burst and an idle connection holds a thread, so it gets
    # one thread per connection that the gateway could hold, and some for probes and counting.
    argv += ["--threads-http", str(2 * settings.parallel + 16)]
    argv += ["--metrics", "--no-ui", "--cors-origins", "localhost", "--no-cors-credentials"]
    # The host-memory prompt cache defaults to 8 GiB, which small boxes do not have.
    argv += ["--cache-ram", "0"]
    # The gateway sends its own heartbeats; the engine's come late or never on a busy server.
    argv += ["--sse-ping-interval", "-1"]
    return argv


def _model(settings: EngineSettings) -> list[str]:
    if settings.model is not None:
        return ["--model", str(settings.model), "--offline"]
    return ["--hf-repo", str(settings.hf)]


def _context(settings: EngineSettings) -> list[str]:
    if settings.ctx is None:
        return []
    # Without this, other unset numbers would be fitted to the memory free at that moment, and the
    # same settings would start differently from one day to the next.
    return ["--ctx-size", str(settings.ctx), "--fit", "off"]


def _batches(settings: EngineSettings) -> list[str]:
    tokens = settings.batch_tokens
    if (settings.embeddings or settings.rerank) and settings.ctx is not None:
        # An input longer than one physical batch is an error there, so a batch is a whole slot.
        tokens = max(tokens, settings.ctx // settings.parallel)
    return ["--batch-size", str(tokens), "--ubatch-size", str(tokens)]


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


# --- environment ------------------------------------------------------------------------------

_KEPT = frozenset(
    {
        *("PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "TZ"),
        *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "ROCR_VISIBLE_DEVICES"),
        *("OMP_NUM_THREADS", "XDG_CACHE_HOME"),
    }
)
_KEPT_PREFIXES = ("CUDA_", "HIP_", "HSA_", "GGML_")
# Only an engine that fetches its model itself needs to know about the network.
_KEPT_FOR_FETCHING = frozenset(
    {
        *("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "MODEL_ENDPOINT", "LLAMA_CACHE"),
        *("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)


def clean_environment(environ: Mapping[str, str], settings: EngineSettings) -> dict[str, str]:
    """Pick what an engine needs from *environ*; everything else stays behind."""
    env = {name: value for name, value in environ.items() if _is_kept(name, settings)}
    # On an assertion the engine would start a debugger for a backtrace, if it finds one.
    env["GGML_NO_BACKTRACE"] = "1"
    return env


def _is_kept(name: str, settings: EngineSettings) -> bool:
    if name in _KEPT or name.startswith(_KEPT_PREFIXES):
        return True
    if settings.kind == "mock":
        return name.startswith("MOCK_") or name in ("PYTHONPATH", "VIRTUAL_ENV")
    return settings.hf is not None and name in _KEPT_FOR_FETCHING
