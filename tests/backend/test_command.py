import sys
from pathlib import Path

import pytest

from backend.address import TcpAddress, UnixAddress
from backend.command import EngineSettings, build_command, clean_environment
from backend.errors import BadEngineArgument
from backend.extra_args import refuse_extra_args

SOCKET = UnixAddress("/run/lg/engine.sock")
LLAMA = EngineSettings(binary=Path("/opt/llama-server"), model=Path("/m/a.gguf"), alias="small")


def build(settings=LLAMA, *, address=SOCKET, key="k3y", environ=None):
    return build_command(settings, address=address, key=key, environ=environ or {})


def option(argv, name):
    return argv[argv.index(name) + 1]


def test_key_goes_by_environment_and_never_by_argument():
    command = build(key="s3cret-key")
    assert command.env["LLAMA_API_KEY"] == "s3cret-key"
    assert not any("s3cret-key" in argument for argument in command.argv)


def test_repr_shows_no_secret():
    command = build(key="s3cret-key", environ={"CUDA_TOKEN": "other-secret"})
    assert "s3cret-key" not in repr(command)
    assert "other-secret" not in repr(command)


def test_engine_listens_on_the_private_socket_only():
    argv = build().argv
    assert option(argv, "--host") == SOCKET.path
    assert "--port" not in argv


def test_tcp_is_the_fallback():
    argv = build(address=TcpAddress("127.0.0.1", 4711)).argv
    assert (option(argv, "--host"), option(argv, "--port")) == ("127.0.0.1", "4711")


def test_every_start_pins_slots_and_closes_what_is_not_needed():
    argv = build(EngineSettings(binary=Path("/x"), model=Path("/m"), parallel=3, ctx=3072)).argv
    assert option(argv, "--parallel") == "3"
    assert option(argv, "--cache-ram") == "0"
    assert option(argv, "--sse-ping-interval") == "-1"
    assert option(argv, "--fit") == "off"
    assert {"--no-kv-unified", "--no-ui", "--offline", "--no-cors-credentials"} <= set(argv)
    assert int(option(argv, "--threads-http")) > 3 + 8


def test_a_hugging_face_name_goes_to_the_engine_which_may_then_use_the_network():
    settings = EngineSettings(binary=Path("/x"), hf="owner/repo:Q4_0")
    command = build(settings, environ={"HF_TOKEN": "t", "HTTPS_PROXY": "p"})
    assert option(command.argv, "--hf-repo") == "owner/repo:Q4_0"
    assert "--offline" not in command.argv
    assert command.env["HF_TOKEN"] == "t"
    assert command.env["HTTPS_PROXY"] == "p"


def test_engines_for_embeddings_take_a_whole_slot_in_one_batch():
    settings = EngineSettings(
        binary=Path("/x"), model=Path("/m"), embeddings=True, pooling="mean", ctx=8192, parallel=2
    )
    argv = build(settings).argv
    assert option(argv, "--ubatch-size") == option(argv, "--batch-size") == "4096"
    assert "--embeddings" in argv
    assert option(argv, "--pooling") == "mean"


def test_choices_reach_the_command_line():
    settings = EngineSettings(
        binary=Path("/x"),
        model=Path("/m"),
        ngl=99,
        tensor_split="3,1",
        split_mode="row",
        threads=7,
        mmproj=Path("/p.gguf"),
        rerank=True,
        extra_args=("--flash-attn", "on"),
    )
    argv = build(settings).argv
    assert option(argv, "--n-gpu-layers") == "99"
    assert option(argv, "--tensor-split") == "3,1"
    assert option(argv, "--split-mode") == "row"
    assert option(argv, "--threads") == "7"
    assert option(argv, "--mmproj") == "/p.gguf"
    assert "--reranking" in argv
    assert argv[-2:] == ("--flash-attn", "on")


def test_mock_is_a_child_with_the_same_interface():
    argv = build(EngineSettings(kind="mock", alias="m", parallel=2, ctx=512)).argv
    assert argv[:3] == (sys.executable, "-m", "backend.mock")
    assert option(argv, "--host") == SOCKET.path
    assert option(argv, "--parallel") == "2"
    assert option(argv, "--ctx-size") == "512"


