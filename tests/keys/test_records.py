from collections.abc import Callable, Sequence

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keys.digest import Digester
from keys.errors import RecordProblem, RecordsInvalid
from keys.legacy import looks_legacy, parse_legacy, to_record
from keys.principal import PRIORITIES, SCOPES, Limits
from keys.reading import read
from keys.records import (
    MAX_LIMIT,
    MAX_NOTE_CHARS,
    MAX_PROBLEMS,
    KeyFile,
    KeyRecord,
    Secret,
    instant_text,
    parse_instant,
)
from keys.writing import write

DIGEST = "hmac-sha256:" + "ab" * 32
CANARY = "CANARY-secret-value"


def problems_of(text: str) -> list[tuple[int, str]]:
    with pytest.raises(RecordsInvalid) as caught:
        read(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def problems_if_any(reader: Callable[[str], object], text: str) -> Sequence[RecordProblem]:
    try:
        reader(text)
    except RecordsInvalid as invalid:
        return invalid.problems
    return ()


def lines(*parts: str) -> str:
    return "\n".join(parts) + "\n"


def file_with(*fields: str) -> str:
    """A file with one key; *fields* begin on line 6."""
    return lines(
        "version: 2",
        "pepper: 0123456789abcdef",
        "keys:",
        "  alice:",
        f"    digest: {DIGEST}",
        *(f"    {field}" for field in fields),
        "...",
    )


# -- round trips

seconds = st.integers(0, 253_402_300_799)
limit = st.none() | st.integers(1, MAX_LIMIT)
printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))).filter(str.isprintable)
secrets = st.builds(
    Secret,
    digest=st.binary(min_size=32, max_size=32),
    legacy=st.booleans(),
    until=seconds,
)
ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", fullmatch=True).filter(
    lambda key_id: not key_id.startswith("sk-")
) | st.sampled_from(["null", "yes", "123", "1e5", "0x1f", "on", "2026-01-01"])
records = st.builds(
    KeyRecord,
    key_id=ids,
    secret=st.builds(Secret, digest=st.binary(min_size=32, max_size=32), legacy=st.booleans()),
    previous=st.lists(secrets, max_size=3).map(tuple),
    created=st.none() | seconds,
    rotated=st.none() | seconds,
    expires=st.none() | seconds,
    disabled=st.booleans(),
    scopes=st.frozensets(st.sampled_from(SCOPES)),
    limits=st.builds(
        Limits,
        requests_per_minute=limit,
        tokens_per_minute=limit,
        concurrency=limit,
        tokens_per_day=limit,
    ),
    priority=st.sampled_from(PRIORITIES),
    weight=st.integers(1, 10_000).map(lambda hundredths: hundredths / 100),
    models=st.none()
    | st.frozensets(printable.filter(lambda name: 1 <= len(name) <= 200), min_size=1, max_size=3),
    continue_streams=st.booleans(),
    note=printable.filter(lambda note: len(note) <= MAX_NOTE_CHARS),
)


@given(st.lists(records, max_size=5))
def test_what_is_written_is_read_back(found: list[KeyRecord]) -> None:
    file = KeyFile("0123456789abcdef", {record.key_id: record for record in found})
    again = read(write(file))
    assert again == file
    assert list(again.records) == list(file.records)


@given(st.lists(records, max_size=3))
def test_other_programs_read_the_same_ids_and_notes(found: list[KeyRecord]) -> None:
    file = KeyFile("0123456789abcdef", {record.key_id: record for record in found})
    plain = yaml.safe_load(write(file))
    assert list(plain["keys"]) == list(file.records)
    for key_id, record in file.records.items():
        assert plain["keys"][key_id].get("note", "") == record.note
        assert frozenset(plain["keys"][key_id]["scopes"]) == record.scopes


@given(st.text(max_size=400))
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    """Any text is read, or refused with problems that have lines; nothing else can happen."""
    assert all(problem.line >= 1 for problem in problems_if_any(read, text))


@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_file_cut_off_anywhere_is_never_taken_for_a_shorter_one(
    found: list[KeyRecord], data: st.DataObject
) -> None:
    text = write(KeyFile("0123456789abcdef", {record.key_id: record for record in found}))
    cut = data.draw(st.integers(0, len(text) - len("...\n")))
    with pytest.raises(RecordsInvalid):
        read(text[:cut])


def test_ten_thousand_keys_are_read_back() -> None:
    file = KeyFile(
        "0123456789abcdef",
        {
            f"key-{n}": KeyRecord(f"key-{n}", Secret(n.to_bytes(32, "big")), created=n, note="n")
            for n in range(10_000)
        },
    )
    assert read(write(file)) == file


# -- what is good


def test_smallest_file_revokes_all() -> None:
    assert read("version: 2\nkeys: {}\n...\n") == KeyFile(None, {})


