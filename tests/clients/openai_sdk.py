"""What users of the ``openai`` package do, as a program: it says of each thing whether it works.

Runs with whatever generation of the package can be imported, and with nothing else of ours:

    python -m tests.clients.openai_sdk --base-url http://127.0.0.1:8000/v1 --key sk-... chat

The last words are groups of checks (see `CHECKS`) or single ones, written ``group.name``. One JSON
line is printed for each check: name, ok, detail. Errors are looked at with ``max_retries=0``.
Which server a group needs:

- ``chat``: one whose model calls a tool when it has any, on slots of 2,048 tokens; at temperature
  0 it must not end an answer by itself; ``--limited-key`` without the scope inference; bodies
  are bounded to 2 MB; no embeddings;
- ``embeddings``, ``rerank``: one that does these;
- ``faults``: the mock engine, whose answers are scripted by the question; REQUEST_TIMEOUT 2 s;
- ``full``: the mock engine with one slot and no queue;
- ``loading``: one that does not get ready, where waiting is bounded by a second;
- ``draining``: the mock engine, and ``--pid`` of the gateway, which is told to stop.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from typing import Any

from tests.clients import sdk_chat, sdk_faults, sdk_refusals, sdk_tools, sdk_vectors  # noqa: F401
from tests.clients.sdk_kit import CHECKS, Check, Target


def outcome(name: str, function: Check, target: Target) -> dict[str, Any]:
    started_s = time.monotonic()
    try:
        ok, detail = True, function(target)
    except Exception:
        ok, detail = False, traceback.format_exc(limit=-4)
    return {"name": name, "ok": ok, "detail": detail, "took_s": time.monotonic() - started_s}


def chosen(words: list[str]) -> dict[str, Check]:
    every = {
        f"{group}.{name}": function
        for group, checks in CHECKS.items()
        for name, function in checks.items()
    }
    return {
        name: function
        for name, function in every.items()
        if name in words or name.partition(".")[0] in words
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a service with the openai package.")
    parser.add_argument("--base-url", required=True, help="ends in /v1")
    parser.add_argument("--key", required=True)
    parser.add_argument("--limited-key", default="", help="a key without the scope inference")
    parser.add_argument("--pid", type=int, default=0, help="the gateway, to be told to stop")
    parser.add_argument("checks", nargs="+", help=f"of {', '.join(CHECKS)}, or group.name")
    args = parser.parse_args()
    target = Target(args.base_url, args.key, args.limited_key, args.pid)
    bad = 0
    for name, function in chosen(args.checks).items():
        result = outcome(name, function, target)
        bad += not result["ok"]
        sys.stdout.write(json.dumps(result, default=repr) + "\n")
        sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
