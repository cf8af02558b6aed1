"""The mock engine as a process, held against recordings of the real llama-server."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from backend.mock.answer import chat_answer
from backend.mock.example import example
from backend.mock.options import MockOptions, parse_options
from backend.mock.scenario import BadScenario, Scenario, parse_scenario

KEY = "k"
RECORDED = Path(__file__).parents[1] / "data" / "streams"
LIMIT_S = 20.0


class Client:
    """One connection that reads exactly what the wire says."""

    def __init__(self, path):
        self._path = path
        self.reader = self.writer = None

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *exc):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def send(self, method, path, body=None, key=KEY):
        raw = (
            b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{auth}Content-Length: {len(raw)}\r\n\r\n"
        self.writer.write(head.encode() + raw)
        await self.writer.drain()

    async def head(self):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, value in pairs}

    async def chunk(self):
        """One HTTP chunk; b"" for the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks(self):
        while data := await self.chunk():
            yield data

    async def call(self, method, path, body=None, key=KEY):
        await self.send(method, path, body, key)
        status, headers = await self.head()
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        return status, headers, b"".join([data async for data in self.chunks()])


class Mock:
    """A running mock."""

    def __init__(self, directory, flags):
        self.path = str(directory / "m.sock")
        self._flags = flags
        self.process = None

    async def __aenter__(self):
        argv = [sys.executable, "-m", "backend.mock", "--host", self.path, *self._flags]
        self.process = await asyncio.create_subprocess_exec(
            *argv,
            stderr=asyncio.subprocess.PIPE,
            env={"LLAMA_API_KEY": KEY},
            cwd=Path(__file__).parents[2],
        )
        return self

    async def __aexit__(self, *exc):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def line(self, words):
        """Wait for a line of its log."""
        while line := (await self.process.stderr.readline()).decode():
            if words in line:
                return line
        raise AssertionError(f"the mock ended without saying {words!r}")

    async def ready(self):
        await self.line("listening on")
        return self

    def client(self):
        return Client(self.path)

    async def post(self, path, body):
        async with self.client() as client:
            status, _, answer = await client.call("POST", path, body)
            return status, answer

    async def stats(self, **conditions):
        query = "&".join(f"{name}={value}" for name, value in conditions.items())
        async with self.client() as client:
            _, _, body = await client.call("GET", f"/mock/stats?{query}", key=None)
            return json.loads(body)