def test_fields_left_out_have_their_defaults() -> None:
    record = read(file_with()).records["alice"]
    assert record == KeyRecord("alice", Secret(bytes.fromhex("ab" * 32)))
    assert record.scopes == {"inference"}


def test_nothing_said_means_default() -> None:
    text = file_with("expires: null", "note: ~", "models:", "limits: {rpm: null}")
    assert read(text).records["alice"] == read(file_with()).records["alice"]


def test_hand_written_values_are_understood() -> None:
    text = file_with(
        "expires: 2027-01-31",
        "created: '2026-01-01 12:00:00+02:00'",
        "models: ['m:1']",
        "note: it's plain, is it?",
    )
    record = read(text).records["alice"]
    assert record.expires == parse_instant("2027-01-31T00:00:00Z")
    assert record.created == parse_instant("2026-01-01T10:00:00Z")
    assert record.models == {"m:1"}
    assert record.note == "it's plain, is it?"


@given(seconds)
def test_moments_survive_being_written(moment: int) -> None:
    assert parse_instant(instant_text(moment)) == moment


# -- what is not good


@pytest.mark.parametrize(
    ("field", "named"),
    [
        (f"colour: {CANARY}", "unknown field 'colour'"),
        (f"{CANARY}: 1", "unknown field in"),
        (f"expires: {CANARY}", "'expires'"),
        (f"created: [{CANARY}]", "'created'"),
        (f"disabled: {CANARY}", "must be true or false"),
        ("disabled: yes", "must be true or false"),
        ("disabled: 'true'", "must be true or false"),
        (f"scopes: {CANARY}", "must be a list of scopes"),
        (f"scopes: [inference, {CANARY}]", "must be a list of scopes"),
        (f"limits: {CANARY}", "must be a mapping of: rpm"),
        (f"limits: {{rpm: {CANARY}}}", "whole numbers"),
        ("limits: {rpm: 0}", "whole numbers"),
        ("limits: {rpm: -1}", "whole numbers"),
        ("limits: {rpm: 1.5}", "whole numbers"),
        ("limits: {rpm: '5'}", "whole numbers"),
        (f"limits: {{rpm: {MAX_LIMIT + 1}}}", "whole numbers"),
        (f"limits: {{{CANARY}: 1}}", "unknown limit"),
        (f"priority: {CANARY}", "must be one of: high, normal, batch"),
        (f"weight: {CANARY}", "must be a number"),
        ("weight: 0", "must be a number"),
        ("weight: .inf", "must be a number"),
        ("weight: nan", "must be a number"),
        (f"models: {CANARY}", "must be a list of model names"),
        ("models: []", "must be a list of model names"),
        (f"continue_streams: {CANARY}", "must be true or false"),
        (f"note: [{CANARY}]", "must be one line"),
        ('note: "two\\nlines"', "must be one line"),
        (f"legacy: {CANARY}", "must be true or false"),
        (f"previous: {CANARY}", "must be a list of mappings"),
        (f"previous: [{{digest: {CANARY}, until: 2026-01-01}}]", "must be a list of mappings"),
        (f"previous: [{{digest: '{DIGEST}'}}]", "must be a list of mappings"),
        (f"alias: &{CANARY} x", "anchors"),
        (f"note: *{CANARY}", "aliases"),
        (f"note: !!python/{CANARY} x", "tags"),
        ("? [a]\n    : b", "name of a field"),
        ("note: [[[[[[[[[[[]]]]]]]]]]]", "nested too deeply"),
        (f"note: {CANARY} : {CANARY}: '", "not valid YAML"),
        (f"note: '{CANARY}", "not valid YAML"),
    ],
)
def test_problem_is_named_with_its_line_and_never_with_the_value(field: str, named: str) -> None:
    found = problems_of(file_with(field))
    assert named in found[0][1]
    # The parser notices a quote that is never closed only at the end of the text.
    assert found[0][0] == 6 or "not valid YAML" in named
    assert CANARY not in str(found)


def test_all_problems_are_named_at_once_in_the_order_of_the_lines() -> None:
    text = lines(
        "version: 1",
        "keys:",
        "  alice:",
        "    note: no digest",
        f"  sk-{CANARY}:",
        f"    digest: {DIGEST}",
        "  bob:",
        "    digest: short",
        "  alice:",
        f"    digest: {DIGEST}",
        "    digest: again",
        "extra: 1",
    )
    found = problems_of(text)
    assert [line for line, _ in found] == [1, 3, 5, 8, 9, 11, 12, 13]
    assert "the same name was used before, on line 3" in found[4][1]
    assert "the same name was used before, on line 10" in found[5][1]
    assert "cut off" in found[-1][1]
    assert CANARY not in str(found)


