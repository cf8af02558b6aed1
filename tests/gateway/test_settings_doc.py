"""The pages that are made from the settings are the ones in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings.model import SPECS
from gateway.settings.page import FILES, env_example, main, reference_page

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", FILES)
def test_the_file_in_the_checkout_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name](), "run 'make docs'"


def test_every_setting_is_on_the_page_and_in_the_example() -> None:
    page, example = reference_page(), env_example()
    for spec in SPECS.values():
        assert f"### `{spec.env}`\n" in page
        assert f"\n# {spec.env}=" in example


def test_the_example_changes_nothing_when_used_as_it_is() -> None:
    for line in env_example().splitlines():
        assert line == "" or line.startswith("#")


def test_pages_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    main(tmp_path)
    assert {name for name in FILES if (tmp_path / name).is_file()} == set(FILES)
