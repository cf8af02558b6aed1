"""The commands of ``scripts/key_mgmt.py``.

Rules:
- a new secret is shown once, on standard output; with ``--quiet`` it is all there is on it.
  Remarks and errors go to standard error;
- ``--file``, ``--pepper``, ``--json`` and ``--quiet`` may stand before or after the command;
- exit codes: 0 done, 1 the files are not good or could not be written, 2 wrong usage, 3 there is
  no such key, or what was asked makes no sense for it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from keys.changes import add, get, put, remove, rotate, with_settings
from keys.cli_text import as_dict, as_page, as_table, usage_dict, usage_table
from keys.cli_values import KEY_ID, SPAN, given_settings, now_s, settings_options
from keys.editing import Draft, editing, migrate, open_keys
from keys.errors import ChangeRefused, FileRefused, KeysError
from keys.records import KeyRecord
from keys.usage import Counters, CountersMissing, fetch_counters

__all__ = ["main", "run"]

Command = TypeVar("Command", bound=Callable[..., Any])

Files = tuple[Path, Path]
"""The keys file and its pepper."""

_EXIT_FILES = 1
_EXIT_KEY = 3


@dataclass
class _Common:
    """The options that every command has."""

    file: Path | None = None
    pepper: Path | None = None
    data_dir: Path | None = None
    as_json: bool = False
    quiet: bool = False
    named: bool = False
    """Whether the command line, not the environment, says which file it is about."""
    service_files: Callable[[], Files | None] = lambda: None

    @property
    def path(self) -> Path:
        return self._files[0]

    @property
    def pepper_path(self) -> Path:
        return self.pepper or self._files[1]

    @cached_property
    def _files(self) -> Files:
        """The command line wins over what the service would use, that over a plain guess.

        The service knows the environment too, and more: its YAML files.
        """
        files = None if self.named else self.service_files()
        if files is None:
            path = self.file or (self.data_dir or _default_data_dir()) / "keys.yaml"
            files = path, path.with_suffix(".pepper")
        return files[0].absolute(), files[1].absolute()


def _default_data_dir() -> Path:
    shared = Path("/data")
    return shared if shared.is_dir() else Path("data")


def run(service_files: Callable[[], Files | None]) -> None:
    """Run the command that was given on the command line.

    Args:
        service_files: Finds the keys file and the pepper of the service on this machine; asked
            only if neither was named. None if there is no telling.
    """
    main(prog_name="key_mgmt.py", obj=_Common(service_files=service_files))


class _Commands(click.Group):
    """Turns the room's errors into a line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeysError as exc:
            click.echo(f"Error: {exc}", err=True)
            if isinstance(exc, FileRefused) and exc.missing:
                click.echo("Make a first key with: key_mgmt.py generate NAME", err=True)
            ctx.exit(_EXIT_KEY if isinstance(exc, ChangeRefused) else _EXIT_FILES)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    common = ctx.ensure_object(_Common)
    if not value:
        return
    setattr(common, str(param.name), value)
    by_hand = ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    if by_hand and param.name in ("file", "data_dir"):
        common.named = True