def test_list_of_problems_is_bounded() -> None:
    text = lines("version: 2", "keys:", *(f"  key-{n}: 1" for n in range(1000)), "...")
    assert len(problems_of(text)) == MAX_PROBLEMS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("version: 2\n...\n", "'keys' is missing"),
        ("keys: {}\n...\n", "'version' is missing"),
        ("version: 3\nkeys: {}\n...\n", "must be 2"),
        ("version: 2\nkeys: []\n...\n", "must be a mapping"),
        ("version: 2\nkeys:\n...\n", "must be a mapping"),
        ("version: 2\nkeys: {}\n", "cut off"),
        ("version: 2\nkeys: {}\n...\n---\nx: 1\n", "nothing after the end mark"),
        ("- a\n- b\n...\n", "the file must be a mapping"),
        ("text\n...\n", "the file must be a mapping"),
        (f"version: 2\nkeys:\n  a:\n    digest: {DIGEST}\n...\n", "'pepper' is missing"),
        ("version: 2\npepper: x\nkeys: {}\n...\n", "16 hexadecimal"),
        ("version: 2\nkeys: {}\n\x00", "not valid YAML"),
    ],
)
def test_file_as_a_whole_must_make_sense(text: str, named: str) -> None:
    assert named in str(problems_of(text))


def test_billion_laughs_are_refused_at_the_first_anchor() -> None:
    text = 'version: 2\na: &a ["x","x"]\nb: &b [*a,*a,*a]\nkeys: {}\n...\n'
    assert problems_of(text) == [(2, "anchors (&name) are not allowed")]


@pytest.mark.parametrize("text", ["9999-13-01", "soon", "12", "1969-12-31T23:59:59Z", "0001-01-01"])
def test_bad_moments_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_instant(text)


# -- the old format


def test_old_lines_are_read(digester: Digester) -> None:
    found = parse_legacy(
        lines(
            "# comment",
            "",
            "plain:sk-plain-0123456789",
            "  rated : sk-rated-0123456789 : 60 ",
            "both:sk-both-01234567890:60:2027-01-31T12:30:00",
            "expires:sk-expires-01234567::2027-01-31T12:30:00+00:00",
            "alone:sk-alone-0123456789:2027-01-31",
            "epoch:sk-epoch-0123456789::1893456000",
        )
    )
    half_past = parse_instant("2027-01-31T12:30:00Z")
    assert [(key.key_id, key.requests_per_minute, key.expires) for key in found] == [
        ("plain", None, None),
        ("rated", 60, None),
        ("both", 60, half_past),
        ("expires", None, half_past),
        ("alone", None, parse_instant("2027-01-31")),
        ("epoch", None, 1_893_456_000),
    ]
    assert all(key.api_key not in repr(key) for key in found)
    record = to_record(found[1], digester)
    assert record.limits == Limits(requests_per_minute=60)
    assert record.secret == Secret(digester.digest(b"sk-rated-0123456789"), legacy=True)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (CANARY, "expected key_id:api_key"),
        (f":{CANARY}", "a key id is"),
        (f"sk-{CANARY}:alice", "looks like a secret"),
        ("alice:short", "at least 16"),
        (f"alice:{CANARY} {CANARY}", "made of the characters"),
        (f"alice:{CANARY}\N{EURO SIGN}", "made of the characters"),
        (f"alice:sk-0123456789012345:0:{CANARY}", "rate limit"),
        (f"alice:sk-0123456789012345:60:{CANARY}", "expiration"),
        (f"alice:sk-0123456789012345:{CANARY}", "the third field is a rate limit"),
        ("good:sk-0123456789012345", "the same key id was used before, on line 1"),
        (f"other:{CANARY}-0123456789", "the same API key was used before, on line 2"),
    ],
)
def test_problem_in_an_old_line_is_named_without_the_key(line: str, named: str) -> None:
    text = lines("good:sk-good-0123456789", f"more:{CANARY}-0123456789", line)
    with pytest.raises(RecordsInvalid) as caught:
        parse_legacy(text)
    (problem,) = caught.value.problems
    assert problem.line == 3
    assert named in problem.message
    assert CANARY not in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_old_reader(text: str) -> None:
    assert all(problem.line >= 1 for problem in problems_if_any(parse_legacy, text))


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("alice:sk-0123456789012345\n", True),
        ("# c\n\n  alice:sk-0123456789012345", True),
        ("version:sk-0123456789012345\n", True),
        ("version: 2\nkeys: {}\n", False),
        ("\n# c\nkeys:\n", False),
        ("---\nversion: 2\n", False),
        ("{version: 2, keys: {}}", False),
        ("", False),
        ("# only a comment\n", False),
    ],
)
def test_format_is_told_by_the_first_line_that_says_something(text: str, old: bool) -> None:
    assert looks_legacy(text) is old


def test_header_of_a_written_file_says_whose_it_is(
    file_of: Callable[..., KeyFile], make: Callable[..., tuple[str, KeyRecord]]
) -> None:
    key, record = make("alice")
    text = write(file_of(record))
    assert text.startswith("# llama-gateway API keys.")
    assert text.endswith("\n...\n")
    assert key not in text
