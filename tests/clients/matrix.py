"""Which client can do what: the programs of examples/, against the service as it is.

``make clients`` (``python -m tests.clients.matrix [client ...]``) prints the table and exits with 1
when a cell failed. A program is given the names of features; for each one that works it prints
``name: ok, what was seen``, and it ends with a traceback at the first that does not. `CLIENTS` is
the only list: one row is all that a new client needs besides its program.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backend import FindSettings, find
from keys import create_first_key
from tests.support.service import ServiceProcess

ROOT: Final = Path(__file__).parents[2]
PROGRAM_TIMEOUT_S: Final = 120.0
AT_ONCE: Final = 2

FEATURES: Final = ("chat", "stream", "tools", "structured", "error", "truncated", "broken")
"""Columns: an answer, the same streamed, a tool loop of two turns, an answer that fits a schema, a
refusal in the client's own words, an answer that shows that it was cut off, and a stream that
breaks in the middle and does not look complete."""

SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "demo": {"CTX": "16384", "THREADS": "1"},
    "mock": {
        "USE_MOCK_MODEL": "true",
        "CTX": "262144",
        "CRASH_LIMIT": "1000",
        "RESTART_BACKOFF_MAX": "0.1",
    },
}
"""The services: the real engine with the demo model, and the mock engine, which does as the prompt
tells it and has room for those who send many tools."""

BREAKS: Final = ("mock: tokens=20 error_after=5", "mock: tokens=20 cut_after=1500")
"""How streams break: the engine says so in mid-stream; its connection is lost."""

QUIET: Final[Mapping[str, str]] = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "NEXT_TELEMETRY_DISABLED": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
"""Nothing is asked of the internet by any client."""

CLIENT_PYTHON: Final = ".venvs/clients/bin/python"
NODE: Final = ".venvs/clients/bin/node"
NODE_PATH: Final = f"{ROOT}/.venvs/clients/bin:{ROOT}/examples/node/node_modules/.bin"
"""Where a shell finds Node and the commands that npm installed."""


@dataclass(frozen=True)
class Client:
    """One row.

    Args:
        name: As people call it.
        program: From the root; runs with the features as its words.
        runner: What runs the program, from the root.
        pinned: The file and the package that say which version is used; empty: none.
        reasons: Features that it has not, and why; each must be one that a user would accept.
        on_mock: Features (besides broken) that the demo model is too small for.
        env: More for its environment.
    """

    name: str
    program: str
    runner: str = CLIENT_PYTHON
    pinned: tuple[str, str] | tuple[()] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    on_mock: frozenset[str] = frozenset()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name and version."""
        return " ".join((self.name, pinned_version(*self.pinned) if self.pinned else "")).strip()

    def service(self, feature: str) -> str:
        """Which of `SETTINGS` a feature is looked at with."""
        return "mock" if feature == "broken" or feature in self.on_mock else "demo"


def _python(name: str, program: str, package: str, **more: object) -> Client:
    pinned = ("constraints-clients.txt", package)
    return Client(name, f"examples/python/{program}.py", pinned=pinned, **more)  # type: ignore[arg-type]


def _node(name: str, program: str, package: str) -> Client:
    pinned = ("examples/node/package.json", package)
    return Client(name, f"examples/node/{program}.mjs", NODE, pinned)


