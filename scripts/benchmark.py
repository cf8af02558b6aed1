#!/usr/bin/env python3
"""How fast does an OpenAI-compatible endpoint answer? ``scripts/benchmark.py --help``.

Runs from any directory, with the project's virtual environment if there is one, else with the
Python that it was started by. What it is made of is in ``scripts/benchmarking``.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
VENV_BIN = ROOT / ".venv" / "bin"
if (VENV_BIN / "python").exists() and Path(sys.executable).parent != VENV_BIN:
    # Another Python may have other versions of what this needs, or nothing of it at all.
    os.execv(VENV_BIN / "python", [str(VENV_BIN / "python"), *sys.argv])

try:
    import click
    from benchmarking.document import document
    from benchmarking.figures import Run
    from benchmarking.measure import Book, CannotMeasure, measure
    from benchmarking.options import EPILOG, FILE, SECONDS, Fields, Key, Levels, Url
    from benchmarking.page import page
    from benchmarking.plan import Endpoint, Plan
    from benchmarking.progress import Progress
    from benchmarking.table import render
except ModuleNotFoundError as exc:
    sys.exit(
        f"benchmark.py needs the Python package '{exc.name}', which is not installed for "
        f"{sys.executable}.\nRun 'make setup' in {ROOT} once."
    )

_ROUNDS_IN_TURNS = 3


@click.command(epilog=EPILOG, context_settings={"max_content_width": 96})
@click.option(
    "--base-url",
    type=Url(),
    default="http://127.0.0.1:8000/v1",
    show_default=True,
    help="What stands before /chat/completions.",
)
@click.option(
    "--api-key",
    type=Key(),
    default="",
    envvar="OPENAI_API_KEY",
    help="Its key [$OPENAI_API_KEY, which keeps it out of the process list]. Written nowhere.",
)
@click.option("--model", help="Which model [the first that GET /models lists].")
@click.option(
    "--compare",
    type=Url(),
    help="A second endpoint, measured in turns with the first; adds ratios first / second.",
)
@click.option(
    "--compare-api-key",
    type=Key(),
    default="",
    envvar="COMPARE_API_KEY",
    help="Its key [$COMPARE_API_KEY]. Without one none is sent: never the first one's.",
)
@click.option("--compare-model", help="Its model [--model, else the first that it lists].")
@click.option(
    "--concurrency",
    type=Levels(),
    default=(1, 4, 16),
    help="Levels: streams at a time [1,4,16].",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1, max=1_000_000),
    help="Requests at each level, at least one for each stream and round [4 for each of them].",
)
@click.option(
    "--seconds",
    type=SECONDS,
    help="Instead: begin requests for so long at each level.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1, max=100),
    help="Parts of each level, between which endpoints take turns [3 with --compare, else 1].",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1, max=1_000_000),
    default=128,
    show_default=True,
    help="Of an answer.",
)
@click.option(
    "--prompt-tokens",
    type=click.IntRange(min=1, max=1_000_000),
    default=64,
    show_default=True,
    help="About how long a prompt is.",
)
@click.option("--prompt", help="Send this each time instead (caches may then help).")
@click.option("--body", type=Fields(), default=dict, help="More fields for each request.")
@click.option(
    "--timeout", type=SECONDS, default=120.0, show_default=True, help="Seconds for one request."
)
@click.option(
    "--budget",
    type=SECONDS,
    default=900.0,
    show_default=True,
    help="Seconds for all of it; then it ends with what there is, as with Ctrl+C.",
)
@click.option(
    "--max-failures",
    type=click.FloatRange(0, 100),
    default=5.0,
    show_default=True,
    help="Percent of the requests that may fail.",
)
@click.option("--json", "json_file", type=FILE, help="Write all figures there; - for stdout.")
@click.option("--html", "html_file", type=FILE, help="Write a report with plots there.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="A bar [if stderr is a terminal, else a line for each level].",
)
def main(**given: Any) -> None:
    """Measure an OpenAI-compatible endpoint with streamed chats.

    Works against this gateway, llama-server, vLLM, OpenAI and their like. Prints a table of times
    to the first token, times between tokens, latencies and tokens a second at several numbers of
    streams.
    """
    context = click.get_current_context()
    if given["requests"] and given["seconds"]:
        raise click.UsageError("Give either --requests or --seconds.")
    for name in ("compare_api_key", "compare_model"):
        by_hand = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if by_hand and not given["compare"]:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --compare.")
    for path in (given["json_file"], given["html_file"]):
        if path is not None and not path.parent.is_dir():
            raise click.UsageError(f"There is no folder {path.parent}.")
    context.exit(_run(_plan(given), _endpoints(given), given))


def _plan(given: dict[str, Any]) -> Plan:
    return Plan(
        concurrency=given["concurrency"],
        requests=given["requests"],
        seconds=given["seconds"],
        rounds=given["rounds"] or (_ROUNDS_IN_TURNS if given["compare"] else 1),
        max_tokens=given["max_tokens"],
        prompt_tokens=given["prompt_tokens"],
        prompt=given["prompt"],
        extra=given["body"],
        timeout_s=given["timeout"],
        budget_s=given["budget"],
    )


def _endpoints(given: dict[str, Any]) -> list[Endpoint]:
    endpoints = [Endpoint(given["base_url"], given["api_key"], given["model"])]
    if given["compare"]:
        model = given["compare_model"] or given["model"]
        endpoints.append(Endpoint(given["compare"], given["compare_api_key"], model))
    return endpoints


def _run(plan: Plan, endpoints: list[Endpoint], given: dict[str, Any]) -> int:
    """Measure, print, write; the exit code."""
    started_at = datetime.now(UTC).astimezone()
    started_s = time.perf_counter()
    book = Book(endpoints)
    asked, terminal = given["progress"], sys.stderr.isatty()
    progress = Progress(
        plan,
        [each.base_url for each in endpoints],
        bar=terminal if asked is None else asked,
        lines=asked is None and not terminal,
    )
    try:
        ended_by = _loop_runner()(_until_stopped(measure(plan, book, progress)))
    except CannotMeasure as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    finally:
        progress.close()
    run = Run(book.figures(), ended_by, time.perf_counter() - started_s)
    if not any(each.requests for each in run.endpoints):
        click.echo("Error: it ended before anything was measured.", err=True)
        return 1
    return _report(run, plan, started_at, given)


async def _until_stopped(
    work: Coroutine[Any, Any, None],
) -> Literal["interrupt", "budget"] | None:
    """Do *work*; Ctrl+C and SIGTERM end it, a second one ends the program."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    stopped = False

    def stop(number: int) -> None:
        nonlocal stopped
        stopped = True
        task.cancel()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop, number)
    try:
        await task
    except TimeoutError:
        return "budget"
    except asyncio.CancelledError:
        if not stopped:
            raise
    return "interrupt" if stopped else None


def _loop_runner() -> Callable[..., Any]:
    """``asyncio.run``, or uvloop's, which measures with less of the processor."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run
    return uvloop.run


def _report(run: Run, plan: Plan, started_at: datetime, given: dict[str, Any]) -> int:
    loop = _loop_runner().__module__.partition(".")[0]
    client = {"python": platform.python_version(), "loop": loop, "system": platform.platform()}
    figures = document(run, plan, client, started_at.isoformat(timespec="seconds"))
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    to_stdout = given["json_file"] == Path("-")
    click.echo(text if to_stdout else render(run), nl=not to_stdout)
    words = f"measured with Python {client['python']} on {loop}"
    when = started_at.strftime("%Y-%m-%d %H:%M %Z")
    files = [(given["json_file"], text), (given["html_file"], page(run, plan, when, words))]
    try:
        for path, content in files:
            if path is not None and path != Path("-"):
                path.write_text(content, encoding="utf-8")
    except OSError as error:
        click.echo(f"Error: {error.filename} cannot be written: {error.strerror}", err=True)
        return 1
    return 0 if run.good(given["max_failures"] / 100) else 1


if __name__ == "__main__":
    main()
