"""What anyone may read of a dying engine's output."""

import pytest

from gateway.engine.last_words import complaints, last_words


def test_only_complaints_are_shown_and_no_paths() -> None:
    tail = (
        "0.00.016.121 I srv  load_model: loading model '/data/models/secret-7b.gguf'",
        "0.00.017.000 I print_info: general.name = Secret Model",
        "0.00.020.001 E llama_model_load: error opening /data/models/secret-7b.gguf: No such file",
        "0.00.020.900 W srv: something odd",
        "GGML_ASSERT(n > 0) failed at /build/ggml/src/ggml.c:123",
    )
    assert last_words(tail) == (
        "0.00.020.001 E llama_model_load: error opening <path>: No such file",
        "0.00.020.900 W srv: something odd",
        "GGML_ASSERT(n > 0) failed at <path>:123",
    )


def test_few_lines_and_short_ones() -> None:
    words = last_words(tuple(f"0.0.0.{n} E {'x' * 500}" for n in range(100)))
    assert len(words) == 8
    assert all(len(word) == 200 for word in words)
    assert words[-1].startswith("0.0.0.99 E")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "failed to load model '/srv/Big Project/v2/Acme Merger-7B.gguf'",
            "failed to load model '<path>'",
        ),
        ("failed to load model, 'Acme Merger-7B.GGUF'", "failed to load model, '<path>'"),
        ('cannot open "models/Acme Merger/mmproj.bin": no', 'cannot open "<path>": no'),
        ("'/srv/John's Project/a b.gguf' is no model", "'<path>' is no model"),
        ("E failed to load model '/srv/Big Project/v2/Acme Mer", "E failed to load model '<path>"),
        ("failed to open Merger-7B-00001-of-00002.gguf", "failed to open <path>"),
        ("cannot read /srv/Big Project/Acme 7B.gguf (errno 2)", "cannot read <path> (errno 2)"),
        ("model=Merger.gguf, n_ctx=4096", "model=<path>, n_ctx=4096"),
        ("cannot open ~/secret/adapter.bin: denied", "cannot open <path>: denied"),
        (
            "unknown model architecture: 'acme' in '/a b/c'",
            "unknown model architecture: 'acme' in '<path>'",
        ),
        ("it doesn't fit, and it won't", "it doesn't fit, and it won't"),
        ('error: "out of memory"', 'error: "out of memory"'),
    ],
)
def test_names_of_files_are_hidden_and_other_words_are_not(said: str, shown: str) -> None:
    assert last_words([said]) == (shown,)


def test_log_gets_the_last_complaints_as_they_are() -> None:
    """Of more lines than the log takes in a second, the last would be dropped."""
    tail = [f"0.0.0.{n} {'EI'[n % 2]} srv: cannot open '/m/a b.gguf'" for n in range(40)]
    assert complaints(tail) == tuple(tail[24::2])