def _common(*, env: bool) -> Callable[[Command], Command]:
    """The common options; *env* at the one place where the environment counts too."""

    def option(*names: str, help: str, **more: Any) -> Callable[[Command], Command]:  # noqa: A002
        return click.option(*names, help=help, callback=_remember, expose_value=False, **more)

    file = click.Path(path_type=Path)
    options = (
        option(
            "--file",
            type=file,
            envvar="AUTH_KEYS_FILE" if env else None,
            help="Keys file [$AUTH_KEYS_FILE, else that of the service].",
        ),
        option(
            "--pepper",
            type=file,
            envvar="AUTH_PEPPER_FILE" if env else None,
            help="Pepper file [$AUTH_PEPPER_FILE, else like the keys file, ending in .pepper].",
        ),
        option("--json", "as_json", is_flag=True, help="Print JSON."),
        option("--quiet", "-q", is_flag=True, help="Print only secrets, or only ids."),
    )

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def _one_key(*, required: bool = True) -> Callable[[Command], Command]:
    """Names a key, as an argument or by ``--name``, as the old program wanted it."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def named(*args: Any, key_id: str | None, name: str | None, **options: Any) -> Any:
            chosen = key_id or name
            if key_id and name:
                raise click.UsageError("Name the key once, not both as an argument and by --name.")
            if required and chosen is None:
                raise click.UsageError("Missing argument 'KEY_ID'.")
            return command(*args, key_id=chosen, **options)

        by_option = click.option("--name", "--id", "name", type=KEY_ID, help="The same as KEY_ID.")
        by_argument = click.argument("key_id", metavar="KEY_ID", type=KEY_ID, required=False)
        return cast(Command, by_argument(by_option(named)))

    return decorate


@click.group(
    cls=_Commands,
    epilog="Exit codes: 0 done; 1 the files are not good or cannot be written; "
    "2 wrong usage; 3 no such key, or it makes no sense for this key.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="DATA_DIR",
    callback=_remember,
    expose_value=False,
    help="Where keys.yaml is [$DATA_DIR, else as the service finds it].",
)
@_common(env=True)
def main() -> None:
    """Make and change the API keys of llama-gateway.

    A running service picks every change up within a second.
    """


@main.command("generate")
@_one_key(required=False)
@settings_options
@_common(env=False)
@click.pass_obj
def _generate(common: _Common, /, key_id: str | None, **options: Any) -> None:
    """Make a key and show it, once.

    Without KEY_ID the key gets a random id.
    """
    chosen = key_id or f"key-{secrets.token_hex(4)}"
    with _editing(common, create=True) as draft:
        key, secret = draft.make_secret(chosen)
        record = with_settings(KeyRecord(chosen, secret, created=now_s()), given_settings(options))
        draft.save(add(draft.file, record))
    if common.as_json:
        _print_json(_new_dict(key, record))
    else:
        _show_new(common, [(key, record)], "created")


@main.command("list")
@_common(env=False)
@click.pass_obj
def _list(common: _Common) -> None:
    """List all keys; never a secret."""
    records = list(open_keys(common.path).records.values())
    if common.as_json:
        _print_json([as_dict(record, now_s()) for record in records])
    elif common.quiet:
        for record in records:
            click.echo(record.key_id)
    elif records:
        click.echo(as_table(records, now_s()))
    if not common.as_json and not common.quiet:
        click.echo(f"{len(records)} keys in {common.path}", err=True)


@main.command("show")
@_one_key()
@_common(env=False)
@click.pass_obj
def _show(common: _Common, /, key_id: str) -> None:
    """Show one key; never its secret."""
    _show_record(common, get(open_keys(common.path), key_id))


@main.command("remove")
@_one_key()
@_common(env=False)
@click.pass_obj
def _remove(common: _Common, /, key_id: str) -> None:
    """Revoke a key for good."""
    with _editing(common) as draft:
        draft.save(remove(draft.file, key_id))
    if common.as_json:
        _print_json({"key_id": key_id, "removed": True})
    else:
        _remark(common, f"Key '{key_id}' is removed.")


@main.command("rotate")
@_one_key(required=False)
@click.option(
    "--overlap",
    type=SPAN,
    default=0,
    show_default="0, ends the old secret at once",
    help="How long the old secret stays valid, such as 24h.",
)
@click.option("--all", "every", is_flag=True, help="Rotate every key.")
@click.option("--new-pepper", is_flag=True, help="With --all: make a new pepper too.")
@_common(env=False)
@click.pass_obj
def _rotate(
    common: _Common, /, key_id: str | None, overlap: int, every: bool, new_pepper: bool
) -> None:
    """Give a key a new secret and show it, once."""
    if every == (key_id is not None):
        raise click.UsageError("Name one key, or use --all.")
    if new_pepper and (not every or overlap):
        raise click.UsageError("--new-pepper ends every old secret: use --all, without --overlap.")
    with _editing(common) as draft:
        chosen = list(draft.file.records.values()) if every else [get(draft.file, key_id or "")]
        if new_pepper:
            draft.new_pepper()
        rotated = [_rotated(draft, record, overlap) for record in chosen]
        file = draft.file
        for _, record in rotated:
            file = put(file, record)
        draft.save(file)
    if not common.as_json:
        _show_new(common, rotated, "rotated")
    elif every:
        _print_json([_new_dict(key, record) for key, record in rotated])
    else:
        _print_json(_new_dict(*rotated[0]))


@main.command("disable")
@_one_key()
@_common(env=False)
@click.pass_obj
def _disable(common: _Common, /, key_id: str) -> None:
    """Refuse a key until it is enabled again."""
    _change(common, key_id, {"disabled": True})


@main.command("enable")
@_one_key()
@_common(env=False)
@click.pass_obj
def _enable(common: _Common, /, key_id: str) -> None:
    """Accept a disabled key again."""
    _change(common, key_id, {"disabled": False})


@main.command("set")
@_one_key()
@settings_options
@_common(env=False)
@click.pass_obj
def _set(common: _Common, /, key_id: str, **options: Any) -> None:
    """Change what a key may do; its secret stays."""
    given = given_settings(options)
    if not given:
        raise click.UsageError("Nothing to set: give at least one option.")
    _change(common, key_id, given)


@main.command("migrate")
@click.argument("source", required=False, type=click.Path(path_type=Path))
@_common(env=False)
@click.pass_obj
def _migrate(common: _Common, /, source: Path | None) -> None:
    """Turn a file with lines key_id:api_key into digests; all keys stay valid.

    Without SOURCE the keys file itself is converted. With SOURCE its keys are added to the keys
    file, and SOURCE is left alone.
    """
    origin = source or common.path
    taken = migrate(origin, common.path, common.pepper_path)
    if common.as_json:
        _print_json({"migrated": taken, "file": str(common.path)})
        return
    _remark(common, f"{len(taken)} keys taken over into {common.path}; all of them stay valid.")
    if source is not None:
        _remark(common, f"{origin} still holds them in clear: delete it, and its backups.")
    else:
        _remark(common, "The keys in clear are gone from the file; delete old backups of it.")


@main.command("usage")
@_one_key(required=False)
@click.option(
    "--port",
    envvar="PORT",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port of the running service on this machine [$PORT].",
)
@click.option(
    "--metrics",
    "metrics_url",
    help="Metrics page of the running service, if it is on another machine.",
)
@click.option(
    "--metrics-key",
    envvar="LLAMA_GATEWAY_KEY",
    help="Key with the scope metrics, where the page asks for one [$LLAMA_GATEWAY_KEY; better "
    "there than here, where everybody on the machine can read it].",
)
@_common(env=False)
@click.pass_obj
def _usage(
    common: _Common,
    /,
    key_id: str | None,
    port: int,
    metrics_url: str | None,
    metrics_key: str | None,
) -> None:
    """Show what keys have in progress now, and what they have used since the service started.

    The counters live in the running service, so it is asked for them; the keys file holds none.
    """
    file = open_keys(common.path)
    chosen = [get(file, key_id)] if key_id else list(file.records.values())
    counters, problem = _counters(metrics_url or f"http://127.0.0.1:{port}/metrics", metrics_key)
    if common.as_json:
        _print_json(usage_dict(chosen, counters, problem, now_s()))
        return
    click.echo(usage_table(chosen, counters, now_s()))
    if problem is not None:
        click.echo(
            f"No counters: {problem}. They live in the running service, from its start on; "
            "name its metrics page with --metrics.",
            err=True,
        )


def _counters(url: str, key: str | None) -> tuple[Mapping[str, Counters] | None, str | None]:
    try:
        return fetch_counters(url, key), None
    except CountersMissing as exc:
        return None, str(exc)


def _editing(common: _Common, *, create: bool = False) -> AbstractContextManager[Draft]:
    return editing(common.path, common.pepper_path, create=create)


def _rotated(draft: Draft, record: KeyRecord, overlap_s: int) -> tuple[str, KeyRecord]:
    key, secret = draft.make_secret(record.key_id)
    return key, rotate(record, secret, now_s(), overlap_s)


def _change(common: _Common, key_id: str, given: dict[str, Any]) -> None:
    with _editing(common) as draft:
        record = with_settings(get(draft.file, key_id), given)
        draft.save(put(draft.file, record))
    _show_record(common, record)


def _show_record(common: _Common, record: KeyRecord) -> None:
    if common.as_json:
        _print_json(as_dict(record, now_s()))
    elif not common.quiet:
        click.echo(as_page(record, now_s()))


def _show_new(common: _Common, made: list[tuple[str, KeyRecord]], done: str) -> None:
    """The one moment at which secrets are visible."""
    for key, record in made:
        _remark(common, f"Key '{record.key_id}' is {done}. It is shown now and never again:")
        click.echo(key)
    _remark(common, f"Stored as a digest in {common.path}.")


def _new_dict(key: str, record: KeyRecord) -> dict[str, Any]:
    return {"key": key, **as_dict(record, now_s())}


def _remark(common: _Common, text: str) -> None:
    if not common.quiet:
        click.echo(text, err=True)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
