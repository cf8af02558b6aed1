"""The console program: its commands, its flags, and what it says when settings are wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.commands.findings import CHECKS, Finding, examine
from gateway.config import load
from gateway.settings.kinds import Flag
from gateway.settings.model import SPECS
from keys import create_first_key

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("config", "--json", PORT="9000")`` in an empty folder with an empty environment."""

    def _run(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway", *args],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ},
        )

    return _run


def doctor(check: str, **environ: str) -> list[Finding]:
    """The findings of one check."""
    return list(CHECKS[check](load(environ, is_dir=lambda path: False).settings))


# -- the group


def test_the_version_is_told_without_loading_the_settings() -> None:
    code = (
        "import sys\n"
        "from gateway.cli import cli\n"
        "try: cli(['--version'])\n"
        "except SystemExit as exc: assert not exc.code\n"
        "print([m for m in ('pydantic', 'aiohttp', 'yaml') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.splitlines()
    assert version.startswith("llama-gateway ")
    assert loaded == "[]"


def test_help_names_every_command(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in ("serve", "check", "config", "engine", "model"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("command", ["serve", "check", "config"])
def test_every_setting_but_secrets_is_a_flag(run: Run, command: str) -> None:
    text = run(command, "--help", COLUMNS="200").stdout
    for spec in SPECS.values():
        assert (f"{spec.flag} " in text) is not spec.secret, spec.name
        if isinstance(spec.kind, Flag):
            assert f"--no-{spec.flag[2:]}" in text


def test_an_unknown_command_is_refused(run: Run) -> None:
    done = run("sevre")
    assert done.returncode == 2
    assert "No such command" in done.stderr


# -- config


def test_config_shows_values_with_their_origin(run: Run) -> None:
    done = run("config", "--no-auth-enabled", "--port-health", "9001", MAX_QUEUE_WAIT="5m")
    assert done.returncode == 0
    lines = {
        line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines() if line
    }
    assert lines["AUTH_ENABLED"] == ["false", "flag --auth-enabled"]
    assert lines["PORT_HEALTH"] == ["9001", "flag --port-health"]
    assert lines["MAX_QUEUE_WAIT"] == ["300", "env MAX_QUEUE_WAIT"]
    assert lines["PORT"] == ["8000", "default"]
    assert "warning: AUTH_ENABLED is false" in done.stderr


def test_config_speaks_json(run: Run) -> None:
    done = run("config", "--json", CORS_ORIGINS="https://a.example", PORT="0")
    told = json.loads(done.stdout)
    assert set(told["settings"]) == {spec.env for spec in SPECS.values()}
    assert told["settings"]["CORS_ORIGINS"] == {
        "value": ["https://a.example"],
        "origin": "env CORS_ORIGINS",
    }
    assert told["settings"]["CTX"]["value"] is None


@pytest.mark.parametrize("form", [(), ("--json",), ("--changed",)])
def test_config_masks_secrets(run: Run, form: tuple[str, ...]) -> None:
    done = run("config", *form, HF_TOKEN="canary", MODEL_URL="https://m.example/m.gguf?sig=canary")
    assert done.returncode == 0
    assert "***" in done.stdout
    assert "canary" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["config", "serve"])
def test_wrong_settings_are_all_told_and_the_exit_code_is_2(run: Run, command: str) -> None:
    done = run(command, "--port", "x", THREADS="many", HF_TOKEN="canary canary")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "3 settings are wrong:"
    assert "PORT = x (flag --port): must be" in done.stderr
    assert "THREADS = many (env THREADS): must be" in done.stderr
    assert "canary" not in done.stderr


# -- check


def test_check_tells_a_line_each_and_passes(run: Run) -> None:
    done = run("check", "--use-mock-model", "--port", "0", "--host", "127.0.0.1")
    assert done.returncode == 0, done.stdout
    seen = [line.split()[1] for line in done.stdout.splitlines()]
    assert seen[0] == "settings"
    assert set(seen) == {"settings", *CHECKS}
    assert "keys.yaml does not exist" in done.stdout


def test_check_fails_when_a_part_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    done = run("check", "--json", "--model-path", "m.gguf", "--port", "0", LLAMA_SERVER="/nowhere")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["ok"] is False
    failed = {each["check"] for each in told["findings"] if each["level"] == "fail"}
    assert failed == {"model", "engine"}


def test_check_reports_wrong_settings_as_findings(run: Run) -> None:
    done = run("check", PORT="x", THREADS="y")
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["FAIL", "settings"]] * 2


def test_a_taken_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = doctor("ports", HOST="127.0.0.1", PORT=str(port), PORT_HEALTH="0")
    assert [finding.level for finding in found] == ["fail", "ok"]
    assert "set PORT" in (found[0].todo or "")


def test_one_listener_is_one_line() -> None:
    assert len(doctor("ports", HOST="127.0.0.1", PORT="1", PORT_HEALTH="1")) == 1


def test_an_address_of_another_machine_is_found() -> None:
    found = doctor("ports", HOST="192.0.2.1", PORT="0", PORT_HEALTH="0")
    assert {finding.level for finding in found} == {"fail"}


def test_keys_are_counted_and_their_permissions_judged(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    where = {"AUTH_KEYS_FILE": str(path)}
    (missing,) = doctor("keys", **where)
    create_first_key(path, tmp_path / "keys.pepper", "test")
    (good,) = doctor("keys", **where)
    path.chmod(0o644)
    (public,) = doctor("keys", **where)
    assert (missing.level, good.level, public.level) == ("warn", "ok", "fail")
    assert good.message.startswith("1 keys")
    assert "600" in public.message


def test_a_service_without_keys_is_warned_about() -> None:
    (off,) = doctor("keys", AUTH_ENABLED="false")
    (platform,) = doctor("keys", AUTH_MODE="platform")
    assert (off.level, platform.level) == ("warn", "ok")


def test_the_real_engine_is_found_with_its_version(llama_server: Path) -> None:
    (found,) = doctor("engine", LLAMA_SERVER=str(llama_server))
    assert found.level == "ok"
    assert "version" in found.message


def test_a_model_is_read_and_a_wrong_file_named(models: Path, tmp_path: Path) -> None:
    (good,) = doctor("model", MODEL_PATH=str(models / "tiny.gguf"))
    assert good.level == "ok"
    (by_name,) = doctor("model", MODEL_NAME="tiny", MODELS_DIR=str(models))
    assert by_name.level == "ok"
    (missing,) = doctor("model", MODEL_PATH=str(tmp_path / "no.gguf"))
    assert missing.level == "fail"
    _, swapped = doctor(
        "model", MMPROJ=str(models / "tiny.gguf"), MODEL_PATH=str(models / "tiny.gguf")
    )
    assert (swapped.level, "no projector" in swapped.message) == ("fail", True)


def test_a_model_that_must_be_fetched_is_not_fetched_by_the_doctor(tmp_path: Path) -> None:
    for given in ({"MODEL_URL": "http://192.0.2.1/m.gguf"}, {"MODEL_HF": "a/b"}, {}):
        (finding,) = doctor("model", DATA_DIR=str(tmp_path), CACHE_DIR=str(tmp_path), **given)
        assert (finding.level, "fetched" in finding.message) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_is_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = doctor("data", DATA_DIR=str(tmp_path / "file"))
    assert finding.level == "warn"


def test_the_data_folder_is_not_made_by_looking(tmp_path: Path) -> None:
    (finding,) = doctor("data", DATA_DIR=str(tmp_path / "a" / "b"))
    assert finding.level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_the_parser_in_use_is_the_compiled_one() -> None:
    (finding,) = doctor("parser")
    assert finding.level == "ok"


def test_the_slow_parser_is_found(run: Run) -> None:
    done = run("check", "--use-mock-model", "--port", "0", AIOHTTP_NO_EXTENSIONS="1")
    assert done.returncode == 1
    assert "FAIL parser" in done.stdout


def test_warnings_of_the_settings_are_findings() -> None:
    loaded = load({"MAX_QUEU_SIZE": "1", "USE_MOCK_MODEL": "1"})
    warned = [f.message for f in examine(loaded) if (f.check, f.level) == ("settings", "warn")]
    assert any("did you mean MAX_QUEUE_SIZE" in message for message in warned)
