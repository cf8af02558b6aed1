"""Makes the settings' reference page and the example environment file from the settings.

``python -m gateway.settings.page`` writes both; a test holds them to the code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.settings.kinds import Duration, Size
from gateway.settings.model import GROUPS, SPECS, Spec

__all__ = ["FILES", "env_example", "main", "reference_page"]

_INTRO = """\
# Settings

<!-- Made by `make docs` from gateway/settings/model.py; edit that file. -->

Every setting has one name: `MAX_QUEUE_SIZE` in the environment, `max_queue_size` in a YAML file,
`--max-queue-size` on the command line. Later wins:

1. built in
2. `config/base.yaml`
3. `config/<profile>.yaml`, where the profile comes from `--profile` or `GATEWAY_PROFILE`
   (`dev` and `prod` are there)
4. the environment; an empty variable counts as not set
5. flags; secrets have none, because everybody on the machine can read a process's arguments

The YAML files lie in `config/` beside the package in a checkout, or in the folder that
`GATEWAY_CONFIG_DIR` (or `--config-dir`) names. They are flat: one `name: value` a line. Without the
folder the service runs on what is built in, unless a profile is asked for.

All settings are checked at the start and everything wrong is reported at once, with exit code 2.
An unknown key in a YAML file is an error; an environment variable that looks like a misspelt
setting is a warning. `llama-gateway config` shows every value in use and where it came from.

How values are written:

- seconds: `30`, `30s`, `250ms`, `5m`, `2h`
- sizes: `8388608`, `8MiB` (or `8M`), `64KiB`, `30MB` (30,000,000)
- switches: `true` or `false`; `yes`, `no`, `on`, `off`, `1`, `0` as well
- lists: with commas; in YAML also as a list
- `none` and `auto` where a setting says so
"""

_ENV_INTRO = """\
# Settings for docker compose and the like: copy to .env and take the '# ' away from what you
# change. What each one means is in docs/settings.md. Made by 'make docs'.

# Lays config/<profile>.yaml over config/base.yaml: dev or prod.
# GATEWAY_PROFILE=prod
"""


def reference_page() -> str:
    """docs/settings.md."""
    parts = [_INTRO]
    for group, title in GROUPS.items():
        parts.append(f"\n## {title}\n")
        parts += [_entry(spec) for spec in SPECS.values() if spec.group == group]
    return "".join(parts)


def _entry(spec: Spec) -> str:
    lines = [
        "",
        f"### `{spec.env}`",
        "",
        spec.description,
        "",
        f"- Value: {spec.kind.explain()}{_unit(spec)}",
        f"- Default: {_default(spec)}",
    ]
    if spec.secret:
        lines.append("- Secret: never shown, and there is no flag for it")
    return "\n".join(lines) + "\n"


def _unit(spec: Spec) -> str:
    return " (bytes)" if isinstance(spec.kind, Size) else ""


def _default(spec: Spec) -> str:
    if spec.default_note:
        return spec.default_note
    shown = spec.kind.write(spec.default)
    if not shown:
        return "empty"
    return f"`{shown}`" + (" s" if isinstance(spec.kind, Duration) else "")


def env_example() -> str:
    """.env.example: every setting with its default, commented out."""
    parts = [_ENV_INTRO]
    for group, title in GROUPS.items():
        parts.append(f"\n# --- {title}\n")
        parts += [_example(spec) for spec in SPECS.values() if spec.group == group]
    return "".join(parts)


def _example(spec: Spec) -> str:
    # A default that follows from something else must not be frozen by taking the '# ' away.
    follows = spec.default_note is not None or spec.default is None
    value = "" if follows else spec.kind.write(spec.default)
    return f"# {spec.env}={value}\n"


FILES = {"docs/settings.md": reference_page, ".env.example": env_example}
"""What is made, by path from the checkout's root."""


def main(root: Path | None = None) -> None:
    """Write the files into a checkout, by default the one that this module lies in."""
    root = root or Path(__file__).resolve().parents[2]
    for name, make in FILES.items():
        (root / name).write_text(make(), encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")


if __name__ == "__main__":
    main()