def test_environment_is_an_allow_list():
    environ = {
        "PATH": "/bin",
        "HOME": "/root",
        "LD_LIBRARY_PATH": "/l",
        "CUDA_VISIBLE_DEVICES": "0",
        "GGML_CUDA_FORCE_MMQ": "1",
        "LLAMA_ARG_TOOLS": "all",
        "LLAMA_API_KEY": "theirs",
        "LLAMA_SERVER_SLOTS_DEBUG": "1",
        "AIP_MODE": "PREDICTION",
        "HF_TOKEN": "hf",
        "AWS_SECRET_ACCESS_KEY": "x",
        "MOCK_TOKENS": "3",
    }
    env = build(environ=environ).env
    assert dict(env) == {
        "PATH": "/bin",
        "HOME": "/root",
        "LD_LIBRARY_PATH": "/l",
        "CUDA_VISIBLE_DEVICES": "0",
        "GGML_CUDA_FORCE_MMQ": "1",
        "GGML_NO_BACKTRACE": "1",
        "LLAMA_API_KEY": "k3y",
    }


def test_the_mock_may_be_scripted_by_environment():
    settings = EngineSettings(kind="mock")
    assert clean_environment({"MOCK_TOKENS": "3"}, settings)["MOCK_TOKENS"] == "3"


REFUSED = [
    *("--host", "--port", "--path", "--api-prefix", "--reuse-port", "--host=0.0.0.0"),
    *("--api-key", "--api-key-file", "--api_key", "--api_key_file", "--api-key=x"),
    *("--ssl-key-file", "--ssl-cert-file", "--rpc", "--props", "--sleep-idle-seconds"),
    *("--tools", "--tools-runtime", "--agent", "-ag", "--mcp-servers-config", "--mcp-servers-json"),
    *("--ui", "--webui", "--ui-config", "--ui-mcp-proxy", "--webui-mcp-proxy"),
    *("--media-path", "--slot-save-path", "--log-prompts-dir"),
    *("--models-dir", "--models-preset", "--models-max", "--models-autoload"),
    *("-v", "--verbose", "--log-verbose", "--log-jsonl", "--sse-ping-interval"),
]


@pytest.mark.parametrize("argument", REFUSED)
def test_extra_args_cannot_take_over_what_the_gateway_owns(argument):
    with pytest.raises(BadEngineArgument, match=argument.partition("=")[0].replace("_", "-")):
        refuse_extra_args(["--flash-attn", "on", argument, "value"])


@pytest.mark.parametrize(
    "extra",
    [
        ("-lv", "5"),
        ("--verbosity", "9"),
        ("--log-verbosity", "x"),
        ("-lv",),
        ("--verbosity=5",),
    ],
)
def test_extra_args_cannot_make_the_engine_log_prompts(extra):
    with pytest.raises(BadEngineArgument, match="prompts"):
        refuse_extra_args(extra)


def test_other_extra_args_pass():
    refuse_extra_args(["-lv", "4", "-ctk", "q8_0", "--flash-attn", "on", "--no-host", "-t", "4"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (EngineSettings(binary=None, model=Path("/m")), "llama-server"),
        (EngineSettings(binary=Path("/x")), "model"),
        (EngineSettings(binary=Path("/x"), model=Path("/m"), hf="a/b"), "model"),
        (EngineSettings(kind="mock", parallel=0), "PARALLEL"),
    ],
)
def test_settings_that_no_engine_could_run_are_refused(settings, words):
    with pytest.raises(BadEngineArgument, match=words):
        build(settings)


@pytest.mark.parametrize("path", ["/run/engine", "/" + "x" * 120 + ".sock"])
def test_socket_paths_that_cannot_work_are_refused(path):
    with pytest.raises(BadEngineArgument, match="socket"):
        build(address=UnixAddress(path))


@pytest.mark.parametrize("key", ["", "a,b"])
def test_an_engine_is_never_started_open_or_with_two_keys(key):
    with pytest.raises(BadEngineArgument, match="key"):
        build(key=key)
