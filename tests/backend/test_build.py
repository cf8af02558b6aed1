"""The build: decisions as plain calls, and the work itself on a stand-in source tree.

The stand-in is a CMake project with a target called llama-server and two small C files, built by
the real cmake and ninja.
"""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from filelock import FileLock, Timeout

from backend.errors import BuildFailed, EngineMissing
from backend.supply.build import build_engine, cached_engine, unpack_llama_cpp
from backend.supply.build_plan import Cuda, CudaUnavailable, Host, choose_jobs, plan_build, steps_of
from backend.supply.pinned import PinnedFile, fetch_pinned, sha256_of
from backend.supply.toolchain import find_tools, look_at_host

GIB = 1 << 30
MODERN = frozenset({"sse4_2", "avx", "avx2", "bmi2", "fma", "f16c", "avx512f"})
NO_CUDA = Cuda(nvcc=None, release="", gpus=())
HOST = Host("linux", "x86_64", MODERN, cores=4, memory_bytes=64 * GIB, cuda=NO_CUDA)
NVCC = Cuda(nvcc=Path("/opt/cuda/bin/nvcc"), release="13.0", gpus=())
GPU = replace(NVCC, gpus=("9.0",))


# -- what to build


def test_plain_build_is_static_and_leaves_out_what_is_not_needed():
    plan = plan_build(HOST, "auto", "1.0")
    assert not plan.cuda
    for flag in ("BUILD_SHARED_LIBS", "LLAMA_OPENSSL", "LLAMA_USE_PREBUILT_UI", "LLAMA_SUBPROCESS"):
        assert f"-D{flag}=OFF" in plan.flags
    assert "-DGGML_NATIVE=OFF" in plan.flags


def test_compiler_for_cuda_without_a_gpu_gives_a_cpu_build_that_says_so():
    plan = plan_build(replace(HOST, cuda=NVCC), "auto", "1.0")
    assert not plan.cuda
    assert "no NVIDIA GPU" in plan.why


def test_gpu_without_nvcc_gives_a_cpu_build_that_says_so():
    plan = plan_build(replace(HOST, cuda=replace(GPU, nvcc=None)), "auto", "1.0")
    assert not plan.cuda
    assert "nvcc" in plan.why


