"""Collects the settings from all their sources, and is the only reader of the environment.

Later wins: built-in, ``base.yaml``, ``<profile>.yaml``, environment, flags. An empty environment
variable counts as not set, because compose files pass those for variables nobody filled in.
Everything wrong with every source is reported in one go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from gateway.settings.checks import clashes, near_miss, worries
from gateway.settings.defaults import derive
from gateway.settings.files import Entry, read_settings_file
from gateway.settings.model import SPECS, Settings

__all__ = [
    "CONFIG_DIR_ENV",
    "PROFILE_ENV",
    "Loaded",
    "Problem",
    "Settings",
    "SettingsError",
    "environment",
    "load",
]

PROFILE_ENV = "GATEWAY_PROFILE"
CONFIG_DIR_ENV = "GATEWAY_CONFIG_DIR"
_VALUE_CUT = 120


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: which setting, what was written, where, and what would be right."""

    name: str
    value: str | None
    """As written; masked for secrets, cut when long; None when it is not about a value."""
    source: str
    message: str

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value}"
        return f"{self.name}{shown} ({self.source}): {self.message}"


class SettingsError(Exception):
    """The settings cannot be used; `problems` has every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By field name: ``default``, ``default (why)``, ``config/base.yaml:3``, ``env PORT``, ..."""
    chosen: frozenset[str]
    """Names that some source set."""
    profile: str | None = None
    warnings: tuple[str, ...] = field(default=())


def environment() -> Mapping[str, str]:
    """A copy of the process's environment, for rooms that are handed one."""
    return dict(os.environ)  # noqa: TID251 (this is the one place)


def load(
    environ: Mapping[str, str] | None = None,
    *,
    flags: Mapping[str, object] | None = None,
    profile: str | None = None,
    config_dir: Path | None = None,
    is_dir: Callable[[str], bool] = os.path.isdir,
) -> Loaded:
    """
    The effective settings.

    Args:
        environ: Environment to read; the process's own when None.
        flags: By field name, what was given on the command line; None values are left out.
        profile: Name of a YAML file to lay over ``base.yaml``; else GATEWAY_PROFILE is asked.
        config_dir: Folder of the YAML files; else GATEWAY_CONFIG_DIR, else ``config`` beside the
            package in a checkout. A folder that is missing matters only if a profile is asked for.
        is_dir: Whether a folder exists, for the default of DATA_DIR.

    Raises:
        SettingsError: with every problem found.
    """
    environ = environment() if environ is None else environ
    profile = profile or environ.get(PROFILE_ENV) or None
    entries, problems = _from_files(config_dir or _config_dir(environ), profile)
    entries |= _from_environ(environ)
    for name, raw in (flags or {}).items():
        if raw is not None:
            entries[name] = Entry(raw, f"flag {SPECS[name].flag}")
    settings, wrong = _validate(entries)
    problems += wrong
    return _finish(settings, entries, environ, problems, profile, is_dir)


def _finish(
    settings: Settings,
    entries: Mapping[str, Entry],
    environ: Mapping[str, str],
    problems: list[Problem],
    profile: str | None,
    is_dir: Callable[[str], bool],
) -> Loaded:
    derived = derive(
        settings,
        entries.keys(),
        environ,
        is_dir=is_dir,
        host_name=os.uname().nodename,
        user_cache_dir=_user_cache_dir(environ),
    )
    settings = settings.model_copy(update={name: found.value for name, found in derived.items()})
    bad = {problem.name for problem in problems}
    problems += [
        _problem(clash.names[0], settings, entries, clash.message)
        for clash in clashes(settings, entries.keys())
        if bad.isdisjoint(name.upper() for name in clash.names)
    ]
    if problems:
        raise SettingsError(problems)
    origins = dict.fromkeys(SPECS, "default")
    for name, found in derived.items():
        if getattr(settings, name) != SPECS[name].default or name == "port_health":
            origins[name] = f"default ({found.because})"
    origins |= {name: entry.source for name, entry in entries.items()}
    warnings = [*_misspelt(environ), *worries(settings, entries.keys())]
    return Loaded(settings, MappingProxyType(origins), frozenset(entries), profile, tuple(warnings))


