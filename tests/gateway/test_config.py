"""Settings: what is read, from where, and what is said when something is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config import Loaded, SettingsError, load
from gateway.settings.checks import near_miss
from gateway.settings.defaults import detect_platform
from gateway.settings.kinds import Duration, Size
from gateway.settings.model import GROUPS, SPECS, Settings

SPEC_NAMES = """
MODEL_NAME MODEL_PATH MODELS_DIR DATA_DIR HOST PORT PORT_HEALTH AUTH_ENABLED AUTH_KEYS_FILE
MAX_REQUESTS_PER_MINUTE MAX_CONCURRENT_REQUESTS MAX_QUEUE_SIZE MAX_QUEUE_PER_KEY MAX_QUEUE_WAIT
REQUEST_TIMEOUT BACKEND_CONNECT_TIMEOUT CLIENT_HEADER_TIMEOUT CORS_ORIGINS METRICS_AUTH_ENABLED
MAX_REQUEST_BODY_SIZE MAX_HEADERS MAX_HEADER_LINE_SIZE MAX_REQUEST_LINE_SIZE UNKNOWN_PARAMS
ALLOW_FIELDS NGL TENSOR_SPLIT SPLIT_MODE CTX PARALLEL THREADS EXTRA_ARGS LOG_FORMAT LOG_LEVEL
USE_MOCK_MODEL LLAMA_SERVER BACKEND_URL IDLE_ACTION IDLE_TIMEOUT LOAD_TIMEOUT WATCHDOG_SECONDS
DRAIN_TIMEOUT DRAIN_DELAY HEARTBEAT_AFTER HEARTBEAT_INTERVAL HEALTH_CHECK_PATH AUTH_MODE PLATFORM
NODE_ID
"""

Read = Callable[..., Loaded]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(PORT="9000", files={"base": "..."}, flags={...}, profile=..., dirs=[...])``."""

    def _read(
        *,
        files: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
        profile: str | None = None,
        dirs: tuple[str, ...] = (),
        **environ: str,
    ) -> Loaded:
        for name, text in (files or {}).items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return load(
            environ,
            flags=flags,
            profile=profile,
            config_dir=tmp_path,
            is_dir=lambda path: path in dirs,
        )

    return _read


def problems_of(read: Read, **given: object) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(**given)
    return [str(problem) for problem in caught.value.problems]


# -- the model


def test_every_name_that_users_of_such_containers_know_is_a_setting() -> None:
    assert set(SPEC_NAMES.split()) <= {spec.env for spec in SPECS.values()}


def test_every_setting_is_described_and_belongs_to_a_group() -> None:
    for spec in SPECS.values():
        assert spec.description.strip()
        assert spec.group in GROUPS


def test_defaults_can_be_written_and_read_back() -> None:
    for spec in SPECS.values():
        if spec.default is not None:
            assert spec.kind.read(spec.kind.write(spec.default)) == spec.default, spec.name


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_secrets_do_not_show_in_a_repr() -> None:
    assert "hf_canary" not in repr(Settings(hf_token="hf_canary"))


# -- sources and their order


def test_without_any_source_the_built_in_defaults_hold(read: Read) -> None:
    loaded = read()
    assert (loaded.settings.port, loaded.settings.port_health) == (8000, 8001)
    assert loaded.settings.auth_enabled is True
    assert loaded.settings.max_queue_size == 256
    assert loaded.origins["max_queue_size"] == "default"
    assert loaded.warnings == ()


def test_later_sources_win_and_the_origin_is_kept(read: Read) -> None:
    loaded = read(
        files={
            "base": "# first\nmax_queue_size: 1\nmax_queue_wait: 2m\nparallel: 3\nthreads: 7\n",
            "prod": "max_queue_size: 10\nmax_queue_wait: 3m\nparallel: 5\n",
        },
        profile="prod",
        MAX_QUEUE_SIZE="100",
        MAX_QUEUE_WAIT="4m",
        flags={"max_queue_size": "1000", "max_queue_wait": None},
    )
    s, origins = loaded.settings, loaded.origins
    assert (s.max_queue_size, s.max_queue_wait, s.parallel, s.threads) == (1000, 240.0, 5, 7)
    assert origins["max_queue_size"] == "flag --max-queue-size"
    assert origins["max_queue_wait"] == "env MAX_QUEUE_WAIT"
    assert origins["parallel"].endswith("/prod.yaml:3")
    assert origins["threads"].endswith("/base.yaml:5")
    assert loaded.profile == "prod"