def test_gpu_and_nvcc_give_a_cuda_build_for_this_gpu_only():
    plan = plan_build(replace(HOST, cuda=GPU), "auto", "1.0")
    assert plan.cuda
    assert {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"} <= set(plan.flags)
    assert "-DCMAKE_CUDA_COMPILER=/opt/cuda/bin/nvcc" in plan.flags


def test_cuda_can_be_refused_and_demanded():
    assert not plan_build(replace(HOST, cuda=GPU), "off", "1.0").cuda
    with pytest.raises(CudaUnavailable, match="no NVIDIA GPU"):
        plan_build(replace(HOST, cuda=NVCC), "on", "1.0")


def test_processor_without_the_usual_vector_units_gets_its_own_build():
    old = replace(HOST, cpu_features=MODERN - {"avx2"})
    arm = replace(HOST, machine="aarch64", cpu_features=frozenset({"asimd", "asimddp"}))
    for host in (old, arm):
        assert "-DGGML_NATIVE=ON" in plan_build(host, "auto", "1.0").flags


def test_everything_that_changes_the_program_changes_its_name():
    cuda = replace(HOST, cuda=GPU)
    hosts = [
        HOST,
        cuda,
        replace(cuda, cuda=replace(GPU, gpus=("8.6",))),
        replace(cuda, cuda=replace(GPU, release="12.4")),
        replace(HOST, machine="aarch64"),
        replace(HOST, system="darwin"),
        replace(HOST, cpu_features=MODERN - {"avx2"}),
        replace(HOST, cpu_features=MODERN - {"avx2", "fma"}),
    ]
    names = {plan_build(host, "auto", "1.0").key for host in hosts}
    names.add(plan_build(HOST, "auto", "1.1").key)
    assert len(names) == len(hosts) + 1
    assert plan_build(HOST, "auto", "1.0").key == plan_build(HOST, "off", "1.0").key


def test_number_of_compilers_is_bounded_by_cores_and_memory():
    assert choose_jobs(HOST, cuda=False) == 4
    assert choose_jobs(replace(HOST, memory_bytes=2 * GIB), cuda=False) == 2
    assert choose_jobs(replace(HOST, memory_bytes=6 * GIB), cuda=True) == 2
    assert choose_jobs(replace(HOST, memory_bytes=GIB // 2), cuda=True) == 1


@pytest.mark.parametrize(
    ("line", "steps"),
    [
        ("[3/120] Building CXX object a.o", (3, 120)),
        ("[120/120] Linking", (120, 120)),
        ("warning: [1/2] inside", None),
        ("[a/b] x", None),
        ("", None),
    ],
)
def test_step_numbers_of_ninja_are_read(line, steps):
    assert steps_of(line) == steps


# -- tools


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("missing", ["c++", "cmake", "ninja"])
def test_missing_tool_is_named_with_the_way_to_get_it(tmp_path, missing):
    for name in {"c++", "cmake", "ninja"} - {missing}:
        program(tmp_path, name)
    with pytest.raises(EngineMissing) as caught:
        find_tools(search_path=str(tmp_path), beside=tmp_path)
    assert missing.upper() in str(caught.value).upper()
    assert caught.value.how


def test_tools_of_the_own_environment_come_before_those_on_path(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        program(folder, "cmake")
        program(folder, "ninja")
    program(theirs, "c++")
    assert find_tools(search_path=str(theirs), beside=ours).cmake == ours / "cmake"


# -- the source


def test_only_llama_cpp_leaves_the_source_distribution(tmp_path):
    archive = tmp_path / "s.tar.gz"
    root = "llama_cpp_python-0.3.36"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (
            f"{root}/LICENSE.md",
            f"{root}/llama_cpp/llama.py",
            f"{root}/vendor/llama.cpp/CMakeLists.txt",
            f"{root}/vendor/llama.cpp/LICENSE",
            f"{root}/vendor/llama.cpp/src/a.cpp",
            f"{root}/vendor/llama.cpp/models/big.gguf",
        ):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    unpack_llama_cpp(archive, tmp_path / "out")
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert files == {"CMakeLists.txt", "src/a.cpp"}
    assert (tmp_path / "out" / "LICENSE").is_file()


def test_pinned_file_that_is_there_already_is_not_fetched_again(tmp_path):
    file = tmp_path / "x.whl"
    file.write_bytes(b"content")
    pinned = PinnedFile("no-such-project", "1", "x.whl", sha256_of(file), 7)
    assert fetch_pinned(pinned, tmp_path, Recorder()) == file


# -- building


class Recorder:
    """Progress that keeps what it is told and can be made to act on it."""

    def __init__(self, on_step: Callable[[int], None] = lambda done: None) -> None:
        self.said: list[str] = []
        self.done: list[int] = []
        self._on_step = on_step

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        def advance(done: int) -> None:
            self.done.append(done)
            self._on_step(done)

        yield advance


CMAKE = """
cmake_minimum_required(VERSION 3.18)
project(standin C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_executable(llama-server main.c other.c)
"""
MAIN = 'int puts(const char *); int other(void); int main(void) { puts("version: 7"); return %d; }'


class StandIn:
    """Where the builder gets a small source tree from; counts how often it is asked."""

    def __init__(self, exit_code: int = 0, other: str = "int other(void) { return 1; }") -> None:
        self.asked = 0
        self._files = {"CMakeLists.txt": CMAKE, "main.c": MAIN % exit_code, "other.c": other}
        self._files["LICENSE"] = "MIT"

    def __call__(self, downloads: Path, tree: Path, progress: object) -> None:
        self.asked += 1
        tree.mkdir()
        for name, text in self._files.items():
            (tree / name).write_text(text)


def build(engines: Path, source: StandIn, progress: Recorder | None = None, jobs: int = 1) -> Path:
    return build_engine(
        engines,
        cuda="off",
        jobs=jobs,
        progress=progress or Recorder(),
        host=HOST,
        source=source,
    )


def test_build_leaves_the_program_its_licence_and_a_record_and_nothing_else(tmp_path):
    progress = Recorder()
    binary = build(tmp_path, StandIn(), progress)
    assert subprocess.check_output([binary], text=True) == "version: 7\n"
    assert {file.name for file in binary.parent.iterdir()} == {
        "llama-server",
        "LICENSE",
        "build.json",
    }
    assert '"version: 7"' in (binary.parent / "build.json").read_text()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == [binary.parent.name]
    assert progress.done[-1] == 100
    assert "for the CPU" in progress.said[0]


def test_finished_build_is_used_again_without_work(tmp_path):
    source = StandIn()
    first = build(tmp_path, source)
    progress = Recorder()
    assert build(tmp_path, source, progress) == first == cached_engine(tmp_path, "off", HOST)
    assert source.asked == 1
    assert progress.said == []


def test_without_a_build_the_cache_has_nothing(tmp_path):
    assert cached_engine(tmp_path, "auto", HOST) is None
    assert cached_engine(tmp_path, "on", HOST) is None


def test_interrupted_build_goes_on_where_it_stopped(tmp_path):
    source = StandIn()
    work = tmp_path / f"{plan_build(HOST, 'off', '0.3.36').key}.work"

    def objects() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in work.rglob("*.o")}

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, source, Recorder(interrupt))
    assert cached_engine(tmp_path, "off", HOST) is None
    before = objects()
    assert before
    seen: list[dict[str, int]] = []
    build(tmp_path, source, Recorder(lambda done: seen.append(objects())))
    assert source.asked == 1
    assert before.items() <= seen[-1].items()


def test_source_that_arrived_only_in_part_is_fetched_again(tmp_path):
    source = StandIn()

    def half(downloads: Path, tree: Path, progress: object) -> None:
        tree.mkdir()
        (tree / "CMakeLists.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, half)  # type: ignore[arg-type]
    assert build(tmp_path, source).is_file()


def test_compiler_error_is_shown_and_its_log_kept(tmp_path):
    with pytest.raises(BuildFailed) as caught:
        build(tmp_path, StandIn(other="int other(void) { return nonsense; }"))
    assert "compile" in caught.value.step
    assert "nonsense" in str(caught.value)
    assert caught.value.log is not None
    assert "nonsense" in caught.value.log.read_text()


def test_program_that_does_not_run_never_reaches_the_cache(tmp_path):
    with pytest.raises(BuildFailed, match="exit code 3"):
        build(tmp_path, StandIn(exit_code=3))
    assert cached_engine(tmp_path, "off", HOST) is None


def test_two_at_once_build_it_once(tmp_path):
    source = StandIn()
    both_running = threading.Barrier(2)
    built: list[Path] = []

    def work() -> None:
        both_running.wait(timeout=10)
        built.append(build(tmp_path, source))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert source.asked == 1
    assert len(built) == 2
    assert built[0] == built[1]


def test_cuda_that_cannot_be_had_is_refused_before_anything_is_fetched(tmp_path):
    source = StandIn()
    with pytest.raises(EngineMissing, match="nvcc was not found"):
        build_engine(tmp_path, cuda="on", jobs=1, progress=Recorder(), host=HOST, source=source)
    assert source.asked == 0


BUILDER = """
import sys
from pathlib import Path
from backend.supply.build import build_engine
from backend.supply.progress import ConsoleProgress
from backend.supply.toolchain import look_at_host

def source(downloads, tree, progress):
    tree.mkdir()
    (tree / "CMakeLists.txt").write_text(Path(sys.argv[2]).read_text())

build_engine(Path(sys.argv[1]), cuda="off", jobs=1, progress=ConsoleProgress(),
             host=look_at_host(), source=source)
"""

WAITING_CMAKE = """
cmake_minimum_required(VERSION 3.18)
project(standin NONE)
add_custom_target(llama-server COMMAND cat "{fifo}" VERBATIM)
"""


def test_lock_is_held_until_the_compilers_of_a_killed_builder_are_gone(tmp_path):
    engines, fifo, recipe = tmp_path / "engines", tmp_path / "fifo", tmp_path / "recipe"
    os.mkfifo(fifo)
    recipe.write_text(WAITING_CMAKE.format(fifo=fifo))
    builder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BUILDER), str(engines), str(recipe)],
        cwd=Path(__file__).parents[2],
    )
    try:
        with fifo.open("wb"):  # opens when the step of the build reads it
            builder.send_signal(signal.SIGKILL)
            builder.wait(timeout=30)
            (lock_file,) = engines.glob("*.lock")
            lock = FileLock(lock_file)
            with pytest.raises(Timeout):
                lock.acquire(blocking=False)
        with lock.acquire(timeout=30):  # the step has its end of file now
            pass
    finally:
        builder.kill()
        builder.wait(timeout=30)


TWO_STEPS_CMAKE = """
cmake_minimum_required(VERSION 3.18)
project(standin NONE)
add_custom_target(first COMMAND ${{CMAKE_COMMAND}} -E true)
add_custom_target(llama-server COMMAND cat "{fifo}" VERBATIM)
add_dependencies(llama-server first)
"""


def test_interruption_ends_everything_the_build_had_started(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def source(downloads: Path, tree: Path, progress: object) -> None:
        tree.mkdir()
        (tree / "CMakeLists.txt").write_text(TWO_STEPS_CMAKE.format(fifo=fifo))

    with ExitStack() as held:
        writers: list[BinaryIO] = []

        def interrupt_in_second_step(done: int) -> None:
            writers.append(held.enter_context(fifo.open("wb")))  # opens when that step reads it
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, source, Recorder(interrupt_in_second_step))  # type: ignore[arg-type]
        readers = select.poll()
        readers.register(writers[0], select.POLLERR)
        assert readers.poll(10_000), "the step still reads"


def test_this_machine_can_be_described():
    host = look_at_host()
    assert host.cores >= 1
    assert host.memory_bytes > 0
    assert plan_build(host, "auto", "1.0").key
