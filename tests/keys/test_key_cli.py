import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keys import KeyStore, Principal
from keys.cli import main
from keys.usage import Counters, CountersMissing, parse_counters

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "key_mgmt.py"
OLD_KEY = "sk-prod-0123456789abcdef"
NO_SETTINGS = {"AUTH_KEYS_FILE": None, "AUTH_PEPPER_FILE": None, "DATA_DIR": None}
NOWHERE = "http://127.0.0.1:1/metrics"

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command on the keys file of this test."""

    def runner(*args: str, code: int = 0) -> Result:
        options = ["--file", str(tmp_path / "keys.yaml")]
        result = CliRunner().invoke(main, [*options, *args], env=NO_SETTINGS)
        assert result.exit_code == code, result.output
        return result

    return runner


@pytest.fixture
def admits(tmp_path: Path) -> Callable[..., bool]:
    """Whether the service would let a key in at some moment."""

    def check(key: str, now: float = 0.0) -> bool:
        store = KeyStore(tmp_path / "keys.yaml", tmp_path / "keys.pepper")
        store.reload()
        assert store.problem is None
        return isinstance(store.ring.identify(key, now), Principal)

    return check


def secret(result: Result) -> str:
    """What a quiet command prints: the secret, and nothing else."""
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    assert result.stderr == ""
    return lines[0]


def shown(run: Run, key_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("show", key_id, "--json").stdout)
    return found


def test_generated_key_opens_the_door(run: Run, admits: Callable[..., bool]) -> None:
    key = secret(run("generate", "alice", "--quiet"))
    assert key.startswith("sk-lg-alice-")
    assert admits(key)


def test_secret_alone_is_on_standard_output_also_when_not_quiet(run: Run) -> None:
    """So that KEY=$(key_mgmt.py generate x) works, whoever reads the remarks."""
    result = run("generate", "alice")
    assert len(result.stdout.split()) == 1
    assert result.stdout.strip() not in result.stderr
    assert "never again" in result.stderr


def test_options_may_stand_before_or_after_the_command(tmp_path: Path) -> None:
    file = str(tmp_path / "x.yaml")
    for args in (
        ["--file", file, "--quiet", "generate", "one"],
        ["generate", "--file", file, "-q", "two"],
        ["--file", "/nowhere/x.yaml", "generate", "--file", file, "-q", "three"],
    ):
        result = CliRunner().invoke(main, args, env=NO_SETTINGS)
        assert result.exit_code == 0, result.output
        assert secret(result)
    assert (tmp_path / "x.pepper").exists()


def test_environment_names_the_files(tmp_path: Path) -> None:
    settings = {**NO_SETTINGS, "DATA_DIR": str(tmp_path / "data")}
    assert CliRunner().invoke(main, ["generate", "a"], env=settings).exit_code == 0
    assert (tmp_path / "data" / "keys.yaml").exists()
    assert (tmp_path / "data" / "keys.pepper").exists()
    settings["AUTH_KEYS_FILE"] = str(tmp_path / "k.yaml")
    settings["AUTH_PEPPER_FILE"] = str(tmp_path / "p")
    assert CliRunner().invoke(main, ["generate", "a"], env=settings).exit_code == 0
    assert (tmp_path / "k.yaml").exists()
    assert (tmp_path / "p").exists()


def test_name_as_the_old_program_took_it(run: Run) -> None:
    assert secret(run("generate", "--name", "alice", "--rate-limit", "5", "--quiet"))
    assert shown(run, "alice")["limits"] == {"rpm": 5}
    run("remove", "--name", "alice")
    run("generate", "alice", "--name", "alice", code=2)


def test_key_without_a_name_gets_one(run: Run) -> None:
    made = json.loads(run("generate", "--json").stdout)
    assert made["key"].startswith(f"sk-lg-{made['key_id']}-")


def test_every_setting_is_stored_and_shown(run: Run) -> None:
    run(
        *("generate", "alice", "--expires", "2030-01-31", "--rpm", "60", "--tpm", "1000"),
        *("--concurrency", "2", "--tokens-per-day", "5000", "--scopes", "inference,admin"),
        *("--priority", "high", "--weight", "2.5", "--models", "a,b", "--note", 'Al "x" \\ é'),
        "--continue-streams",
    )
    found = shown(run, "alice")
    assert found.pop("created").endswith("Z")
    assert found == {
        "key_id": "alice",
        "state": "active",
        "rotated": None,
        "expires": "2030-01-31T00:00:00Z",
        "disabled": False,
        "scopes": ["admin", "inference"],
        "limits": {"rpm": 60, "tpm": 1000, "concurrency": 2, "tokens_per_day": 5000},
        "priority": "high",
        "weight": 2.5,
        "models": ["a", "b"],
        "continue_streams": True,
        "note": 'Al "x" \\ é',
        "old_shape": False,
        "previous_valid_until": [],
    }
    page = run("show", "alice").stdout
    assert "rpm=60 tpm=1000" in page
    assert "2030-01-31T00:00:00Z" in page
    assert "continued when their engine dies" in page


def test_settings_can_be_taken_back(run: Run) -> None:
    run("generate", "alice", "--expires", "1d", "--rpm", "60", "--models", "a", "--note", "x")
    run("set", "alice", "--expires", "never", "--rpm", "default", "--models", "all", "--note", "")
    found = shown(run, "alice")
    assert (found["expires"], found["limits"], found["models"], found["note"]) == (
        None,
        {},
        None,
        "",
    )


def test_streams_are_continued_only_where_the_key_says_so(run: Run) -> None:
    run("generate", "alice")
    assert shown(run, "alice")["continue_streams"] is False
    assert "streams" not in run("show", "alice").stdout
    run("set", "alice", "--continue-streams")
    run("set", "alice", "--rpm", "5")
    assert shown(run, "alice")["continue_streams"] is True
    run("set", "alice", "--no-continue-streams")
    assert shown(run, "alice")["continue_streams"] is False


def test_set_leaves_everything_else_alone(run: Run, admits: Callable[..., bool]) -> None:
    key = secret(run("generate", "alice", "--rpm", "60", "--note", "keep", "-q"))
    run("set", "alice", "--tpm", "1000")
    found = shown(run, "alice")
    assert found["limits"] == {"rpm": 60, "tpm": 1000}
    assert found["note"] == "keep"
    assert admits(key)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rpm", "0"),
        ("--rpm", "1.5"),
        ("--rpm", "99999999999999999999"),
        ("--expires", "soon"),
        ("--scopes", "root"),
        ("--priority", "urgent"),
        ("--weight", "nan"),
        ("--weight", "0"),
        ("--models", ","),
        ("--note", "two\nlines"),
        (),
    ],
)
def test_wrong_values_change_nothing(run: Run, wrong: tuple[str, ...]) -> None:
    run("generate", "alice")
    before = shown(run, "alice")
    result = run("set", "alice", *wrong, code=2)
    assert result.stdout == ""
    assert shown(run, "alice") == before


def test_removed_key_is_refused(run: Run, admits: Callable[..., bool]) -> None:
    key = secret(run("generate", "alice", "-q"))
    run("remove", "alice")
    assert not admits(key)
    assert run("list", "-q").stdout == ""


def test_disabled_key_comes_back_with_the_same_secret(
    run: Run, admits: Callable[..., bool]
) -> None:
    key = secret(run("generate", "alice", "-q"))
    run("disable", "alice")
    assert not admits(key)
    assert shown(run, "alice")["state"] == "disabled"
    run("enable", "alice")
    assert admits(key)


def test_rotation_ends_the_old_secret_at_once(run: Run, admits: Callable[..., bool]) -> None:
    old = secret(run("generate", "alice", "--rpm", "7", "-q"))
    new = secret(run("rotate", "alice", "-q"))
    assert not admits(old)
    assert admits(new)
    assert shown(run, "alice")["limits"] == {"rpm": 7}


def test_overlap_keeps_the_old_secret(run: Run, admits: Callable[..., bool]) -> None:
    old = secret(run("generate", "alice", "-q"))
    new = secret(run("rotate", "alice", "--overlap", "24h", "-q"))
    assert admits(old)
    assert admits(new)
    assert len(shown(run, "alice")["previous_valid_until"]) == 1
    assert "old secret: valid until" in run("show", "alice").stdout
    assert not admits(old, now=9e9)


def test_all_keys_can_be_rotated_in_one_command(run: Run, admits: Callable[..., bool]) -> None:
    old = [secret(run("generate", name, "-q")) for name in ("a", "b")]
    made = json.loads(run("rotate", "--all", "--json").stdout)
    assert [admits(key) for key in old] == [False, False]
    assert [admits(entry["key"]) for entry in made] == [True, True]


def test_lost_pepper_is_said_and_mended_in_one_command(
    run: Run, admits: Callable[..., bool], tmp_path: Path
) -> None:
    run("generate", "alice", "--rpm", "7")
    (tmp_path / "keys.pepper").unlink()
    for command in (("generate", "bob"), ("rotate", "alice")):
        assert "--new-pepper" in run(*command, code=1).stderr
    run("disable", "alice")
    run("enable", "alice")
    new = secret(run("rotate", "--all", "--new-pepper", "-q"))
    assert admits(new)
    assert shown(run, "alice")["limits"] == {"rpm": 7}


def test_rotate_wants_one_key_or_all(run: Run) -> None:
    run("generate", "alice")
    run("rotate", code=2)
    run("rotate", "alice", "--all", code=2)
    run("rotate", "alice", "--new-pepper", code=2)
    run("rotate", "--all", "--new-pepper", "--overlap", "1h", code=2)
    run("rotate", "alice", "--overlap", "forever", code=2)


def test_exit_code_tells_a_wrong_key_from_a_wrong_file(run: Run, tmp_path: Path) -> None:
    assert "generate NAME" in run("list", code=1).stderr
    run("generate", "alice")
    run("generate", "alice", code=3)
    for command in ("show", "remove", "rotate", "disable", "enable"):
        assert run(command, "bob", code=3).stdout == ""
        run(command, "sk-lg-secret", code=2)
    run("set", "bob", "--rpm", "1", code=3)
    (tmp_path / "keys.yaml").chmod(0o644)
    assert "chmod 600" in run("list", code=1).stderr
    (tmp_path / "keys.yaml").chmod(0o600)
    (tmp_path / "keys.yaml").write_text("version: 2\nkeys: {a: 1}\n")
    assert f"{tmp_path / 'keys.yaml'}: line 2" in run("generate", "bob", code=1).stderr


def test_list_shows_every_key_and_no_digest(run: Run, tmp_path: Path) -> None:
    keys = [secret(run("generate", name, "-q")) for name in ("b", "a")]
    run("disable", "a")
    run("set", "b", "--expires", "2001-01-01")
    text = run("list").stdout
    assert [line.split()[:2] for line in text.splitlines()[1:]] == [
        ["b", "expired"],
        ["a", "disabled"],
    ]
    assert run("list", "--quiet").stdout == "b\na\n"
    listed = run("list", "--json").stdout
    assert [entry["state"] for entry in json.loads(listed)] == ["expired", "disabled"]
    digests = [line.split(":")[-1] for line in (tmp_path / "keys.yaml").read_text().splitlines()]
    for hidden in [*keys, *(digest for digest in digests if len(digest) == 64)]:
        assert hidden not in text + listed


def test_migration_keeps_keys_valid_and_shows_none(
    run: Run, admits: Callable[..., bool], tmp_path: Path
) -> None:
    place = tmp_path / "keys.yaml"
    place.write_text(f"production:{OLD_KEY}:60:2090-01-01\n")
    place.chmod(0o600)
    assert shown(run, "production")["old_shape"] is True
    assert "migrate" in run("generate", "alice", code=3).stderr
    result = run("migrate")
    assert OLD_KEY not in result.output + place.read_text()
    assert admits(OLD_KEY)
    assert shown(run, "production")["limits"] == {"rpm": 60}
    run("migrate", code=3)


def test_migration_from_another_file_says_that_it_still_holds_keys(
    run: Run, admits: Callable[..., bool], tmp_path: Path
) -> None:
    old = tmp_path / "api_keys.txt"
    old.write_text(f"production:{OLD_KEY}\n")
    old.chmod(0o600)
    assert "delete it" in run("migrate", str(old)).stderr
    assert admits(OLD_KEY)
    assert json.loads(run("remove", "production", "--json").stdout)["removed"] is True


PAGE = """\
# TYPE gateway_key_requests counter
gateway_key_requests_total{key="alice"} 3.0
# TYPE gateway_key_tokens counter
gateway_key_tokens_total{direction="prompt",key="alice"} 120.0
gateway_key_tokens_total{direction="completion",key="alice"} 45.0
# TYPE something_else gauge
something_else{key="alice"} 1.0
"""


@pytest.fixture
def metrics_url() -> Iterator[str]:
    """A page as the running service shows it."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = PAGE.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_usage_asks_the_running_service(run: Run, metrics_url: str) -> None:
    run("generate", "alice")
    run("generate", "bob")
    text = run("usage", "--metrics", metrics_url).stdout
    assert [line.split()[-3:] for line in text.splitlines()[1:]] == [
        ["3", "120", "45"],
        ["0", "0", "0"],
    ]
    only = json.loads(run("usage", "alice", "--metrics", metrics_url, "--json").stdout)
    assert only["problem"] is None
    assert only["keys"][0]["since_service_start"] == {
        "requests": 3,
        "prompt_tokens": 120,
        "completion_tokens": 45,
    }


