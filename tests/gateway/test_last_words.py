"""What anyone may read of a dying engine's output."""

from gateway.engine.last_words import last_words


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