CLIENTS: Final[Sequence[Client]] = (
    Client(
        "openai (python)",
        "examples/python/openai_sdk.py",
        pinned=("constraints-openai1.txt", "openai"),
        env={"PYTHONPATH": ".venvs/openai-1"},
    ),
    _python("openai (python)", "openai_sdk", "openai"),
    Client(
        "openai (python)",
        "examples/python/openai_sdk.py",
        runner=".venv/bin/python",
        pinned=("constraints.txt", "openai"),
    ),
    _python("openai (python) responses", "openai_responses", "openai"),
    _python("anthropic (python)", "anthropic_sdk", "anthropic"),
    _python("langchain-openai", "langchain_chat", "langchain-openai"),
    _python("llama-index", "llama_index_llm", "llama-index-llms-openai-like"),
    _python("pydantic-ai", "pydantic_ai_agent", "pydantic-ai-slim"),
    _python("instructor", "instructor_chat", "instructor"),
    _python(
        "openai-agents chat",
        "openai_agents",
        "openai-agents",
        reasons={"truncated": "the SDK does not tell that plain text was cut on the chat route"},
        env={"AGENTS_API": "chat"},
    ),
    _python(
        "openai-agents responses", "openai_agents", "openai-agents", env={"AGENTS_API": "responses"}
    ),
    _python("litellm", "litellm_sdk", "litellm"),
    _python(
        "llm",
        "llm_library",
        "llm",
        on_mock=frozenset({"tools"}),  # it cannot force a call
        env={"LLAMA_GATEWAY_TOOLS_PROMPT": "mock: tool_calls=1"},
    ),
    _node("openai (node)", "openai_sdk", "openai"),
    _node("openai (node) responses", "openai_responses", "openai"),
    _node("anthropic (node)", "anthropic_sdk", "@anthropic-ai/sdk"),
    _node("vercel ai", "vercel_ai", "ai"),
    Client(
        "codex",
        "examples/codex.sh",
        runner="/bin/sh",
        pinned=("examples/node/package.json", "@openai/codex"),
        reasons={"stream": "it always streams, so its chat is one"},
        # Its tools alone are more than a slot of the demo model holds.
        on_mock=frozenset(FEATURES),
        env={
            "PATH": f"{NODE_PATH}:{os.environ['PATH']}",
            "LLAMA_GATEWAY_TOOLS_PROMPT": 'mock: tool_calls=1 tool_args={"cmd":"pwd"}',
            "LLAMA_GATEWAY_ENDLESS_PROMPT": "mock: tokens=9 finish=length",
        },
    ),
    Client("curl", "examples/curl.sh", runner="/bin/sh"),
)


@dataclass(frozen=True)
class Cell:
    """What one client did with one feature: ok and what it saw, or failed and its last words."""

    state: str
    said: str = ""

    @property
    def good(self) -> bool:
        """Works, or is not there for a reason that is written down."""
        return self.state != "FAILED"


@dataclass(frozen=True)
class Running:
    """A service that programs are sent to."""

    url: str
    key: str
    model: str


