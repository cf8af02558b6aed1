"""``llama-gateway check``: says, a line each, whether the service could start here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from gateway.cli import settings_options
from gateway.commands.findings import Finding, examine, settings_findings
from gateway.config import SettingsError, load
from gateway.observe.redaction import escape_controls

__all__ = ["check"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@settings_options
def check(
    as_json: bool,
    profile: str | None,
    config_dir: Path | None,
    **flags: object,
) -> None:
    """Look at all that the service will need; exit code 1 if something is missing."""
    # What the parts log on the way is in the findings already.
    logging.getLogger().addHandler(logging.NullHandler())
    findings: Iterable[Finding]
    try:
        findings = examine(load(flags=flags, profile=profile, config_dir=config_dir))
    except SettingsError as exc:
        findings = settings_findings(exc.problems)
    told = []
    for finding in findings:
        told.append(finding)
        if not as_json:
            click.echo(_line(finding))
    failed = any(finding.level == "fail" for finding in told)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [asdict(f) for f in told]}, indent=2))
    if failed:
        raise SystemExit(1)


def _line(finding: Finding) -> str:
    word = "FAIL" if finding.level == "fail" else finding.level
    todo = f" -> {finding.todo}" if finding.todo else ""
    text = escape_controls(f"{finding.check:9}{finding.message}{todo}")
    return f"{click.style(f'{word:5}', fg=_COLOURS[finding.level])}{text}"
