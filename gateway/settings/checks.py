"""PURE: what settings must hold together, beyond each one by itself.

A problem stops the start; a warning is logged and the service runs. Something that cannot work
is a problem; something that works, but perhaps not as meant, is a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from backend import BadEngineArgument, refuse_extra_args
from gateway.settings.model import Settings

__all__ = ["Clash", "clashes", "near_miss", "worries"]

_MODEL_SOURCES = ("model_path", "model_url", "model_hf")
_NOT_BUILT = ("external", "llama-cpp-python")
_LOOPBACK = ("127.", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Clash:
    """Settings that cannot go together; *names* has the one to show first."""

    names: tuple[str, ...]
    message: str


def clashes(settings: Settings, chosen: Collection[str]) -> list[Clash]:
    """Every reason why *settings* cannot work together."""
    return [*_engine_clashes(settings), *_other_clashes(settings, chosen)]


def _engine_clashes(s: Settings) -> Iterator[Clash]:
    if s.use_mock_model and s.engine_kind not in ("auto", "mock"):
        yield Clash(
            ("use_mock_model", "engine_kind"), "must be false, or ENGINE_KIND must be mock or auto"
        )
    if s.use_mock_model and s.backend_url:
        yield Clash(("use_mock_model", "backend_url"), "must be false, as BACKEND_URL is set")
    if s.engine_kind == "external" and not s.backend_url:
        yield Clash(("backend_url", "engine_kind"), "must be set, as ENGINE_KIND is external")
    if s.backend_url and s.engine_kind not in ("auto", "external"):
        yield Clash(
            ("backend_url", "engine_kind"), "must be unset, or ENGINE_KIND must be external or auto"
        )
    if s.engine in _NOT_BUILT:
        name = "backend_url" if s.backend_url else "engine_kind"
        yield Clash((name,), f"must be unset: the engine {s.engine} is not supported yet")
    try:
        refuse_extra_args(s.extra_args)
    except BadEngineArgument as exc:
        yield Clash(("extra_args",), str(exc))
    if s.embeddings and s.rerank:
        yield Clash(("rerank", "embeddings"), "must be false, as EMBEDDINGS is true: choose one")
    if s.rerank and s.pooling not in (None, "rank"):
        yield Clash(("pooling", "rerank"), "must be rank (or unset), as RERANK is true")
    if s.tensor_split and not any(s.tensor_split):
        yield Clash(("tensor_split",), "must hold at least one number above 0")
    if s.ctx and s.ctx // s.parallel < 64:
        least = 64 * s.parallel
        yield Clash(("ctx", "parallel"), f"must be at least {least}: 64 for each slot of PARALLEL")


def _other_clashes(s: Settings, chosen: Collection[str]) -> Iterator[Clash]:
    if s.port == 65535 and "port_health" not in chosen:
        yield Clash(("port_health", "port"), "must be set, as PORT + 1 is no port")
    if s.max_header_block_size < s.max_header_line_size:
        least = s.max_header_line_size
        yield Clash(
            ("max_header_block_size", "max_header_line_size"),
            f"must be at least MAX_HEADER_LINE_SIZE ({least})",
        )
    if s.max_body_memory < s.max_request_body_size:
        yield Clash(
            ("max_body_memory", "max_request_body_size"), "must be at least MAX_REQUEST_BODY_SIZE"
        )
    if s.stream_memory < s.stream_buffer_bytes:
        yield Clash(
            ("stream_memory", "stream_buffer_bytes"), "must be at least STREAM_BUFFER_BYTES"
        )
    if s.auth_keys_file == s.auth_pepper_file:
        yield Clash(("auth_pepper_file", "auth_keys_file"), "must not be the keys file itself")


def worries(settings: Settings, chosen: Collection[str]) -> list[str]:
    """What works, but perhaps not as it was meant."""
    return [
        *_model_worries(settings, chosen),
        *_access_worries(settings),
        *_stream_worries(settings),
        *_idle_worries(settings),
    ]


def _model_worries(s: Settings, chosen: Collection[str]) -> Iterator[str]:
    given = [n for n in _MODEL_SOURCES if n in chosen and getattr(s, n) is not None]
    if given and s.engine in ("mock", "external"):
        yield f"{given[0].upper()} has no effect: the engine is {s.engine}"
    elif len(given) > 1:
        rest = ", ".join(n.upper() for n in given[1:])
        yield f"{given[0].upper()} decides the model; {rest} has no effect"
    if s.model_sha256 and not s.model_url:
        yield "MODEL_SHA256 has no effect without MODEL_URL"


def _access_worries(s: Settings) -> Iterator[str]:
    local = s.host.startswith(_LOOPBACK)
    if not s.auth_enabled and not local:
        yield f"AUTH_ENABLED is false and HOST is {s.host}: anyone who can connect may use this"
    if s.auth_enabled and s.auth_mode == "platform" and s.platform == "generic" and not local:
        yield "AUTH_MODE is platform, but no platform is known here that checks callers"


def _stream_worries(s: Settings) -> Iterator[str]:
    if s.client_stall_timeout >= s.request_timeout:
        yield (
            "CLIENT_STALL_TIMEOUT is not below REQUEST_TIMEOUT: an engine that is held back for a "
            "slow reader is taken for a silent one"
        )


def _idle_worries(s: Settings) -> Iterator[str]:
    if s.idle_save_slots and s.idle_action != "unload":
        yield f"IDLE_SAVE_SLOTS has no effect: IDLE_ACTION is {s.idle_action}, not unload"
    if s.idle_save_slots and s.prompt_cache_scope == "key":
        yield "IDLE_SAVE_SLOTS has no effect: PROMPT_CACHE_SCOPE is key"


def near_miss(name: str, known: Mapping[str, object] | Collection[str]) -> str | None:
    """
    The one of *known* that *name* is a slip of the pen away from, if any.

    One edit (letter lost, added, changed, or two swapped), two from 12 letters on. Shorter names
    than five letters are left alone: PORT is one letter from too many honest names.
    """
    if len(name) < 5:
        return None
    limit = 2 if len(name) >= 12 else 1
    for candidate in known:
        close = abs(len(candidate) - len(name)) <= limit and len(candidate) >= 5
        if close and candidate != name and _edits(name, candidate, limit) <= limit:
            return candidate
    return None


def _edits(a: str, b: str, limit: int) -> int:
    """Optimal string alignment distance of *a* and *b*; more than *limit* may be any such."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
        before, last = last, row
    return last[-1]
