"""``llama-gateway engine``: get llama-server, or say which one would run.

The result goes to standard output and everything said on the way to standard error, so that
``LLAMA_SERVER=$(llama-gateway engine build)`` works.
"""

from __future__ import annotations

import click

from backend import BackendError, ConsoleProgress, FoundEngine, build, find, find_or_build
from gateway.cli import load_or_exit
from gateway.settings.model import Settings
from gateway.wiring import find_settings

__all__ = ["engine"]


@click.group()
def engine() -> None:
    """Get llama-server, or say which one would run."""


@engine.command()
def where() -> None:
    """Say which llama-server would run, its version, and why this one."""
    settings = load_or_exit().settings
    if (word := _without_a_binary(settings)) is not None:
        click.echo(word)
        return
    try:
        found = find(find_settings(settings))
    except BackendError as exc:
        raise click.ClickException(str(exc)) from exc
    if found is None:
        raise click.ClickException("no llama-server yet; 'llama-gateway engine build' makes one")
    click.echo(_described(found))


@engine.command("build")
@click.option("--jobs", type=click.IntRange(1), help="Compilers at once; chosen if not given.")
@click.option("--if-missing", is_flag=True, help="Only when none is set, on PATH or built already.")
@click.option("--cuda", type=click.Choice(["auto", "on", "off"]), help="Instead of ENGINE_CUDA.")
def build_command(jobs: int | None, if_missing: bool, cuda: str | None) -> None:
    """Build llama-server from its pinned source, into the cache; print its path."""
    settings = load_or_exit(engine_cuda=cuda).settings
    if if_missing and _without_a_binary(settings) is not None:
        return
    wanted = find_settings(settings)
    progress = ConsoleProgress()
    try:
        if if_missing:
            path = find_or_build(wanted, jobs=jobs, progress=progress).path
        else:
            path = build(wanted.cache_dir, cuda=wanted.cuda, jobs=jobs, progress=progress)
    except BackendError as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(path)


def _without_a_binary(settings: Settings) -> str | None:
    """Say which engine runs when it is not a llama-server of ours; None when it is."""
    return None if settings.engine == "llama-server" else f"engine: {settings.engine}"


def _described(found: FoundEngine) -> str:
    return f"{found.path}\nversion: {found.version}\nfound by: {found.source}"
