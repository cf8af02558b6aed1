"""PURE: which extra engine arguments an operator may not give.

Each is the gateway's own to set, or would open a hole: a file, a shell, another port, a log of
prompts. The engine takes the last of two equal options, so an extra argument would win.
"""

from collections.abc import Iterator, Sequence

from backend.errors import BadEngineArgument

_REFUSED = {
    "--host": "the gateway chooses where the engine listens",
    "--port": "the gateway chooses where the engine listens",
    "--reuse-port": "another process could take over the engine's port",
    "--path": "it would serve files",
    "--api-prefix": "it moves the routes that the gateway uses",
    "--agent": "it lets requests run commands",
    "-ag": "it lets requests run commands",
    "--ui": "the engine is not reachable by browsers",
    "--webui": "the engine is not reachable by browsers",
    "--media-path": "it makes local files readable by requests",
    "--slot-save-path": "it lets requests write files",
    "--log-prompts-dir": "prompts are never written down",
    "--verbose": "it writes prompts to the log",
    "--log-verbose": "it writes prompts to the log",
    "-v": "it writes prompts to the log",
    "--rpc": "it exposes memory of other machines on the network",
    "--props": "it lets requests change settings",
    "--sleep-idle-seconds": "it crashes several engine versions; the gateway unloads by itself",
    "--sse-ping-interval": "the gateway sends the heartbeats",
    "--log-jsonl": "the gateway reads the engine's plain log lines",
}
_REFUSED_PREFIXES = {
    "--api-key": "the engine's only key is the gateway's",
    "--ssl": "the gateway speaks plain HTTP to the engine",
    "--tools": "they let requests run commands",
    "--mcp": "they let requests run commands",
    "--ui-": "the engine is not reachable by browsers",
    "--webui-": "the engine is not reachable by browsers",
    "--models-": "one engine serves one model",
}
_VERBOSITY = frozenset({"-lv", "--verbosity", "--log-verbosity"})
_LOUDEST_WITHOUT_PROMPTS = 4


def refuse_extra_args(extra_args: Sequence[str]) -> None:
    """
    Check the operator's extra arguments.

    Raises:
        BadEngineArgument: One of them is the gateway's to set, or would open a hole. The message
            names the argument and the reason.
    """
    for name, value in _pairs(extra_args):
        reason = _REFUSED.get(name) or _prefix_reason(name) or _verbosity_reason(name, value)
        if reason is not None:
            raise BadEngineArgument(f"EXTRA_ARGS may not hold {name} ({reason})")


def _pairs(extra_args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each argument, spelled as the engine will read it, and the one after it."""
    for position, argument in enumerate(extra_args):
        name, _, inline = argument.partition("=")
        follower = extra_args[position + 1] if position + 1 < len(extra_args) else ""
        # llama.cpp reads --api_key as --api-key.
        name = name.replace("_", "-") if name.startswith("--") else name
        yield name, inline or follower


def _prefix_reason(name: str) -> str | None:
    return next((why for start, why in _REFUSED_PREFIXES.items() if name.startswith(start)), None)


def _verbosity_reason(name: str, value: str) -> str | None:
    if name not in _VERBOSITY:
        return None
    quiet = value.isdecimal() and int(value) <= _LOUDEST_WITHOUT_PROMPTS
    return None if quiet else "above 4 the engine writes prompts to the log"
