"""A scriptable stand-in for llama-server: a real process that speaks its HTTP, byte for byte.

It exists for `USE_MOCK_MODEL=true`, for tests and for benchmarks, and is started like the real
one: ``python -m backend.mock --host /run/x.sock --parallel 2``. What it copies from the real
server, each checked against one:

- JSON shapes with their key order, the SSE framing (one HTTP chunk per result, role and first
  token in one), progress chunks, timings, usage chunks, error objects before and in mid-stream;
- 503 while loading, 401 without the key, 404 for every unknown path and wrong method;
- errors close their connection; idle connections close after 5 s, every one after 100 requests;
- slots: a bounded number of requests at a time, the rest wait in order without a byte;
- SIGTERM while loading kills; idle it ends with 0; with a request in flight it stops generating,
  sends nothing more and waits for the client to leave; a second SIGTERM ends it with 1;
- a socket file that exists already makes the start fail with 1, and none is ever removed.

What it does otherwise: answers depend on nothing but the request and the flags (ids, times and
timings included); a client that leaves is noticed at once, where the real server may run a
non-stream request to its end; tokens are words.

A request scripts its own fate by a line ``mock: tokens=5 delay_ms=2 crash_after=3`` in its last
user message or prompt; `backend.mock.scenario` lists the words, ``--help`` prints them.
``GET /mock/stats`` (no key) tells what was seen; ``?active=0&open=1`` waits until it is so.
"""
