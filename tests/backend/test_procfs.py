"""Where the kernel's count of kills for lack of memory is found."""

from pathlib import Path

import pytest

from backend.procfs import oom_kills

V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 9\noom_kill {}\n"
EVENTS = "sys/fs/cgroup/memory.events"
CONTROL = "sys/fs/cgroup/memory/memory.oom_control"
OWN_V2 = "0::/system.slice/gateway.service\n"
OWN_V1 = "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n"


@pytest.fixture
def root(tmp_path):
    def make(**files):
        for text_path, text in files.items():
            path = tmp_path / text_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_nothing_to_read_is_no_count(root):
    assert oom_kills(root()) is None
    assert oom_kills(root(**{EVENTS: "low 0\n", "proc/vmstat": "oom_kill ?\n"})) is None


def test_a_container_sees_its_own_cgroup_at_the_top(root):
    assert oom_kills(root(**{"proc/self/cgroup": "0::/\n", EVENTS: V2.format(4)})) == 4


def test_our_own_cgroup_comes_first(root):
    own = "sys/fs/cgroup/system.slice/gateway.service/memory.events"
    files = {"proc/self/cgroup": OWN_V2, own: V2.format(1), EVENTS: V2.format(2)}
    assert oom_kills(root(**files, **{"proc/vmstat": VMSTAT.format(3)})) == 1


def test_version_1_is_read_at_its_own_path(root):
    own = "sys/fs/cgroup/memory/docker/abc/memory.oom_control"
    files = {"proc/self/cgroup": OWN_V1, own: V1.format(5), CONTROL: V1.format(6)}
    assert oom_kills(root(**files)) == 5


def test_version_1_in_a_container_is_read_at_the_top(root):
    assert oom_kills(root(**{"proc/self/cgroup": OWN_V1, CONTROL: V1.format(6)})) == 6


def test_an_old_kernel_without_the_line_falls_back_to_the_whole_machine(root):
    files = {"proc/self/cgroup": OWN_V1, CONTROL: "oom_kill_disable 0\nunder_oom 0\n"}
    assert oom_kills(root(**files, **{"proc/vmstat": VMSTAT.format(7)})) == 7


def test_the_root_cgroup_has_no_count_and_the_machine_has(root):
    files = {"proc/self/cgroup": "0::/\n", "proc/vmstat": VMSTAT.format(0)}
    assert oom_kills(root(**files)) == 0


def test_this_machine_answers_something():
    assert (oom_kills() or 0) >= 0
    assert oom_kills(Path("/nowhere")) is None
