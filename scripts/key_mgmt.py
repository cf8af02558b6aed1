#!/usr/bin/env python3
"""Make and change API keys: ``scripts/key_mgmt.py --help``. See docs/keys.md.

Runs from any directory, with the project's virtual environment if there is one, else with the
Python that it was started by.
Unless told otherwise it works on the files that the service itself would use, so it reads the
service's settings the way the service does.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV_BIN = ROOT / ".venv" / "bin"
if (VENV_BIN / "python").exists() and Path(sys.executable).parent != VENV_BIN:
    # Another Python may have other versions of what this needs, or nothing of it at all.
    os.execv(VENV_BIN / "python", [str(VENV_BIN / "python"), *sys.argv])

sys.path.insert(0, str(ROOT))

try:
    import click

    from gateway.config import SettingsError, environment, load
    from keys.cli import run
except ModuleNotFoundError as exc:
    sys.exit(
        f"key_mgmt.py needs the Python package '{exc.name}', which is not installed for "
        f"{sys.executable}.\nRun 'make setup' in {ROOT} once, then use "
        f"'{ROOT}/.venv/bin/python {ROOT}/scripts/key_mgmt.py'."
    )


def service_files() -> tuple[Path, Path] | None:
    """The keys file and the pepper of the service; None while its settings cannot be used."""
    try:
        settings = load(environment()).settings
    except SettingsError as exc:
        click.echo(f"The service's settings cannot be used ({exc}); going by --data-dir.", err=True)
        return None
    # The service is started in the checkout; this may be called from anywhere.
    return ROOT / settings.auth_keys_file, ROOT / settings.auth_pepper_file


if __name__ == "__main__":
    run(service_files)