def _config_dir(environ: Mapping[str, str]) -> Path | None:
    if chosen := environ.get(CONFIG_DIR_ENV):
        return Path(chosen).expanduser()
    root = Path(__file__).resolve().parent.parent
    # Beside an installed package, a folder of that name belongs to somebody else.
    return root / "config" if (root / "pyproject.toml").is_file() else None


def _user_cache_dir(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "llama-gateway"
    try:
        return Path("~/.cache/llama-gateway").expanduser()
    except RuntimeError:
        return Path("data/cache")


def _from_files(folder: Path | None, profile: str | None) -> tuple[dict[str, Entry], list[Problem]]:
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    if profile is not None and not re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", profile):
        problems.append(_profile_problem(profile, "must be a plain name, such as dev or prod"))
        profile = None
    if profile is not None and folder is None:
        message = f"there is no settings folder; name one with {CONFIG_DIR_ENV}"
        problems.append(_profile_problem(profile, message))
    if folder is None:
        return entries, problems
    for name in ("base", profile):
        if name is None:
            continue
        try:
            found, wrong = read_settings_file(folder / f"{name}.yaml", SPECS.keys())
        except FileNotFoundError:
            if name == profile:
                problems.append(_profile_problem(name, _profiles_there(folder)))
            continue
        entries |= found
        problems += [Problem(each.name, None, each.source, each.message) for each in wrong]
    return entries, problems


def _profile_problem(profile: str, message: str) -> Problem:
    return Problem(PROFILE_ENV, _cut(profile), "--profile or env", message)


def _profiles_there(folder: Path) -> str:
    names = sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base")
    if not names:
        return f"there are no profiles in the folder {folder.name}"
    return f"must be one of {', '.join(names)}"


def _from_environ(environ: Mapping[str, str]) -> dict[str, Entry]:
    return {
        name: Entry(environ[spec.env], f"env {spec.env}")
        for name, spec in SPECS.items()
        if environ.get(spec.env, "").strip()
    }


def _validate(entries: Mapping[str, Entry]) -> tuple[Settings, list[Problem]]:
    """The settings, with defaults in place of the wrong ones, and the wrong ones."""
    values = {name: entry.raw for name, entry in entries.items()}
    try:
        return Settings.model_validate(values), []
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
    problems = []
    for error in errors:
        name = str(error["loc"][0])
        values.pop(name)
        entry = entries[name]
        shown = "***" if SPECS[name].secret else _cut(entry.raw)
        message = str(error.get("ctx", {}).get("error", error["msg"]))
        problems.append(Problem(name.upper(), shown, entry.source, message))
    return Settings.model_validate(values), problems


def _problem(name: str, settings: Settings, entries: Mapping[str, Entry], message: str) -> Problem:
    source = entries[name].source if name in entries else "default"
    shown = _cut(SPECS[name].masked(getattr(settings, name)))
    return Problem(name.upper(), shown, source, message)


def _cut(raw: object) -> str:
    text = repr(raw) if not isinstance(raw, str) else raw.encode("unicode_escape").decode()
    return text if len(text) <= _VALUE_CUT else text[:_VALUE_CUT] + "..."


def _misspelt(environ: Mapping[str, str]) -> list[str]:
    """Variables that nothing reads and that look like a slip; the values stay out of it."""
    known = [*(spec.env for spec in SPECS.values()), PROFILE_ENV, CONFIG_DIR_ENV]
    slips = ((name, near_miss(name, known)) for name in sorted(environ.keys() - set(known)))
    return [
        f"the variable {name} is not read; did you mean {near}?" for name, near in slips if near
    ]