def test_the_profile_may_come_from_the_environment(read: Read) -> None:
    loaded = read(files={"dev": "parallel: 9"}, GATEWAY_PROFILE="dev")
    assert loaded.settings.parallel == 9


def test_an_empty_variable_counts_as_not_set(read: Read) -> None:
    loaded = read(PORT="", THREADS="  ")
    assert loaded.settings.port == 8000
    assert "port" not in loaded.chosen


def test_an_empty_yaml_key_counts_as_not_written(read: Read) -> None:
    assert read(files={"base": "port:\n"}).origins["port"] == "default"


def test_a_folder_that_is_missing_matters_only_when_a_profile_is_asked_for(tmp_path: Path) -> None:
    nowhere = {"GATEWAY_CONFIG_DIR": str(tmp_path / "nowhere")}
    assert load(nowhere).settings.port == 8000
    with pytest.raises(SettingsError, match="GATEWAY_PROFILE = prod"):
        load({**nowhere, "GATEWAY_PROFILE": "prod"})


def test_an_unknown_profile_is_answered_with_those_that_exist(read: Read) -> None:
    (problem,) = problems_of(read, files={"dev": "", "prod": "", "base": ""}, profile="prd")
    assert "prd" in problem
    assert "dev, prod" in problem


def test_an_installed_package_does_not_read_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """Beside an installed package, ``config`` is somebody else's."""
    root = Path(__file__).resolve().parents[2]
    for package in ("gateway", "backend"):
        shutil.copytree(
            root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.yaml").write_text("port: 1\n")
    code = "import gateway.config as c; print(c.__file__, c.load({}).settings.port)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])},
    )
    where, port = done.stdout.split()
    assert where.startswith(str(tmp_path))
    assert port == "8000"


def test_a_profile_name_cannot_leave_the_folder(read: Read) -> None:
    (problem,) = problems_of(read, profile="../dev")
    assert "plain name" in problem


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_the_profiles_that_ship_are_right(profile: str) -> None:
    root = Path(__file__).resolve().parents[2]
    loaded = load({}, profile=profile, config_dir=root / "config")
    assert loaded.profile == profile
    assert loaded.warnings == ()


# -- everything wrong at once


def test_all_problems_are_reported_together(read: Read) -> None:
    found = problems_of(
        read,
        files={"base": "max_queu_size: 3\nparallel: true\n"},
        PORT="eighty",
        MAX_REQUEST_BODY_SIZE="8 potatoes",
        EMBEDDINGS="true",
        RERANK="true",
        flags={"log_level": "loud"},
    )
    text = "\n".join(found)
    assert len(found) == 6
    assert "max_queu_size (" in text
    assert "did you mean max_queue_size?" in text
    assert "PORT = eighty (env PORT): must be a whole number from 0 to 65535" in text
    assert "PARALLEL = True (" in text
    assert "MAX_REQUEST_BODY_SIZE = 8 potatoes (env MAX_REQUEST_BODY_SIZE): must be a size" in text
    assert "LOG_LEVEL = loud (flag --log-level): must be one of debug, info" in text
    assert "RERANK = true (env RERANK): must be false, as EMBEDDINGS is true" in text


def test_a_wrong_secret_is_not_shown(read: Read) -> None:
    (problem,) = problems_of(read, HF_TOKEN="canary canary")
    assert "canary" not in problem
    assert "HF_TOKEN = ***" in problem


def test_a_long_or_dirty_value_is_cut_and_escaped(read: Read) -> None:
    (problem,) = problems_of(read, PORT="\x1b[31m" + "9" * 500)
    assert "\x1b" not in problem
    assert len(problem) < 250


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("port: [8000", "must be YAML"),
        ("- port", "lines of 'name: value'"),
        ("port: 1\nport: 2\n", "is set twice"),
        ("PORT: 1", "did you mean port?"),
        ("port: 8000.0", "whole number"),
        ("auth_enabled: 2", "true or false"),
        ("cors_origins: {a: b}", "origins"),
        ("a: &x [1]\nport: *x", "is no setting"),
    ],
)
def test_a_bad_settings_file_is_named_with_the_reason(read: Read, text: str, word: str) -> None:
    found = problems_of(read, files={"base": text})
    assert any(word in problem and "base.yaml" in problem for problem in found), found


