"""What request bodies may hold of the memory, for how long, and who is shut out by whom."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.front.body import BodyBudget
from tests.conftest import Serve
from tests.support.callers import Caller, chat_body, error_code, new_caller, until
from tests.support.engine_stats import engine_stats
from tests.support.raw import talk
from tests.support.service import ServiceProcess

KeyTool = Callable[..., str]

KIB, MIB = 1 << 10, 1 << 20
ENDLESS = "mock: tokens=100000 delay_ms=5"


# -- the budget


def test_bodies_together_stay_within_the_limit() -> None:
    budget = BodyBudget(100)
    with budget.claim("a") as first, budget.claim("b") as second, budget.claim("c") as third:
        first.take(50)
        second.take(50)
        with pytest.raises(ApiError, match="memory_pressure"):
            third.take(1)
        assert (third.size_bytes, budget.used_bytes) == (0, 100)
    assert budget.used_bytes == 0


def test_one_key_holds_half_and_leaves_the_rest_to_the_others() -> None:
    budget = BodyBudget(100)
    with budget.claim("evil") as one, budget.claim("evil") as two, budget.claim("good") as good:
        one.take(30)
        two.take(20)
        with pytest.raises(ApiError) as refused:
            two.take(1)
        assert (refused.value.code, refused.value.status) == ("memory_pressure", 503)
        good.take(50)
        assert (budget.used_by("evil"), budget.used_by("good")) == (50, 50)


def test_the_only_body_of_a_key_may_be_larger() -> None:
    budget = BodyBudget(100)
    with budget.claim("a") as first, budget.claim("a") as second:
        first.take(60)
        first.take(40)
        with pytest.raises(ApiError):
            second.take(1)


def test_what_is_not_kept_is_free_for_the_next() -> None:
    budget = BodyBudget(100)
    with budget.claim("a") as waiting, budget.claim("a") as next_one:
        waiting.take(50)
        waiting.keep(3)
        next_one.take(47)
        assert budget.used_bytes == 50


Steps = list[tuple[int, str, int]]
steps = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(("take", "keep", "leave")), st.integers(0, 60)),
    max_size=200,
)


@settings(deadline=None)
@given(steps)
def test_the_sum_is_what_is_held_and_all_of_it_comes_back(steps: Steps) -> None:
    budget = BodyBudget(100)
    keys = ["a", "b", "c", "d"] * 2
    with ExitStack() as held:
        claims = [held.enter_context(budget.claim(key)) for key in keys]
        for which, what, size in steps:
            claim = claims[which]
            if what == "take":
                _try_to_take(budget, keys[which], claim.take, size)
            else:
                claim.keep(min(size, claim.size_bytes) if what == "keep" else 0)
            assert budget.used_bytes == sum(each.size_bytes for each in claims) <= 100
            for key in "abcd":
                mine = [c.size_bytes for c, of in zip(claims, keys, strict=True) if of == key]
                assert budget.used_by(key) == sum(mine)
                assert sum(mine) <= 50 or 0 in mine
    assert budget.used_bytes == 0
    assert not any(budget.used_by(key) for key in "abcd")


def _try_to_take(budget: BodyBudget, key: str, take: Callable[[int], None], size: int) -> None:
    before = budget.used_by(key), budget.used_bytes
    try:
        take(size)
    except ApiError:
        assert (budget.used_by(key), budget.used_bytes) == before


# -- the service


def announced(caller: Caller, size: int) -> bytes:
    """The head of a chat request with a body of *size* bytes."""
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {caller.secret}",
        "Content-Type: application/json",
        f"Content-Length: {size}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def owner(service: ServiceProcess) -> Caller:
    return Caller(service, service.key)


def test_a_body_that_lacks_its_last_byte_is_given_up_soon(serve: Serve) -> None:
    service = serve(
        USE_MOCK_MODEL="true", CLIENT_BODY_GRACE="0.3", MAX_REQUEST_BODY_SIZE="1MiB"
    ).ready()
    # At 1 KiB/s on average, what came would have bought 17 minutes.
    request = announced(owner(service), MIB) + b" " * (MIB - 1)
    reply = talk(service.port, request, close_after=False)
    assert (reply.status, reply.error["code"]) == (408, "request_timeout")


def test_a_key_that_holds_bodies_open_shuts_out_only_itself(
    serve: Serve, key_tool: KeyTool
) -> None:
    service = serve(
        USE_MOCK_MODEL="true",
        CLIENT_BODY_GRACE="60",
        MAX_REQUEST_BODY_SIZE="1MiB",
        MAX_BODY_MEMORY="4MiB",
    ).ready()
    good = new_caller(service, key_tool, "good")
    with ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            for _ in range(5)
        ]
        for peer in peers:
            peer.sendall(announced(owner(service), MIB) + b" " * (MIB - 1))
        refused = first_answered(peers, 3)  # two of a mebibyte, less a byte each, are half of it
        assert all(b" 503 " in peer.recv(100) for peer in refused)
        assert good.chat(user="x" * (900 * KIB)).status_code == 200


def first_answered(peers: list[socket.socket], count: int) -> list[socket.socket]:
    """The *count* that get an answer first."""
    deadline_s = time.monotonic() + 20
    answered: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            selector.register(peer, selectors.EVENT_READ, peer)
        while len(answered) < count:
            assert time.monotonic() < deadline_s, "too few were answered"
            for key, _ in selector.select(1.0):
                selector.unregister(key.fileobj)
                answered.append(key.data)
    return answered


def busy_service(serve: Serve) -> ServiceProcess:
    """With one slot, little memory for bodies, and a word for whoever waits."""
    return serve(
        USE_MOCK_MODEL="true",
        PARALLEL="1",
        CTX="16384",
        HEARTBEAT_AFTER="0.1",
        MAX_REQUEST_BODY_SIZE="1MiB",
        MAX_BODY_MEMORY="2MiB",
    ).ready()


def test_who_waits_holds_nothing_of_what_the_engine_will_not_get(serve: Serve) -> None:
    service = busy_service(serve)
    caller = owner(service)
    with ExitStack() as stack:
        stack.enter_context(caller.streaming(ENDLESS, max_tokens=100_000))
        for _ in range(6):  # six of 900 KiB wait together where two had room
            stack.enter_context(caller.streaming("hi", made_up="x" * (900 * KIB)))
    until(lambda: caller.chat(user="x" * (900 * KIB)).status_code == 200)


def test_who_waits_holds_what_the_engine_will_get(serve: Serve) -> None:
    service = busy_service(serve)
    caller = owner(service)
    long = "x" * (600 * KIB)  # the played engine takes it for one word
    with ExitStack() as stack:
        stack.enter_context(caller.streaming(ENDLESS, max_tokens=100_000))
        with caller.streaming(long):
            refused = caller.post(chat_body(long))
            assert (refused.status_code, error_code(refused)) == (503, "memory_pressure")
            assert int(refused.headers["retry-after"]) >= 1
    engine_stats(service, active=0)
    until(lambda: caller.chat(long).status_code == 200)  # once it was seen that they left
