"""Programs from Debian: found, else fetched once, else refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.debian import FetchError, tool

# Stand-ins that do what the real ones do with these arguments; each call leaves a line.
APT_GET = """#!/bin/sh
echo "apt-get $*" >> {calls}
case "$*" in
*update*) touch {lists};;
*--print-uris*)
    test -e {lists} || {{ echo 'E: no package lists' >&2; exit 100; }}
    echo "'http://example.org/pool/widget_1.2-3_all.deb' widget_1.2-3_all.deb 10 SHA256:00";;
*download*) echo made > widget_1.2-3_all.deb;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/sbin" && printf '#!/bin/sh\\n' > "$3/usr/sbin/widget"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with the stand-ins; ``calls`` next to it tells who was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write(folder / "apt-get", APT_GET.format(calls=tmp_path / "calls", lists=tmp_path / "lists"))
    write(folder / "dpkg", DPKG)
    (tmp_path / "lists").touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def fetch(tmp_path: Path) -> Path:
    return tool("no-such-widget", ["widget"], "usr/sbin/widget", tmp_path / "cache").path


def test_installed_program_is_used_and_nothing_fetched(tmp_path: Path, programs: Path) -> None:
    write(programs / "widget", "#!/bin/sh\n")
    found = tool("widget", ["widget"], "usr/sbin/widget", tmp_path / "cache")
    assert found.path == programs / "widget"
    assert found.root is None
    assert not (tmp_path / "calls").exists()


def test_program_is_fetched_once_under_its_version(tmp_path: Path, programs: Path) -> None:
    path = fetch(tmp_path)
    assert path.is_file()
    assert "widget_1.2-3" in str(path)
    assert fetch(tmp_path) == path
    calls = (tmp_path / "calls").read_text()
    assert (
        sum("download widget" in line and "print" not in line for line in calls.splitlines()) == 1
    )


def test_fetched_program_is_found_again_without_a_network(tmp_path: Path, programs: Path) -> None:
    path = fetch(tmp_path)
    write(programs / "apt-get", "#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")
    assert fetch(tmp_path) == path


def test_machine_without_package_lists_gets_its_own(tmp_path: Path, programs: Path) -> None:
    (tmp_path / "lists").unlink()
    assert fetch(tmp_path).is_file()
    assert "Dir::State::Lists=" in (tmp_path / "calls").read_text()


def test_failed_fetch_tells_what_apt_said_and_leaves_nothing(
    tmp_path: Path, programs: Path
) -> None:
    write(programs / "apt-get", "#!/bin/sh\necho 'E: no route to the mirror' >&2\nexit 100\n")
    with pytest.raises(FetchError, match="no route to the mirror"):
        fetch(tmp_path)
    assert not list((tmp_path / "cache").glob("debian/*widget*"))


def test_machine_without_apt_is_told_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="install no-such-widget"):
        fetch(tmp_path)