def test_a_broken_file_is_not_quoted(read: Read) -> None:
    found = problems_of(read, files={"base": "hf_token: canary: canary: [\n"})
    assert "canary" not in "".join(found)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"USE_MOCK_MODEL": "1", "ENGINE_KIND": "llama-server"}, "USE_MOCK_MODEL"),
        ({"BACKEND_URL": "http://h:1", "USE_MOCK_MODEL": "1"}, "USE_MOCK_MODEL"),
        ({"BACKEND_URL": "http://h:1"}, "BACKEND_URL"),
        ({"ENGINE_KIND": "llama-cpp-python"}, "ENGINE_KIND"),
        ({"BACKEND_URL": "http://user:pw@h:1"}, "BACKEND_URL"),
        ({"ENGINE_KIND": "external"}, "BACKEND_URL"),
        ({"RERANK": "1", "POOLING": "mean"}, "POOLING"),
        ({"TENSOR_SPLIT": "0,0"}, "TENSOR_SPLIT"),
        ({"TENSOR_SPLIT": "3,x"}, "TENSOR_SPLIT"),
        ({"CTX": "100", "PARALLEL": "4"}, "CTX"),
        ({"PARALLEL": "0"}, "PARALLEL"),
        ({"PORT": "65535"}, "PORT_HEALTH"),
        ({"MAX_HEADER_BLOCK_SIZE": "2KiB"}, "MAX_HEADER_BLOCK_SIZE"),
        ({"AUTH_KEYS_FILE": "/k", "AUTH_PEPPER_FILE": "/k"}, "AUTH_PEPPER_FILE"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "TRUSTED_PROXIES"),
        ({"CORS_ORIGINS": "https://a.example/path"}, "CORS_ORIGINS"),
        ({"EXTRA_ARGS": "--a 'b"}, "EXTRA_ARGS"),
        ({"HEALTH_CHECK_PATH": "ping"}, "HEALTH_CHECK_PATH"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(
    read: Read, given: dict[str, str], name: str
) -> None:
    found = problems_of(read, **given)
    assert any(problem.startswith(name) for problem in found), found


# -- how values are written


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("30s", 30.0), ("1.5s", 1.5), ("250ms", 0.25), ("5m", 300.0), ("2H", 7200.0)],
)
def test_durations_are_read_in_usual_units(read: Read, text: str, seconds: float) -> None:
    assert read(MAX_QUEUE_WAIT=text).settings.max_queue_wait == seconds


@pytest.mark.parametrize("text", ["-1", "five", "1e3", "inf", "nan", "5 minutes", "٣"])
def test_other_durations_are_refused(read: Read, text: str) -> None:
    (problem,) = problems_of(read, MAX_QUEUE_WAIT=text)
    assert "30, 30s, 5m or 2h" in problem


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8388608", 8388608),
        ("8MiB", 8388608),
        ("8M", 8388608),
        ("30MB", 30_000_000),
        ("64 KiB", 65536),
        ("0.5MiB", 524288),
    ],
)
def test_sizes_are_read_in_usual_units(read: Read, text: str, size: int) -> None:
    assert read(MAX_REQUEST_BODY_SIZE=text).settings.max_request_body_size == size


@pytest.mark.parametrize("text", ["true", "Yes", "ON", "1"])
def test_switches_take_the_usual_words(read: Read, text: str) -> None:
    assert read(USE_MOCK_MODEL=text).settings.use_mock_model is True


@pytest.mark.parametrize("text", ["2", "maybe", "truee", "-1"])
def test_switches_take_no_other_words(read: Read, text: str) -> None:
    problems_of(read, USE_MOCK_MODEL=text)


@pytest.mark.parametrize("text", ["8000.0", "0x1f", "1_000", "+-1", "", "99999999999999999999"])
def test_whole_numbers_are_strict(read: Read, text: str) -> None:
    problems_of(read, flags={"port": text})


def test_lists_are_read_from_text_and_yaml(read: Read) -> None:
    loaded = read(
        files={"base": "cors_origins: [https://a.example, 'http://b:1']\ntensor_split: [3, 1]"},
        TRUSTED_PROXIES="10.0.0.1/8, ::1",
        EXTRA_ARGS="--flash-attn on --override 'a b'",
    )
    assert loaded.settings.cors_origins == ("https://a.example", "http://b:1")
    assert loaded.settings.tensor_split == (3.0, 1.0)
    assert loaded.settings.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert loaded.settings.extra_args == ("--flash-attn", "on", "--override", "a b")


def test_auto_and_none_stand_for_no_value(read: Read) -> None:
    loaded = read(files={"base": "ctx: 4096"}, CTX="auto", MODEL_PATH="none")
    assert loaded.settings.ctx is None
    assert loaded.settings.model_path is None
    assert loaded.origins["ctx"] == "env CTX"


