"""``llama-gateway config``: the effective settings and where each came from."""

from __future__ import annotations

import json

import click

from gateway.cli import load_or_exit, settings_options
from gateway.config import Loaded
from gateway.settings.model import GROUPS, SPECS

__all__ = ["config"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--changed", is_flag=True, help="Only what is not a plain default.")
@settings_options
def config(as_json: bool, changed: bool, **given: object) -> None:
    """Show the effective settings and where each came from; secrets are masked."""
    loaded = load_or_exit(**given)  # type: ignore[arg-type]
    names = [name for name in SPECS if not changed or loaded.origins[name] != "default"]
    click.echo(_as_json(loaded, names) if as_json else _as_text(loaded, names))
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)


def _shown(loaded: Loaded, name: str) -> str:
    return SPECS[name].masked(getattr(loaded.settings, name))


def _plain(loaded: Loaded, name: str) -> object:
    """The value as JSON has it, unless something in it must be masked."""
    value = getattr(loaded.settings, name)
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float | None) else _shown(loaded, name)


def _as_json(loaded: Loaded, names: list[str]) -> str:
    settings = {
        SPECS[name].env: {
            "value": _plain(loaded, name),
            "origin": loaded.origins[name],
        }
        for name in names
    }
    whole = {
        "profile": loaded.profile,
        "settings": settings,
        "warnings": loaded.warnings,
    }
    return json.dumps(whole, indent=2)


def _as_text(loaded: Loaded, names: list[str]) -> str:
    rows = {name: (SPECS[name].env, _shown(loaded, name) or "-") for name in names}
    name_width = max((len(env) for env, _ in rows.values()), default=0)
    value_width = min(max((len(value) for _, value in rows.values()), default=0), 36)
    lines: list[str] = []
    for group, title in GROUPS.items():
        inside = [name for name in names if SPECS[name].group == group]
        if inside:
            lines += ["", f"# {title}"]
        lines += [
            f"{rows[name][0]:{name_width}}  {rows[name][1]:{value_width}}  {loaded.origins[name]}"
            for name in inside
        ]
    return "\n".join(lines).lstrip("\n")
