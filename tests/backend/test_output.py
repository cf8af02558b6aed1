import logging

import pytest

from backend.output import LINE_LIMIT_BYTES, TAIL_LINES, OutputLines, log_level

KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def lines():
    return OutputLines(KEY)


@pytest.mark.parametrize("size", range(1, 12))
def test_lines_are_the_same_however_the_bytes_arrive(lines, size):
    text = "eins\nzwei drei\n\nvier ünf\n".encode()
    out = []
    for at in range(0, len(text), size):
        out += lines.feed(text[at : at + size], 0.0)
    assert out == ["eins", "zwei drei", "vier ünf"]


def test_a_last_line_without_an_end_is_not_lost(lines):
    assert lines.feed(b"fatal: gone", 0.0) == []
    assert lines.close(0.0) == ["fatal: gone"]
    assert list(lines.tail) == ["fatal: gone"]


def test_a_line_without_an_end_costs_bounded_memory(lines):
    for _ in range(100):
        assert lines.feed(b"x" * 10_000, 0.0) == []
    assert len(lines._line) < 2 * LINE_LIMIT_BYTES
    (line,) = lines.feed(b"\n", 0.0)
    cut = 1_000_000 - LINE_LIMIT_BYTES
    assert line == "x" * LINE_LIMIT_BYTES + f" [{cut} bytes cut]"


def test_the_key_never_comes_out(lines):
    (line,) = lines.feed(b"using key " + KEY + b" now\n", 0.0)
    assert line == "using key [engine key] now"
    assert not any(KEY.decode() in each for each in lines.tail)


@pytest.mark.parametrize("before", range(LINE_LIMIT_BYTES - 40, LINE_LIMIT_BYTES + 2, 3))
def test_no_part_of_the_key_survives_a_cut_through_it(lines, before):
    (line,) = lines.feed(b"." * before + KEY + b"." * 9000 + b"\n", 0.0)
    assert KEY[:4].decode() not in line


def test_the_key_is_found_across_two_reads(lines):
    lines.feed(b"key " + KEY[:7], 0.0)
    assert lines.feed(KEY[7:] + b"\n", 0.0) == ["key [engine key]"]


def test_control_characters_cannot_forge_lines_or_colours(lines):
    (line,) = lines.feed(b"a\x1b[31mred\rERROR forged\x00\n", 0.0)
    assert line == "a\\x1b[31mred\\x0dERROR forged\\x00"


def test_a_flood_is_counted_instead_of_logged():
    lines = OutputLines(KEY, burst=3, lines_per_s=1.0)
    assert lines.feed(b"a\nb\nc\nd\ne\n", 0.0) == ["a", "b", "c"]
    assert lines.feed(b"f\n", 1.0) == ["[2 lines dropped]", "f"]
    assert lines.feed(b"g\n", 1.5) == []
    assert lines.close(1.5) == ["[1 lines dropped]"]


def test_the_tail_keeps_the_last_lines_even_of_a_flood():
    lines = OutputLines(KEY, burst=1, lines_per_s=0.0)
    lines.feed(b"".join(b"%d\n" % number for number in range(1000)), 0.0)
    assert list(lines.tail) == [str(number) for number in range(1000 - TAIL_LINES, 1000)]


@pytest.mark.parametrize(
    ("line", "loading", "later"),
    [
        ("0.00.016.121 I srv  load_model: loading", logging.INFO, logging.DEBUG),
        ("0.00.016.121 W slot operator(): n_past", logging.WARNING, logging.DEBUG),
        ("0.00.016.121 W srv  stop: cancel task", logging.WARNING, logging.WARNING),
        ("0.00.016.121 E srv  load_model: failed", logging.ERROR, logging.ERROR),
        ("0.00.016.121 D srv  detail", logging.DEBUG, logging.DEBUG),
        ("terminate called after throwing", logging.INFO, logging.INFO),
        ("", logging.INFO, logging.INFO),
    ],
)
def test_lines_about_each_request_are_quiet_once_it_serves(line, loading, later):
    assert log_level(line, loading=True) == loading
    assert log_level(line, loading=False) == later


def test_the_moment_is_kept_at_which_the_model_was_loaded(lines):
    lines.feed(b"0.01 I srv load_model: loading model 'llama_server: model loaded' ...\n", 1.0)
    assert lines.loaded_s is None
    lines.feed(b"0.02 I srv  llama_server: model loa", 2.0)
    lines.feed(b"ded\n", 3.0)
    lines.feed(b"0.09 I srv  llama_server: model loaded\n", 9.0)
    assert lines.loaded_s == 3.0