@given(st.integers(min_value=0, max_value=1 << 40))
def test_a_size_is_written_so_that_it_reads_back(size: int) -> None:
    assert Size().read(Size().show(size)) == size


@given(st.floats(min_value=0, max_value=1e7).map(lambda value: round(value, 3)))
def test_a_duration_is_written_so_that_it_reads_back(seconds: float) -> None:
    assert Duration().read(Duration().show(seconds)) == pytest.approx(seconds, rel=1e-9)


# -- defaults that follow from something


def test_the_health_port_is_the_next_one(read: Read) -> None:
    loaded = read(PORT="9000")
    assert loaded.settings.port_health == 9001
    assert loaded.origins["port_health"] == "default (PORT + 1)"
    assert not loaded.settings.one_listener


def test_a_free_port_gets_a_free_health_port(read: Read) -> None:
    settings = read(PORT="0").settings
    assert settings.port_health == 0
    assert not settings.one_listener


def test_equal_ports_mean_one_listener(read: Read) -> None:
    assert read(PORT="80", PORT_HEALTH="80").settings.one_listener


def test_on_runpod_the_health_port_is_the_port_that_is_probed(read: Read) -> None:
    assert read(PORT="80", RUNPOD_ENDPOINT_ID="e").settings.one_listener
    assert read(RUNPOD_ENDPOINT_ID="e").settings.port_health == 8001


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({}, "generic"),
        ({"RUNPOD_ENDPOINT_ID": "e", "RUNPOD_POD_ID": "p"}, "runpod-serverless"),
        ({"RUNPOD_POD_ID": "p", "KUBERNETES_SERVICE_HOST": "k"}, "runpod-pod"),
        ({"VAST_CONTAINERLABEL": "C.1"}, "vast"),
        (
            {"VAST_CONTAINERLABEL": "C.1", "MASTER_TOKEN": "t", "REPORT_ADDR": "a"},
            "vast-serverless",
        ),
        ({"VAST_CONTAINERLABEL": "C.1", "SERVERLESS": "true"}, "vast-serverless"),
        ({"FLY_MACHINE_ID": "m"}, "fly"),
        ({"K_SERVICE": "s", "KUBERNETES_SERVICE_HOST": "k"}, "knative"),
        ({"K_SERVICE": "s"}, "cloud-run"),
        ({"KUBERNETES_SERVICE_HOST": "k"}, "kubernetes"),
        ({"MODAL_TASK_ID": "t"}, "modal"),
        ({"RUNPOD_POD_ID": ""}, "generic"),
    ],
)
def test_platforms_are_told_apart(environ: dict[str, str], platform: str) -> None:
    assert detect_platform(environ) == platform


def test_the_platform_chooses_defaults_and_the_operator_overrules_them(read: Read) -> None:
    found = read(RUNPOD_ENDPOINT_ID="e", RUNPOD_POD_ID="w1", DRAIN_TIMEOUT="40")
    assert found.settings.platform == "runpod-serverless"
    assert found.settings.request_timeout == 320.0
    assert found.settings.drain_timeout == 40.0
    assert found.settings.node_id == "w1"
    assert read(RUNPOD_ENDPOINT_ID="e", PLATFORM="generic").settings.request_timeout == 600.0


@pytest.mark.parametrize(
    ("environ", "dirs", "expected"),
    [
        ({"RUNPOD_ENDPOINT_ID": "e"}, ("/runpod-volume", "/data"), "/runpod-volume"),
        ({"RUNPOD_POD_ID": "e"}, ("/workspace", "/data"), "/workspace"),
        ({"VAST_CONTAINERLABEL": "e"}, ("/workspace",), "/workspace"),
        ({"RUNPOD_POD_ID": "e"}, ("/data",), "/data"),
        ({}, ("/workspace", "/runpod-volume", "/data"), "/data"),
        ({}, (), "data"),
        ({"DATA_DIR": "/srv"}, ("/data",), "/srv"),
    ],
)
def test_the_data_folder_is_where_the_platform_keeps_things(
    read: Read, environ: dict[str, str], dirs: tuple[str, ...], expected: str
) -> None:
    settings = read(dirs=dirs, **environ).settings
    assert settings.data_dir == Path(expected)
    assert settings.models_dir == Path(expected) / "models"
    assert settings.auth_keys_file == Path(expected) / "keys.yaml"
    assert settings.auth_pepper_file == Path(expected) / "keys.pepper"


