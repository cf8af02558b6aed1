"""Downloads against a real server on the loopback that cuts, lies, changes its mind or refuses."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.errors import DownloadFailed, ModelInvalid
from backend.supply.fetch import Download, fetch
from backend.supply.progress import ConsoleProgress

BODY = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Origin:
    """A file on a server, and how the server misbehaves."""

    body: bytes = BODY
    etag: str | None = '"one"'
    cut_after: list[int] = field(default_factory=list)
    """For each coming request, after how many bytes of its answer the connection ends."""
    statuses: list[int] = field(default_factory=list)
    """For each coming request, an error to answer with."""
    ranges: bool = True
    claimed_length: int | None = None
    location: str | None = None
    encoding: str | None = None
    on_request: Callable[[int], None] = lambda number: None
    seen: list[dict[str, str]] = field(default_factory=list)
    address: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    origin: Origin

    def do_GET(self) -> None:
        origin = self.origin
        origin.seen.append({name.lower(): value for name, value in self.headers.items()})
        origin.on_request(len(origin.seen))
        if origin.location is not None:
            self._head(302, {"Location": origin.location, "Content-Length": "0"})
        elif origin.statuses:
            self._head(origin.statuses.pop(0), {"Content-Length": "0"})
        else:
            self._file(self._start_of_range())

    def _start_of_range(self) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") == self.origin.etag
        return int(wanted[1]) if wanted and same and self.origin.ranges else 0

    def _file(self, start: int) -> None:
        origin = self.origin
        rest = origin.body[start:]
        if start and not rest:
            self._head(416, {"Content-Range": f"bytes */{len(origin.body)}"})
            return
        headers = {"Content-Length": str(origin.claimed_length or len(rest))}
        if origin.etag:
            headers["ETag"] = origin.etag
        if origin.encoding:
            headers["Content-Encoding"] = origin.encoding
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(origin.body) - 1}/{len(origin.body)}"
        self._head(206 if start else 200, headers)
        self.wfile.write(rest[: origin.cut_after.pop(0)] if origin.cut_after else rest)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(origin: Origin) -> Iterator[Origin]:
    handler = type("OneOrigin", (Handler,), {"origin": origin})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        origin.address = f"http://127.0.0.1:{server.server_port}/m.gguf"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving(Origin()) as origin:
        yield origin


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "m.gguf"


def get(origin: Origin, target: Path, **how: object) -> tuple[Path, list[float]]:
    """Fetch, and return the path and the waits between the tries."""
    waits: list[float] = []
    download = Download(origin.address, target, **how)  # type: ignore[arg-type]
    with Path("/dev/null").open("w") as nowhere:
        path = fetch(download, ConsoleProgress(nowhere), pause=waits.append)
    return path, waits


def leftovers(target: Path) -> set[str]:
    return {file.name for file in target.parent.iterdir()} - {"m.gguf.lock"}


def test_file_arrives_whole_under_its_name_with_nothing_beside_it(origin, target):
    path, waits = get(origin, target, sha256=SHA256.upper())
    assert path.read_bytes() == BODY
    assert waits == []
    assert leftovers(target) == {"m.gguf", "m.gguf.fetched.json"}


def test_cut_transfer_goes_on_where_it_stopped(origin, target):
    origin.cut_after = [100_000, 50_000]
    _, waits = get(origin, target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert [seen.get("range") for seen in origin.seen] == [None, "bytes=100000-", "bytes=150000-"]
    assert {seen.get("if-range") for seen in origin.seen[1:]} == {'"one"'}
    assert waits == [1, 1]


def test_next_run_goes_on_where_the_last_one_was_stopped(origin, target):
    class Stopped(BaseException):
        pass

    def stop(delay_s: float) -> None:
        raise Stopped

    origin.cut_after = [100_000]
    with pytest.raises(Stopped), Path("/dev/null").open("w") as nowhere:
        fetch(Download(origin.address, target), ConsoleProgress(nowhere), pause=stop)
    assert not target.exists()
    get(origin, target)
    assert origin.seen[1]["range"] == "bytes=100000-"
    assert target.read_bytes() == BODY


def test_file_that_changed_meanwhile_is_begun_again(origin, target):
    changed = BODY[::-1]

    def change(number: int) -> None:
        if number == 2:
            origin.body, origin.etag = changed, '"two"'

    origin.cut_after, origin.on_request = [100_000], change
    get(origin, target)
    assert target.read_bytes() == changed


def test_server_without_ranges_is_asked_for_all_of_it_again(origin, target):
    origin.ranges, origin.cut_after = False, [100_000]
    get(origin, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_continued(origin, target, etag):
    origin.etag, origin.cut_after = etag, [100_000]
    get(origin, target)
    assert "range" not in origin.seen[1]
    assert target.read_bytes() == BODY


def test_part_larger_than_the_file_is_thrown_away(origin, target):
    origin.cut_after = [100_000]
    part = target.with_name("m.gguf.part")

    def grow(delay_s: float) -> None:
        if part.exists():
            part.write_bytes(part.read_bytes() + BODY)

    with Path("/dev/null").open("w") as nowhere:
        fetch(Download(origin.address, target, SHA256), ConsoleProgress(nowhere), pause=grow)
    assert target.read_bytes() == BODY


def test_length_that_is_never_reached_is_a_failure_after_a_few_tries(origin, target):
    origin.claimed_length, origin.ranges, origin.etag = len(BODY) + 1, False, None
    with pytest.raises(DownloadFailed, match=f"{len(BODY)} of {len(BODY) + 1} bytes"):
        get(origin, target)
    assert not target.exists()
    assert 3 <= len(origin.seen) <= 10


def test_busy_server_is_asked_again_with_growing_waits(origin, target):
    origin.statuses = [503, 429, 500]
    _, waits = get(origin, target)
    assert waits == [1, 2, 4]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusal_is_final_at_once(origin, target, status):
    origin.statuses = [status] * 3
    with pytest.raises(DownloadFailed, match=str(status)):
        get(origin, target)
    assert len(origin.seen) == 1


def test_wrong_hash_is_refused_and_nothing_of_it_kept(origin, target):
    with pytest.raises(DownloadFailed, match=SHA256):
        get(origin, target, sha256="0" * 64)
    assert leftovers(target) == set()
    assert len(origin.seen) == 1


def test_file_refused_by_the_callers_check_never_gets_its_name(origin, target):
    def refuse(path: Path) -> None:
        raise ModelInvalid(path, "a web page")

    with pytest.raises(ModelInvalid):
        get(origin, target, check=refuse)
    assert leftovers(target) == set()


def test_second_fetch_asks_the_server_nothing(origin, target):
    get(origin, target, sha256=SHA256)
    get(origin, target, sha256=SHA256)
    get(origin, target)
    assert len(origin.seen) == 1


def test_token_in_the_address_may_change_without_a_new_download(origin, target):
    get(origin, target)
    origin.address += "?signature=other"
    get(origin, target)
    assert len(origin.seen) == 1
    assert "signature" not in "".join(f.read_text() for f in target.parent.glob("*.json"))


def test_other_address_is_fetched_anew(origin, target):
    get(origin, target)
    with serving(Origin(body=BODY[:1000])) as other:
        get(other, target)
    assert target.read_bytes() == BODY[:1000]


def test_file_put_there_by_a_person_is_used_but_never_replaced(origin, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")
    get(origin, target)
    with pytest.raises(DownloadFailed, match="move it away"):
        get(origin, target, sha256=SHA256)
    assert target.read_bytes() == b"mine"
    assert origin.seen == []


def test_fetched_file_with_another_hash_than_now_asked_for_is_fetched_again(origin, target):
    get(origin, target)
    origin.body = BODY[::-1]
    get(origin, target, sha256=hashlib.sha256(BODY[::-1]).hexdigest())
    assert target.read_bytes() == BODY[::-1]


def test_redirect_is_followed(origin, target):
    with serving(Origin(location=origin.address)) as door:
        get(door, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_redirect_out_of_http_is_not_followed(origin, target, location):
    origin.location = location
    with pytest.raises(DownloadFailed):
        get(origin, target)
    assert not target.exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "/tmp/x", "http:///x", "http://a:b@c/d"]
)
def test_only_plain_http_addresses_are_taken(tmp_path, url):
    with pytest.raises(DownloadFailed) as caught:
        fetch(Download(url, tmp_path / "x"), ConsoleProgress())
    assert url not in str(caught.value)


def test_compressed_answer_is_refused_because_its_size_says_nothing(origin, target):
    origin.encoding = "gzip"
    with pytest.raises(DownloadFailed, match="compressed"):
        get(origin, target)


def test_full_disk_is_noticed_before_the_transfer(origin, target):
    origin.claimed_length = 1 << 60
    with pytest.raises(DownloadFailed, match="not enough space"):
        get(origin, target)
    assert not target.exists()


def test_no_server_is_a_failure_that_keeps_what_was_there(origin, target):
    origin.cut_after = [100_000] + [0] * 20
    with pytest.raises(DownloadFailed, match="gave up"):
        get(origin, target)
    assert target.with_name("m.gguf.part").stat().st_size == 100_000


def test_two_at_once_fetch_it_once(origin, target):
    both_running = threading.Barrier(2)

    def work() -> None:
        both_running.wait(timeout=10)
        get(origin, target)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(origin.seen) == 1
    assert target.read_bytes() == BODY
