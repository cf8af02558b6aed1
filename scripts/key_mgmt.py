#!/usr/bin/env python3
"""Make and change API keys: ``scripts/key_mgmt.py --help``. See docs/keys.md.

Runs from any directory, with the project's virtual environment or an installed llama-gateway.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

try:
    from keys.cli import main
except ModuleNotFoundError as exc:
    root = Path(__file__).resolve().parent.parent
    sys.exit(
        f"key_mgmt.py needs the Python package '{exc.name}', which is not installed for "
        f"{sys.executable}.\nRun 'make setup' in {root} once, then use "
        f"'{root}/.venv/bin/python {root}/scripts/key_mgmt.py'."
    )

if __name__ == "__main__":
    main(prog_name="key_mgmt.py")
