"""Every client does what it can do: each cell of the table that ``make clients`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import matrix
from tests.clients.matrix import CLIENTS, FEATURES, Cell, Client

CASES = [
    pytest.param(client, feature, id=f"{client.title}-{feature}".replace(" ", "_"))
    for client in CLIENTS
    for feature in FEATURES
]
Look = Callable[[Client], dict[str, Cell]]


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Look]:
    """What a client does with every feature; its program runs once."""
    with matrix.services(tmp_path_factory.mktemp("services")) as running:
        found: dict[str, dict[str, Cell]] = {}

        def row(client: Client) -> dict[str, Cell]:
            if client.title not in found:
                found[client.title] = matrix.row(client, running)
            return found[client.title]

        yield row


@pytest.mark.timeout(600)  # the first of a client's cells runs all of them
@pytest.mark.parametrize(("client", "feature"), CASES)
def test_client(look: Look, client: Client, feature: str) -> None:
    cell = look(client)[feature]
    assert cell.good, cell.said


def test_titles_tell_the_clients_apart() -> None:
    assert len({client.title for client in CLIENTS}) == len(CLIENTS)


def test_reasons_are_sentences_about_features_there_are() -> None:
    for client in CLIENTS:
        assert set(client.reasons) <= set(FEATURES)
        assert all(len(reason) > 20 for reason in client.reasons.values()), client.title


def test_every_program_has_a_row() -> None:
    programs = {client.program for client in CLIENTS}
    written = {
        str(path.relative_to(matrix.ROOT))
        for ending in ("python/*.py", "node/*.mjs", "*.sh")
        for path in Path(matrix.ROOT / "examples").glob(ending)
    }
    assert written <= programs