def pinned_version(file: str, package: str) -> str:
    """The version of *package* that *file* (a pip list or a package.json) says."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".json"):
        found: str = json.loads(text)["dependencies"][package]
        return found
    matched = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    assert matched is not None, f"{file} does not pin {package}"
    return matched[1]


@contextmanager
def services(folder: Path) -> Iterator[dict[str, Running]]:
    """Both services, ready, with keys and logs in *folder*; gone afterwards."""
    engine = find(FindSettings())
    assert engine is not None, "no llama-server here: run 'make setup'"
    with ExitStack() as stack:
        processes = {}
        for name, settings in SETTINGS.items():
            home = folder / name
            home.mkdir()
            env = {**settings, "LLAMA_SERVER": str(engine.path)}
            processes[name] = stack.enter_context(ServiceProcess(home, env))
            secret = create_first_key(home / "keys.yaml", home / "keys.pepper", "clients")
            assert secret is not None
            processes[name].key = secret
        yield {name: _running(process.ready()) for name, process in processes.items()}


def _running(process: ServiceProcess) -> Running:
    headers = {"Authorization": f"Bearer {process.key}"}
    asked = urllib.request.Request(f"{process.url}/v1/models", headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as reply:
        model = json.load(reply)["data"][0]["id"]
    return Running(process.url, process.key, model)


def row(client: Client, running: Mapping[str, Running]) -> dict[str, Cell]:
    """Run the program of *client* until every feature of it is known."""
    cells = {feature: Cell("-", reason) for feature, reason in client.reasons.items()}
    wanted = [feature for feature in FEATURES if feature not in cells]
    for name, service in running.items():
        here = [each for each in wanted if client.service(each) == name and each != "broken"]
        cells.update(_features(client, service, here))
    if "broken" in wanted:
        cells["broken"] = _broken(client, running["mock"])
    return cells


def _features(client: Client, service: Running, features: Sequence[str]) -> dict[str, Cell]:
    """A program ends at its first failure, so what comes after that is asked for again."""
    cells: dict[str, Cell] = {}
    while left := [feature for feature in features if feature not in cells]:
        said, complaint = _run(client, service, left)
        cells.update({name: Cell("ok", said[name]) for name in left if name in said})
        failed = [name for name in left if name not in said]
        if failed:
            cells[failed[0]] = Cell("FAILED", complaint)
    return cells


def _broken(client: Client, service: Running) -> Cell:
    seen = []
    for prompt in BREAKS:
        said, complaint = _run(client, service, ["broken"], prompt)
        if "broken" not in said:
            return Cell("FAILED", f"{prompt}: {complaint}")
        seen.append(said["broken"])
    return Cell("ok", "; ".join(seen))


def _run(
    client: Client, service: Running, features: Sequence[str], broken_prompt: str = ""
) -> tuple[dict[str, str], str]:
    """What the program said of each feature, and its complaint."""
    with tempfile.TemporaryDirectory(prefix="lg-client-") as home:
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": home,
            "LLAMA_GATEWAY_URL": service.url,
            "LLAMA_GATEWAY_KEY": service.key,
            "LLAMA_GATEWAY_MODEL": service.model,
            **QUIET,
            **client.env,
        }
        if broken_prompt:
            env["LLAMA_GATEWAY_BROKEN_PROMPT"] = broken_prompt
        command = [client.runner, client.program, *features]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROGRAM_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as late:
            return _said(_text(late.stdout)), f"not done in {late.timeout} s\n{_text(late.stderr)}"
        except OSError as missing:
            return {}, f"cannot run: {missing} (make clients installs what is needed)"
    complaint = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}".strip()
    if not done.returncode:
        complaint = f"it said nothing of this feature\n{complaint}"
    return _said(done.stdout), complaint


def _said(output: str) -> dict[str, str]:
    return {found[1]: found[2] for found in re.finditer(r"^(\w+): ok, (.+)$", output, re.MULTILINE)}


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def table(rows: Mapping[str, Mapping[str, Cell]]) -> str:
    """The rows as people read them, then each reason and each failure."""
    wide = max(len(title) for title in rows)
    lines = [" " * wide + "".join(f"  {feature:10}" for feature in FEATURES).rstrip()]
    reasons: list[str] = []
    failures: list[str] = []
    for title, cells in rows.items():
        shown = []
        for feature in FEATURES:
            cell = cells[feature]
            mark = cell.state
            if mark == "-":
                reasons.append(f"[{len(reasons) + 1}] {title}, {feature}: {cell.said}")
                mark = f"[{len(reasons)}]"
            elif not cell.good:
                failures.append(f"--- {title}, {feature}\n{cell.said[-3000:]}")
            shown.append(f"  {mark:10}")
        lines.append((f"{title:{wide}}" + "".join(shown)).rstrip())
    return "\n".join([*lines, "", *reasons, *failures]).rstrip()


def chosen(words: Sequence[str]) -> list[Client]:
    """The clients whose title or program has one of *words* in it; all without words."""
    return [
        client
        for client in CLIENTS
        if not words or any(word in f"{client.title} {client.program}" for word in words)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Print which client can do what.")
    parser.add_argument("--verbose", action="store_true", help="say of each cell what was seen")
    parser.add_argument("clients", nargs="*", help="a part of a name; default: all")
    args = parser.parse_args()
    clients = chosen(args.clients)
    with tempfile.TemporaryDirectory(prefix="lg-matrix-") as folder:
        with services(Path(folder)) as running, ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda client: row(client, running), clients)
            rows = dict(zip((client.title for client in clients), found, strict=True))
    if args.verbose:
        for title, cells in rows.items():
            for feature in FEATURES:
                sys.stdout.write(f"{title}, {feature}: {cells[feature].said}\n")
    sys.stdout.write(table(rows) + "\n")
    return 0 if all(cell.good for cells in rows.values() for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