@pytest.fixture
def directory():
    path = Path(tempfile.mkdtemp(prefix="lg-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def mock(directory):
    async with asyncio.timeout(LIMIT_S), Mock(directory, ["-np", "2", "-a", "tiny"]) as running:
        yield await running.ready()


def start(directory, *flags):
    return Mock(directory, flags)


def chat(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def streamed(text, **fields):
    options = {"stream": True, "return_progress": True, "stream_options": {"include_usage": True}}
    return chat(text, **options, **fields)


def events(raw):
    """The JSON payloads of a stream, without [DONE]."""
    found = [part.removeprefix(b"data: ") for part in raw.split(b"\n\n") if part]
    return [json.loads(part) for part in found if part not in (b"[DONE]", b":")]


def shape(value):
    """Keys in their order, types for values; lists by their first element."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}, list(value)
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def shapes(raw):
    """Every different shape of event, as a set of texts."""
    return {json.dumps(shape(each)) for each in events(raw)}


# --- held against the real server -------------------------------------------------------------

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
LIKE = {
    "chat-length": ("/v1/chat/completions", streamed("hi", max_tokens=4)),
    "chat-logprobs": (
        "/v1/chat/completions",
        streamed("hi", max_tokens=4, logprobs=True, top_logprobs=2),
    ),
    "chat-two": ("/v1/chat/completions", streamed("hi", max_tokens=4, n=2)),
    "chat-tool": ("/v1/chat/completions", streamed("hi", tools=[TOOL], tool_choice="required")),
    "chat-thoughts": ("/v1/chat/completions", streamed("mock: reasoning=3")),
    "error": ("/v1/chat/completions", streamed("mock: error_after=2")),
    "text-length": (
        "/v1/completions",
        {"prompt": "hi", "max_tokens": 4, "stream": True, "return_progress": True},
    ),
    "text-list": (
        "/v1/completions",
        {"prompt": ["hi", "ho"], "max_tokens": 4, "stream": True, "return_progress": True},
    ),
}


@pytest.mark.parametrize("case", LIKE)
async def test_events_look_like_the_real_servers(mock, case):
    path, body = LIKE[case]
    _, ours = await mock.post(path, body)
    theirs = (RECORDED / f"{case}.sse").read_bytes()
    assert shapes(ours) == shapes(theirs)
    assert ours.endswith(b"data: [DONE]\n\n") == theirs.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("case", [name for name in LIKE if name != "error"])
async def test_whole_replies_look_like_the_real_servers(mock, case):
    path, body = LIKE[case]
    _, ours = await mock.post(path, {**body, "stream": False})
    theirs = (RECORDED / f"{case}.json").read_bytes()
    assert shape(json.loads(ours)) == shape(json.loads(theirs))


# --- answers ----------------------------------------------------------------------------------


async def test_a_stream_and_a_whole_reply_say_the_same(mock):
    _, whole = await mock.post("/v1/chat/completions", chat("hi", max_tokens=6))
    _, raw = await mock.post("/v1/chat/completions", streamed("hi", max_tokens=6))
    reply, parts = json.loads(whole), events(raw)
    deltas = [choice["delta"] for part in parts for choice in part["choices"]]
    assert (
        "".join(delta.get("content") or "" for delta in deltas)
        == (reply["choices"][0]["message"]["content"])
    )
    assert parts[-1]["usage"] == reply["usage"]
    assert parts[-1]["timings"] == reply["timings"]
    assert {part["id"] for part in parts} == {reply["id"]}


async def test_one_http_chunk_for_each_result_and_role_with_the_first_token(mock):
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", streamed("hi", max_tokens=3))
        status, headers = await client.head()
        counts = [data.count(b"data: ") async for data in client.chunks()]
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    # two progress events; role and token; two tokens; finish and usage; [DONE]
    assert counts == [1, 1, 2, 1, 1, 2, 1]


async def test_the_same_request_gets_the_same_bytes_from_another_process(directory):
    answers = []
    async with asyncio.timeout(LIMIT_S):
        for name in "ab":
            (directory / name).mkdir()
            async with start(directory / name, "-a", "m") as mock:
                await mock.ready()
                answers.append(await mock.post("/v1/chat/completions", streamed("hello")))
    assert answers[0] == answers[1]


async def test_counting_agrees_with_usage(mock):
    body = chat("one two three", max_tokens=1)
    _, counted = await mock.post("/v1/chat/completions/input_tokens", body)
    _, reply = await mock.post("/v1/chat/completions", body)
    assert json.loads(counted)["input_tokens"] == json.loads(reply)["usage"]["prompt_tokens"]


@pytest.mark.parametrize("prompt", ["one two three", " ", [5, 6], ["a b", "c"]])
async def test_tokenizing_a_prompt_agrees_with_usage(mock, prompt):
    first = prompt[0] if isinstance(prompt, list) and isinstance(prompt[0], str) else prompt
    asked = {"content": first, "add_special": True, "parse_special": True}
    _, answer = await mock.post("/tokenize", asked)
    _, reply = await mock.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
    assert len(json.loads(answer)["tokens"]) == json.loads(reply)["usage"]["prompt_tokens"]


async def test_tokenizing_joins_texts_and_numbers(mock):
    _, answer = await mock.post("/tokenize", {"content": ["", -1, "one two", 7, "three"]})
    assert json.loads(answer) == {"tokens": [-1, 0, 1, 7, 0]}
    assert json.loads((await mock.post("/tokenize", {}))[1]) == {"tokens": []}


async def test_schema_answers_fit_the_schema(mock):
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"enum": [4]}}}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    _, reply = await mock.post("/v1/chat/completions", chat("hi", response_format=asked))
    content = json.loads(reply)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"name": "word", "n": 4}


async def test_stop_words_cut_the_answer(mock):
    body = chat("mock: say=one two three four", stop=["three"])
    _, reply = await mock.post("/v1/chat/completions", body)
    choice = json.loads(reply)["choices"][0]
    assert choice["message"]["content"] == "one two "
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "stop"), (9, "stop")])
async def test_a_limit_that_cuts_is_reported(mock, limit, reason):
    _, reply = await mock.post("/v1/chat/completions", chat("mock: tokens=3", max_tokens=limit))
    assert json.loads(reply)["choices"][0]["finish_reason"] == reason


async def test_embeddings_and_rerank_need_their_flags(mock):
    status, answer = await mock.post("/v1/embeddings", {"input": "hi"})
    assert (status, json.loads(answer)["error"]["type"]) == (501, "not_supported_error")
    status, answer = await mock.post("/v1/rerank", {"query": "a", "documents": ["b"]})
    assert (status, json.loads(answer)["error"]["type"]) == (501, "not_supported_error")


async def test_embeddings_and_rerank(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--embeddings", "--rerank") as mock:
        await mock.ready()
        _, answer = await mock.post("/v1/embeddings", {"input": ["a", "b"], "model": "zz"})
        reply = json.loads(answer)
        assert (reply["model"], [each["index"] for each in reply["data"]]) == ("zz", [0, 1])
        vector = reply["data"][0]["embedding"]
        assert sum(value * value for value in vector) == pytest.approx(1.0)
        body = {"query": "red house", "documents": ["x", "red house", "red"], "top_n": 2}
        _, answer = await mock.post("/v1/rerank", body)
        assert [each["index"] for each in json.loads(answer)["results"]] == [1, 2]


# --- errors -----------------------------------------------------------------------------------


async def test_nothing_without_the_key_but_health(mock):
    async with mock.client() as client:
        assert (await client.call("GET", "/health", key=None))[0] == 200
        status, headers, body = await client.call("GET", "/v1/models", key="wrong")
    assert (status, headers["connection"]) == (401, "close")
    assert body == (
        b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}'
    )


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nope"), ("GET", "/v1/embeddings"), ("POST", "/v1/models")]
)
async def test_unknown_paths_and_methods_are_not_found(mock, method, path):
    async with mock.client() as client:
        status, _, body = await client.call(method, path)
    assert status == 404
    assert body == b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'


@pytest.mark.parametrize(
    ("text", "fields", "status", "kind"),
    [
        ("mock: error=500", {}, 500, "server_error"),
        ("mock: error=400", {}, 400, "invalid_request_error"),
        ("mock: error=503", {}, 503, "unavailable_error"),
        ("mock: error=context", {}, 400, "exceed_context_size_error"),
        ("mock: prompt_tokens=9999", {}, 400, "exceed_context_size_error"),
        ("mock: no_such_word=1", {}, 400, "invalid_request_error"),
        ("hi", {"n": 3}, 400, "invalid_request_error"),
    ],
)
async def test_errors_before_the_first_token(mock, text, fields, status, kind):
    answered, body = await mock.post("/v1/chat/completions", streamed(text, **fields))
    error = json.loads(body)["error"]
    assert (answered, error["code"], error["type"]) == (status, status, kind)
    assert list(error)[:3] == ["code", "message", "type"]


async def test_a_prompt_too_long_names_both_numbers(mock):
    _, body = await mock.post("/v1/chat/completions", chat("mock: prompt_tokens=9999"))
    error = json.loads(body)["error"]
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (9999, 4096)


async def test_bad_json_and_missing_messages(mock):
    assert (await mock.post("/v1/chat/completions", b"{bad"))[0] == 500
    status, body = await mock.post("/v1/chat/completions", {})
    assert (status, json.loads(body)["error"]["message"]) == (400, "'messages' is required")


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "returncode", "tokens"),
    [
        ("crash_head", -signal.SIGSEGV, None),
        ("crash_after=0", -signal.SIGSEGV, 0),
        ("crash_after=2 crash=abrt", -signal.SIGABRT, 2),
        ("crash_after=2 crash=7", 7, 2),
    ],
)
async def test_a_crash_sends_what_came_before_it_and_nothing_after(mock, words, returncode, tokens):
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", streamed(f"mock: {words}"))
        received = (await client.reader.read()).decode()
    assert await mock.process.wait() == returncode
    assert received.count('"content":" ') == (tokens or 0)
    assert received.startswith("HTTP/1.1 200") == (tokens is not None)


async def test_a_crash_can_be_asked_for_once(directory):
    body = chat("mock: crash_head once=boom tokens=2")
    async with asyncio.timeout(LIMIT_S):
        async with start(directory) as mock:
            await mock.ready()
            async with mock.client() as client:
                await client.send("POST", "/v1/chat/completions", body)
                assert await client.reader.read() == b""
            assert await mock.process.wait() == -signal.SIGSEGV
        (directory / "m.sock").unlink()
        async with start(directory) as mock:
            await mock.ready()
            assert (await mock.post("/v1/chat/completions", body))[0] == 200


async def test_a_hang_holds_its_slot_until_the_client_leaves(mock):
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", streamed("mock: hang_after=1"))
        await client.head()
        for _ in range(3):
            await client.chunk()
        assert (await mock.stats(active=1))["tokens"] == 1
    assert (await mock.stats(active=0))["abandoned"] == 1


async def test_a_connection_can_be_cut_in_mid_event(mock):
    body = streamed("mock: cut_after=700")
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", body)
        await client.head()
        received = await client.reader.read()
    assert not received.endswith(b"0\r\n\r\n")
    assert 600 < len(received) < 800


async def test_split_pieces_hold_whole_events_together(mock):
    async with mock.client() as client:
        body = streamed("mock: split=5 say=Zürich 東京")
        await client.send("POST", "/v1/chat/completions", body)
        await client.head()
        pieces = [data async for data in client.chunks()]
    assert max(len(piece) for piece in pieces) == 5
    deltas = [each["choices"][0]["delta"] for each in events(b"".join(pieces)) if each["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Zürich 東京"


async def test_flags_script_the_whole_process(directory):
    flags = ("--crash-after-events", "3", "--exit-code", "9", "--tokens", "2")
    async with asyncio.timeout(LIMIT_S), start(directory, *flags) as mock:
        await mock.ready()
        assert (await mock.post("/v1/chat/completions", chat("hi")))[0] == 200
        async with mock.client() as client:
            await client.send("POST", "/v1/chat/completions", chat("hi"))
            assert await client.reader.read() == b""
        assert await mock.process.wait() == 9


# --- slots and connections --------------------------------------------------------------------


async def test_requests_beyond_the_slots_wait_in_order_without_a_byte(mock):
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(mock.client()) for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send("POST", "/v1/chat/completions", streamed("mock: hang_after=0"))
            await mock.stats(requests=number + 1, waiting=max(0, number - 1))
        for client in clients[:2]:
            assert (await client.head())[0] == 200
        assert (await mock.stats())["max_active"] == 2
        clients[0].writer.close()
        assert (await clients[2].head())[0] == 200
        assert (await mock.stats(active=2, waiting=1))["waiting"] == 1


async def test_a_client_that_leaves_the_queue_gives_up_its_place(mock):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            client = await stack.enter_async_context(mock.client())
            await client.send("POST", "/v1/chat/completions", streamed("mock: hang_after=0"))
        async with mock.client() as client:
            await client.send("POST", "/v1/chat/completions", chat("hi"))
            await mock.stats(waiting=1)
        await mock.stats(waiting=0, active=2)


async def test_several_choices_take_several_slots(mock):
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", streamed("mock: hang_after=0", n=2))
        assert (await mock.stats(active=2))["active"] == 2


async def test_a_slot_can_linger_after_its_client_has_left(mock):
    async with mock.client() as client:
        body = streamed("mock: hang_after=0 linger_ms=60000")
        await client.send("POST", "/v1/chat/completions", body)
        await mock.stats(active=1)
    stats = await mock.stats(abandoned=1, open=0)
    assert stats["active"] == 1
    async with mock.client() as client:
        _, _, page = await client.call("GET", "/slots")
    assert [slot["is_processing"] for slot in json.loads(page)] == [True, False]


async def test_nobody_is_let_into_a_slot_that_lingers(mock):
    async with mock.client() as client:
        body = streamed("mock: hang_after=0 linger_ms=100", n=2)
        await client.send("POST", "/v1/chat/completions", body)
        await mock.stats(active=2)
        async with mock.client() as second:
            await second.send("POST", "/v1/chat/completions", streamed("mock: hang_after=0"))
            await mock.stats(waiting=1)
            client.writer.close()
            left_s = time.monotonic()
            assert (await second.head())[0] == 200
            assert time.monotonic() - left_s >= 0.1
            assert (await mock.stats(active=1, waiting=0))["max_active"] == 2


async def test_an_answer_that_ends_does_not_linger(mock):
    await mock.post("/v1/chat/completions", chat("mock: linger_ms=60000"))
    assert (await mock.stats(finished=1))["active"] == 0


async def test_connections_are_kept_and_end_where_the_real_ones_do(directory):
    flags = ("--keepalive-max", "3")
    async with asyncio.timeout(LIMIT_S), start(directory, *flags) as mock:
        await mock.ready()
        async with mock.client() as client:
            for _ in range(2):
                _, headers, _ = await client.call("GET", "/health")
                assert headers["keep-alive"] == "timeout=5, max=3"
            _, headers, _ = await client.call("GET", "/health")
            assert headers["connection"] == "close"
            assert await client.reader.read() == b""


async def test_idle_connections_are_closed(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--keepalive-s", "0.05") as mock:
        await mock.ready()
        async with mock.client() as client:
            assert (await client.call("GET", "/health"))[0] == 200
            assert await client.reader.read() == b""


async def test_pipelined_requests_are_answered_in_order(mock):
    async with mock.client() as client:
        await client.send("POST", "/v1/chat/completions", chat("mock: say=first"))
        await client.send("GET", "/health")
        for expected in (b"first", b'{"status":"ok"}'):
            _, headers = await client.head()
            body = await client.reader.readexactly(int(headers["content-length"]))
            assert expected in body


async def test_stats_show_what_arrived(mock):
    body = chat("hi", temperature=0.5)
    await mock.post("/v1/chat/completions", body)
    stats = await mock.stats(requests=1, open=0)
    assert stats["last"][0]["body"] == body
    assert ["authorization", "Bearer k"] in stats["last"][0]["headers"]
    assert stats["paths"] == {"POST /v1/chat/completions": 1}


# --- life -------------------------------------------------------------------------------------


async def test_while_loading_everything_is_503(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--load-s", "60") as mock:
        await mock.line("loading model")
        async with mock.client() as client:
            status, _, body = await client.call("GET", "/health", key=None)
        assert (status, body) == (
            503,
            b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
        )
        mock.process.terminate()
        assert await mock.process.wait() == -signal.SIGTERM


async def test_an_idle_one_ends_cleanly_and_leaves_its_socket(directory):
    async with asyncio.timeout(LIMIT_S), start(directory) as mock:
        await mock.ready()
        mock.process.terminate()
        assert await mock.process.wait() == 0
        assert Path(mock.path).exists()
        async with start(directory) as second:
            assert "couldn't bind" in await second.line("couldn't bind")
            assert await second.process.wait() == 1


async def test_sigterm_with_a_request_in_flight_waits_for_the_client(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--token-delay-ms", "5") as mock:
        await mock.ready()
        async with mock.client() as client:
            await client.send("POST", "/v1/chat/completions", streamed("mock: tokens=9999"))
            await client.head()
            for _ in range(3):
                await client.chunk()
            tokens = (await mock.stats())["tokens"]
            mock.process.terminate()
            await mock.line("stopping")
            with pytest.raises(ConnectionRefusedError):
                await mock.stats()
            assert mock.process.returncode is None
        assert await mock.process.wait() == 0
        assert tokens < 9999


async def test_a_second_sigterm_ends_it_at_once(directory):
    async with asyncio.timeout(LIMIT_S), start(directory) as mock:
        await mock.ready()
        async with mock.client() as client:
            await client.send("POST", "/v1/chat/completions", streamed("mock: hang_after=0"))
            await client.head()
            mock.process.terminate()
            await mock.line("stopping")
            with pytest.raises(ConnectionRefusedError):
                await mock.stats()
            mock.process.terminate()
            assert await mock.process.wait() == 1


async def test_a_failing_load_says_so_and_ends_with_1(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--fail-load") as mock:
        await mock.line("failed to load model")
        assert await mock.process.wait() == 1


async def test_an_unknown_flag_ends_with_1(directory):
    async with asyncio.timeout(LIMIT_S), start(directory, "--no-such-flag") as mock:
        assert await mock.process.wait() == 1


# --- pure parts -------------------------------------------------------------------------------


def test_flags_may_come_from_the_environment_and_the_command_line_wins():
    environ = {"MOCK_TOKENS": "3", "MOCK_IGNORE_SIGTERM": "true", "MOCK_FAIL_LOAD": "0"}
    options = parse_options(["--tokens", "5"], environ)
    assert options == MockOptions(tokens=5, ignore_sigterm=True)


def test_scenario_words():
    text = "please\nmock: tokens=5 delay_ms=0.5 crash_head say=a b=c\nmore"
    assert parse_scenario(text) == Scenario(tokens=5, delay_ms=0.5, crash_head=True, say="a b=c")
    assert parse_scenario("nothing special") == Scenario()


@pytest.mark.parametrize("line", ["mock: token=5", "mock: tokens=many", "mock: tokens"])
def test_a_scenario_with_a_mistake_is_refused(line):
    with pytest.raises(BadScenario):
        parse_scenario(line)


def test_the_last_user_message_decides():
    body = {
        "messages": [
            {"role": "user", "content": "mock: tokens=1"},
            {"role": "assistant", "content": "mock: tokens=2"},
            {"role": "user", "content": [{"type": "text", "text": "mock: tokens=3"}]},
            {"role": "tool", "content": "mock: tokens=4"},
        ]
    }
    assert len(chat_answer(body, MockOptions()).choices[0]) == 3


def test_scripted_calls_are_made_once():
    asked = {"role": "user", "content": "mock: tool_calls=1 tokens=3"}
    body = {"messages": [asked], "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert chat_answer(body, MockOptions()).finish_reason == "tool_calls"
    body["messages"] += [{"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "1"}]
    answer = chat_answer(body, MockOptions())
    assert [piece.kind for piece in answer.choices[0]] == ["content"] * 3
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 6}, "wordxx"),
        ({"type": ["integer", "null"], "minimum": 2}, 2),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"const": 3}, {"type": "null"}]}, 3),
        ({"$defs": {"a": {"enum": ["x"]}}, "$ref": "#/$defs/a"}, "x"),
        ({"$ref": "#"}, None),
        ({"type": "null"}, None),
        (None, None),
    ],
)
def test_examples_fit_their_schema(schema, value):
    assert example(schema) == value