def test_the_pepper_lies_next_to_a_chosen_keys_file(read: Read) -> None:
    assert read(AUTH_KEYS_FILE="/etc/gw/k.yaml").settings.auth_pepper_file == Path(
        "/etc/gw/k.pepper"
    )


def test_media_make_room_for_larger_bodies_within_what_the_platform_carries(read: Read) -> None:
    assert read(MMPROJ="/m").settings.max_request_body_size == 32 << 20
    assert read(MMPROJ="/m", RUNPOD_POD_ID="p").settings.max_request_body_size == 30_000_000
    assert read(MMPROJ="/m", MAX_REQUEST_BODY_SIZE="1MiB").settings.max_request_body_size == 1 << 20


def test_the_cache_folder_is_the_users(read: Read) -> None:
    assert read(XDG_CACHE_HOME="/c").settings.cache_dir == Path("/c/llama-gateway")


# -- warnings


def test_a_misspelt_variable_is_a_warning_without_its_value(read: Read) -> None:
    (warning,) = read(MAX_QUEU_SIZE="canary").warnings
    assert warning == "the variable MAX_QUEU_SIZE is not read; did you mean MAX_QUEUE_SIZE?"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MODEL_DIR", "MODELS_DIR"),
        ("AUTH_KEY_FILE", "AUTH_KEYS_FILE"),
        ("MAX_QUEUE_WIAT", "MAX_QUEUE_WAIT"),
        ("MODEL_LOG", None),
        ("MODEL_ID", None),
        ("HOSTNAME", None),
        ("PORTS", None),
        ("LLAMA_SERVER_PORT", None),
        ("DATA_DIRECTORY", None),
    ],
)
def test_only_slips_of_the_pen_are_near_misses(name: str, meant: str | None) -> None:
    assert near_miss(name, [spec.env for spec in SPECS.values()]) == meant


def test_settings_that_work_but_may_not_be_meant_are_warned_about(read: Read) -> None:
    open_door = read(AUTH_ENABLED="false").warnings
    assert any("anyone who can connect" in warning for warning in open_door)
    assert read(AUTH_ENABLED="false", HOST="127.0.0.1").warnings == ()
    two_models = read(MODEL_PATH="/m.gguf", MODEL_HF="a/b").warnings
    assert two_models == ("MODEL_PATH decides the model; MODEL_HF has no effect",)
    mocked = read(MODEL_PATH="/m.gguf", USE_MOCK_MODEL="1").warnings
    assert mocked == ("MODEL_PATH has no effect: the engine is mock",)


# -- start-up


def test_reading_settings_does_not_load_the_server() -> None:
    code = (
        "import sys, gateway.config; print([m for m in ('aiohttp', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_limits_of_keys_are_off_where_there_are_no_keys_unless_asked_for(read: Read) -> None:
    keyless = read(AUTH_ENABLED="false", MAX_QUEUE_SIZE="500").settings
    assert (keyless.max_requests_per_minute, keyless.max_tokens_per_minute) == (0, 0)
    assert keyless.max_queue_per_key == 500
    assert read(AUTH_MODE="platform", PLATFORM="fly").settings.max_requests_per_minute == 0
    asked = read(AUTH_ENABLED="false", MAX_REQUESTS_PER_MINUTE="30").settings
    assert asked.max_requests_per_minute == 30
    assert read().settings.max_requests_per_minute == 100


def test_vast_serverless_listens_where_its_worker_looks() -> None:
    found = load({"VAST_CONTAINERLABEL": "C.1", "SERVERLESS": "true"}).settings
    assert (found.host, found.port, found.port_health) == ("127.0.0.1", 18000, 18001)
    assert found.auth_mode == "keys"  # never chosen by detection


@pytest.mark.parametrize(
    ("more", "url"),
    [
        ({"PUBLIC_IPADDR": "1.2.3.4", "VAST_TCP_PORT_8000": "41000"}, "http://1.2.3.4:41000"),
        ({"PUBLIC_IPADDR": "::1", "VAST_TCP_PORT_8000": "41000"}, "http://[::1]:41000"),
        ({"PUBLIC_IPADDR": "1.2.3.4", "VAST_TCP_PORT_8001": "41000"}, None),
        ({"PUBLIC_IPADDR": "evil\nline", "VAST_TCP_PORT_8000": "41000"}, None),
    ],
)
def test_vast_instance_knows_where_it_is_reached(more: dict[str, str], url: str | None) -> None:
    assert load({"VAST_CONTAINERLABEL": "C.1", **more}).settings.public_url == url
