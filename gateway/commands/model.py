"""``llama-gateway model``: have the model on disk before the service needs it."""

from __future__ import annotations

import click

from backend import BackendError, ConsoleProgress, ResolvedModel, resolve
from gateway.cli import load_or_exit
from gateway.wiring import model_settings

__all__ = ["model"]


@click.group()
def model() -> None:
    """Fetch and check the model."""


@model.command()
def fetch() -> None:
    """Have the model of the settings on disk and checked; print its path."""
    settings = load_or_exit().settings
    if settings.engine != "llama-server":
        click.echo(f"the {settings.engine} engine needs no model file", err=True)
        return
    try:
        found = resolve(model_settings(settings), ConsoleProgress())
    except BackendError as exc:
        raise click.ClickException(str(exc)) from exc
    if found.info is not None:
        click.echo(_described(found), err=True)
    click.echo(found.path or found.hf)


def _described(found: ResolvedModel) -> str:
    info = found.info
    assert info is not None
    parts = [found.name, info.architecture, f"{info.size_bytes >> 20} MiB"]
    if info.context_tokens:
        parts.append(f"trained for {info.context_tokens} tokens")
    return ", ".join(parts)
