"""The floor plan holds: who may import whom, and pure modules stay pure."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "backend", "keys", "health")
MAY_USE = {"gateway": set(ROOMS), "backend": set(), "keys": set(), "health": set()}
IMPURE = {"asyncio", "logging", "os", "time", "socket", "subprocess", "threading", "random"}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules that *path* imports when it is loaded or called, typing-only imports left out."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    for path in modules(room):
        used = {name.partition(".")[0] for name in imports(path)} & set(ROOMS) - {room}
        assert used <= MAY_USE[room], f"{path.relative_to(ROOT)} imports {used}"


def test_other_rooms_are_entered_by_their_door() -> None:
    for path in modules("gateway"):
        inner = {
            name
            for name in imports(path)
            if name.partition(".")[0] in ("backend", "keys", "health") and "." in name
        }
        assert not inner, f"{path.relative_to(ROOT)} goes past the door: {inner}"


@pytest.mark.parametrize("room", ROOMS)
def test_module_that_says_pure_is_pure(room: str) -> None:
    for path in modules(room):
        text = path.read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        summary = doc.partition("\n\n")[0]
        if not (summary.startswith("PURE") or "Pure." in summary):
            continue
        used = {name.partition(".")[0] for name in imports(path)} & IMPURE
        assert not used, f"{path.relative_to(ROOT)} says it is pure and imports {used}"
        assert "await " not in text, f"{path.relative_to(ROOT)} says it is pure and awaits"


def test_only_config_reads_the_environment() -> None:
    for room in ROOMS:
        for path in modules(room):
            if path.relative_to(ROOT).as_posix() == "gateway/config.py" or "mock" in path.parts:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not used & {"os.environ", "os.getenv"}, path


def test_every_module_says_what_it_is_for() -> None:
    for room in ROOMS:
        for path in modules(room):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
