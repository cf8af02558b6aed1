"""The console program ``llama-gateway``: one group whose commands are loaded when they are called.

Loading late keeps ``--version`` and ``--help`` quick and lets ``serve`` open its health port before
anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.config import Loaded
    from gateway.settings.kinds import Kind

__all__ = ["COMMANDS", "cli", "load_and_log", "load_or_exit", "main", "settings_options"]

F = TypeVar("F", bound=Callable[..., Any])

PROGRAM = "llama-gateway"
COMMANDS = {
    "serve": ("gateway.commands.serve:serve", "Run the service."),
    "runpod-worker": (
        "gateway.commands.runpod_worker:runpod_worker",
        "Run the service behind a RunPod queue.",
    ),
    "check": ("gateway.commands.check:check", "Say whether the service could start here."),
    "config": ("gateway.commands.config:config", "Show the settings and where each came from."),
    "engine": ("gateway.commands.engine:engine", "Find or build llama-server."),
    "model": ("gateway.commands.model:model", "Fetch the model."),
}


class _LateGroup(click.Group):
    """Knows its commands by name and one line; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"{PROGRAM} {version(PROGRAM)}")
    ctx.exit()


@click.group(cls=_LateGroup, name=PROGRAM, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """An OpenAI-compatible gateway in front of llama.cpp's llama-server."""


def main() -> None:
    """Run the program; never returns."""
    cli(prog_name=PROGRAM)


def settings_options(command: F) -> F:
    """
    Give a command one option for every setting, and ``--profile``.

    Secrets have none: the arguments of a process can be read by everybody on the machine.

    The command receives them as keyword arguments, None where not given; `load_or_exit` takes
    them as they are. Values are read by the same rules as the environment's.
    """
    from gateway.settings.model import SPECS

    for spec in reversed([spec for spec in SPECS.values() if not spec.secret]):
        command = _option_for(spec.name, spec.kind, spec.description)(command)
    profile = click.option(
        "--profile", metavar="NAME", help="Lay NAME.yaml over base.yaml; else GATEWAY_PROFILE."
    )
    folder = click.option(
        "--config-dir",
        metavar="FOLDER",
        type=click.Path(path_type=Path),
        help="Folder with the YAML files; else GATEWAY_CONFIG_DIR.",
    )
    return profile(folder(command))


def _option_for(name: str, kind: Kind[Any], description: str) -> Callable[[F], F]:
    from gateway.settings.kinds import Flag

    flag = name.replace("_", "-")
    if isinstance(kind, Flag):
        return click.option(f"--{flag}/--no-{flag}", name, default=None, help=description)
    return click.option(f"--{flag}", name, metavar="VALUE", default=None, help=description)


def load_or_exit(
    *, profile: str | None = None, config_dir: Path | None = None, **flags: object
) -> Loaded:
    """The effective settings; or every problem on stderr and exit code 2."""
    from gateway.config import SettingsError, load

    try:
        return load(flags=flags, profile=profile, config_dir=config_dir)
    except SettingsError as exc:
        click.echo(_explain(exc), err=True)
        raise SystemExit(2) from None


def load_and_log(**flags: object) -> Loaded:
    """`load_or_exit`, and from then on the log is written as the settings say."""
    from gateway.observe.logs import setup

    loaded = load_or_exit(**flags)  # type: ignore[arg-type]
    settings = loaded.settings
    setup(
        level=settings.log_level,
        log_format=settings.log_format,
        repeat_limit=settings.log_repeat_limit,
        secrets=filter(None, (settings.hf_token, settings.backend_api_key)),
    )
    return loaded


def _explain(error: Any) -> str:
    many = len(error.problems)
    title = "1 setting is wrong:" if many == 1 else f"{many} settings are wrong:"
    return "\n".join([title, *(f"  {problem}" for problem in error.problems)])