def test_usage_without_a_service_makes_up_no_numbers(run: Run) -> None:
    run("generate", "alice")
    result = run("usage", "--metrics", NOWHERE)
    assert result.stdout.splitlines()[1].split()[-3:] == ["-", "-", "-"]
    assert "No counters" in result.stderr
    only = json.loads(run("usage", "--metrics", NOWHERE, "--json").stdout)
    assert only["keys"][0]["since_service_start"] is None
    assert NOWHERE in only["problem"]


def test_key_that_was_counted_with_others_shows_no_number() -> None:
    page = 'gateway_key_requests_total{key="other"} 9.0\n'
    assert parse_counters(page) == {"other": Counters(requests=9)}
    with pytest.raises(CountersMissing):
        parse_counters("<html>")


def test_script_runs_from_anywhere(tmp_path: Path) -> None:
    environ = {**os.environ, "DATA_DIR": str(tmp_path), "PATH": _path_with_python()}
    for command in ([sys.executable, str(SCRIPT)], [str(SCRIPT)]):
        done = subprocess.run(
            [*command, "generate", "--quiet"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environ,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("sk-lg-key-")


def test_script_works_on_the_file_that_the_service_would_use(tmp_path: Path) -> None:
    """Also when only a YAML file names it, and whatever DATA_DIR says."""
    (tmp_path / "config").mkdir()
    wanted = tmp_path / "elsewhere" / "k.yaml"
    (tmp_path / "config" / "base.yaml").write_text(f"auth_keys_file: {wanted}\n")
    environ = {
        **os.environ,
        "DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_CONFIG_DIR": str(tmp_path / "config"),
    }
    command = [sys.executable, str(SCRIPT), "generate", "alice"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 0, done.stderr
    assert wanted.exists()
    assert wanted.with_suffix(".pepper").exists()
    named = tmp_path / "named.yaml"
    command += ["--file", str(named)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 0, done.stderr
    assert named.exists()


def test_script_without_its_packages_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(SCRIPT), "list"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 1
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr


def _path_with_python() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
