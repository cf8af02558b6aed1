"""Which model file runs."""

from __future__ import annotations

import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import DownloadFailed, ModelInvalid, ModelNotFound
from backend.supply.model import DEMO_MODEL_NAME, ModelSettings, public_name, resolve


def gguf(kind: str = "model") -> bytes:
    """The smallest file that passes: one tensor of eight numbers."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    pairs = {"general.architecture": "llama", "general.type": kind}
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(pairs))
    for key, value in pairs.items():
        head += text(key) + struct.pack("<I", 8) + text(value)
    head += text("w") + struct.pack("<IQIQ", 1, 8, 0, 0)
    return head + bytes(-len(head) % 32) + bytes(32)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def add(folder: Path, name: str, kind: str = "model") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(kind))
    return path


def test_path_wins_over_everything(tmp_path, models):
    path = add(tmp_path, "other.gguf")
    add(models, "named.gguf")
    found = resolve(ModelSettings(models, model_path=path, model_hf="a/b"))
    assert (found.path, found.source, found.name) == (path, "path", "other")
    assert found.info is not None


def test_name_may_rename_the_model_of_a_path(tmp_path, models):
    path = add(tmp_path, "x.gguf")
    assert resolve(ModelSettings(models, path, model_name="mine")).name == "mine"


@pytest.mark.parametrize("name", ["small", "small.gguf"])
def test_name_is_found_with_and_without_its_ending(models, name):
    path = add(models, "small.gguf")
    found = resolve(ModelSettings(models, model_name=name))
    assert (found.path, found.source, found.name) == (path, "name", "small")


def test_name_may_be_a_folder_with_one_model(models):
    path = add(models, "org/small/weights.gguf")
    add(models, "org/small/mmproj-weights.gguf", "mmproj")
    assert resolve(ModelSettings(models, model_name="org/small")).path == path


def test_folder_with_two_models_is_not_guessed_about(models):
    add(models, "both/a.gguf")
    add(models, "both/b.gguf")
    with pytest.raises(ModelNotFound, match=r"a\.gguf, b\.gguf"):
        resolve(ModelSettings(models, model_name="both"))


def test_name_of_a_model_in_parts_finds_the_first_part(models):
    path = add(models, "big-00001-of-00002.gguf")
    add(models, "big-00002-of-00002.gguf")
    assert resolve(ModelSettings(models, model_name="big")).path == path


def test_unknown_name_is_answered_with_what_there_is(models):
    add(models, "a.gguf")
    add(models, "b-00001-of-00002.gguf")
    add(models, "b-00002-of-00002.gguf")
    with pytest.raises(ModelNotFound) as caught:
        resolve(ModelSettings(models, model_name="c"))
    assert str(caught.value).endswith("there are: a.gguf, b-00001-of-00002.gguf")


def test_missing_models_folder_is_said(tmp_path):
    with pytest.raises(ModelNotFound, match="does not exist"):
        resolve(ModelSettings(tmp_path / "none", model_name="c"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..", "a\\..\\x", "", "."])
def test_name_cannot_leave_the_models_folder(tmp_path, models, name):
    add(tmp_path, "x.gguf")
    settings = ModelSettings(models, model_name=name, model_url="http://127.0.0.1:9/x")
    if not name:
        settings = ModelSettings(models, model_name="./")
    with pytest.raises(ModelNotFound, match="MODEL_PATH"):
        resolve(settings)


def test_missing_path_is_said_with_what_there_is(models):
    add(models, "a.gguf")
    with pytest.raises(ModelNotFound, match=r"a\.gguf"):
        resolve(ModelSettings(models, model_path=models / "b.gguf"))


def test_damaged_file_is_refused(models):
    path = add(models, "cut.gguf")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelInvalid, match="truncated"):
        resolve(ModelSettings(models, model_name="cut"))


@pytest.mark.parametrize(("kind", "words"), [("mmproj", "MMPROJ"), ("adapter", "LoRA")])
def test_file_that_is_no_model_by_itself_is_refused(models, kind, words):
    path = add(models, "x.gguf", kind)
    with pytest.raises(ModelInvalid, match=words):
        resolve(ModelSettings(models, model_path=path))


def test_repository_is_left_to_the_engine(models):
    found = resolve(ModelSettings(models, model_hf="owner/repo:Q4_0"))
    assert (found.hf, found.path, found.source) == ("owner/repo:Q4_0", None, "hf")
    assert found.name == "owner/repo:Q4_0"


@pytest.fixture
def address() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = gguf() if "good" in self.path else b"<html>please log in</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_address_is_fetched_into_the_models_folder(models, address):
    found = resolve(ModelSettings(models, model_url=f"{address}/a/good-model.gguf?token=x"))
    assert found.path == models / "good-model.gguf"
    assert (found.source, found.name) == ("url", "good-model")


def test_name_with_an_address_is_where_the_file_is_kept(models, address):
    settings = ModelSettings(models, model_name="mine", model_url=f"{address}/good")
    assert resolve(settings).path == models / "mine.gguf"
    assert resolve(settings).source == "name"


def test_web_page_in_place_of_a_model_is_never_kept(models, address):
    with pytest.raises(ModelInvalid, match="web page"):
        resolve(ModelSettings(models, model_url=f"{address}/bad.gguf"))
    assert not list(models.glob("*.gguf"))


def test_hash_of_a_fetched_model_counts(models, address):
    with pytest.raises(DownloadFailed, match="SHA-256"):
        resolve(ModelSettings(models, model_url=f"{address}/good", model_sha256="0" * 64))


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("http://h/a/b%2F..%2Fc.gguf", "c"),
        ("http://h/.hidden", "hidden"),
        ("http://h/", "model"),
        ("http://h/we%20ird%00name", "we_ird_name"),
        ("http://h/big-00001-of-00003.gguf", "big"),
    ],
)
def test_name_made_from_an_address_is_a_plain_one(models, url, file):
    assert public_name(ModelSettings(models, model_url=url)) == file


def test_demo_model_is_what_runs_when_nothing_is_set(models):
    found = resolve(ModelSettings(models))
    assert (found.source, found.name) == ("demo", DEMO_MODEL_NAME)
    assert found.info is not None
    assert found.info.has_chat_template
    assert resolve(ModelSettings(models, model_name=DEMO_MODEL_NAME)).path == found.path
