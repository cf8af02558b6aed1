"""What these programs share: running the features that the command line names."""

import os
import sys
from collections.abc import Callable


class Skipped(Exception):  # noqa: N818
    """A feature that cannot be shown here, and why."""


def breaking_prompt() -> str:
    """What makes the engine fail in the middle of a stream; no model does that by itself."""
    variable = "LLAMA_GATEWAY_BROKEN_PROMPT"
    if not os.environ.get(variable):
        raise Skipped(f"set {variable} to a prompt that makes the engine fail")
    return os.environ[variable]


def run(*features: Callable, call: Callable = lambda feature: feature()) -> None:
    """Run the features named in argv, or all, and say what each of them saw.

    A program ends with a traceback at the first that fails, and with status 2, before any is run,
    when a name is unknown.
    """
    known = {feature.__name__: feature for feature in features}
    names = sys.argv[1:] or list(known)
    if unknown := [name for name in names if name not in known]:
        print(f"no feature {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    for name in names:
        try:
            print(f"{name}: ok, {call(known[name])!r}", flush=True)
        except Skipped as why:
            print(f"{name}: skipped, {why}", flush=True)
