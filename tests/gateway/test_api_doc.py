"""The API's reference page is the one that the code makes, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.dialects import DIALECTS, Dialect
from gateway.errors import ERRORS
from gateway.front.cors import CorsPolicy
from gateway.reference.fields import SHARED, link, own_fields, shared_fields
from gateway.reference.page import FILES, api_page, main
from gateway.request.fields.kinds import Flag
from gateway.request.fields.rows import GENERATION, SAMPLING, forwarded
from gateway.request.fields.table import Table
from gateway.routes import ROUTE_NAMES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = ("api.md", "clients.md", "server-behavior.md")


@pytest.fixture(scope="module")
def page() -> str:
    return api_page()


@pytest.mark.parametrize("name", FILES)
def test_the_file_in_the_checkout_is_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name](), "run 'make docs'"


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_every_dialect_and_every_field_of_it_is_on_the_page(dialect: Dialect, page: str) -> None:
    assert dialect.doc, "say in the dialect's `doc` what users should know"
    assert f"\n## POST {dialect.path}\n\n{dialect.doc}" in page
    for row in dialect.table.rows:
        assert f"`{row.name}`" in page


def test_every_route_error_and_readable_header_is_on_the_page(page: str) -> None:
    for route in ROUTE_NAMES:
        assert f"`{route}`" in page or f"GET {route}`" in page or f"POST {route}`" in page
    for code in ERRORS.keys() - {"client_closed"}:
        assert f"`{code}`" in page
    exposed = dict(CorsPolicy("*").reply_headers("*"))["Access-Control-Expose-Headers"]
    for header in exposed.split(", "):
        same = header.replace("-tokens", "-requests").lower()
        assert f"`{same}" in page.lower()


def test_groups_of_fields_are_named_where_a_route_has_them_and_told_once() -> None:
    table = Table("t", [forwarded("mine", Flag())], GENERATION)
    told = own_fields(table)
    assert "| `mine` | a boolean | forwarded |" in told
    assert "top_p" not in told
    for group in SHARED:
        assert f"[{group.title.lower()}]({link(group.title)})" in told
        assert f"\n### {group.title}\n" in f"\n{shared_fields()}"


def test_a_route_that_lacks_a_few_of_a_group_says_so_and_one_with_a_few_lists_them() -> None:
    most = own_fields(Table("t", [row for row in SAMPLING if row.name != "stop"]))
    assert most == "Also: [sampling](#sampling) (but `stop`).\n"
    few = own_fields(Table("t", [row for row in SAMPLING if row.name in ("stop", "seed")]))
    assert "| `stop` |" in few
    assert "| `seed` |" in few
    assert "#sampling" not in few


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / name).read_text()):
        path, _, anchor = target.partition("#")
        where = DOCS / path if path else DOCS / name
        assert where.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", where.read_text(), re.MULTILINE)
            assert f"#{anchor}" in {link(title) for title in titles}, target


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    main(tmp_path)
    assert (tmp_path / "docs" / "api.md").read_text() == api_page()
