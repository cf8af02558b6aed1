"""Users of the ``openai`` package, all at once, as a program of its own.

Runs with whatever generation of the package can be imported, and with nothing else of ours. Each
client is as the package makes it but for where it sends to: its retries are the default ones. One
JSON line is printed for each: the outcome, how often it tried again, how long it took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

import openai


async def one(
    client: openai.AsyncOpenAI, text: str, stream: bool, go: asyncio.Event
) -> dict[str, Any]:
    await go.wait()
    started_s = time.monotonic()
    told: dict[str, Any] = {"outcome": "answered", "retries": 0, "stream": stream}
    messages: Any = [{"role": "user", "content": text}]
    create = client.chat.completions.with_raw_response.create
    try:
        raw = await create(model="mock", messages=messages, stream=stream)
        told["retries"] = raw.retries_taken
        answer: Any = raw.parse()
        parts = [part async for part in answer] if stream else [answer]
        told["finish"] = parts[-1].choices[0].finish_reason
    except openai.APIError as error:
        told["outcome"] = f"{type(error).__name__} {getattr(error, 'code', None)}"
        told["detail"] = str(error)
        told["retries"] = client.max_retries
    told["took_s"] = time.monotonic() - started_s
    return told


async def crowd(options: argparse.Namespace) -> list[dict[str, Any]]:
    clients = [
        openai.AsyncOpenAI(base_url=options.base_url, api_key=options.key)
        for _ in range(options.clients)
    ]
    go = asyncio.Event()
    tasks = [
        asyncio.ensure_future(one(client, options.text, number % 2 == 0, go))
        for number, client in enumerate(clients)
    ]
    await asyncio.sleep(0)
    go.set()
    return list(await asyncio.gather(*tasks))


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask with many clients at the same time.")
    parser.add_argument("--base-url", required=True, help="ends in /v1")
    parser.add_argument("--key", required=True)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--text", default="Tell me a story.")
    for told in asyncio.run(crowd(parser.parse_args())):
        sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
