"""What is shown to be pasted must work when pasted."""

from __future__ import annotations

import ast
import json
import shlex

import pytest

from gateway.commands.first_run import base_url, welcome

SECRET = "sk-lg-abc-def"


def curl_words(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("curl ")]
    return shlex.split(line)


def python_part(text: str) -> str:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(("import", "from")))
    return "\n".join(lines[start:]).partition("\n\n")[0]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://127.0.0.1:8000"),
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("box.example", "http://box.example:8000"),
    ],
)
def test_address_can_be_dialled(host, url):
    assert base_url(host, 8000) == url


@pytest.mark.parametrize("secret", [SECRET, None])
@pytest.mark.parametrize("auth", [True, False])
def test_lines_are_a_whole_command_and_a_whole_program(secret, auth):
    text = welcome("0.0.0.0", 8123, "it's-a.model", secret, auth=auth)
    words = curl_words(text)
    assert words[2] == "http://127.0.0.1:8123/v1/chat/completions"
    assert json.loads(words[words.index("-d") + 1])["model"] == "it's-a.model"
    program = python_part(text)
    ast.parse(program)
    assert "http://127.0.0.1:8123/v1" in program


def test_first_key_is_in_all_the_lines():
    text = welcome("0.0.0.0", 8000, "m", SECRET)
    assert f"Authorization: Bearer {SECRET}" in curl_words(text)
    assert SECRET in python_part(text)


def test_later_the_key_comes_from_the_environment():
    text = welcome("0.0.0.0", 8000, "m", None)
    assert '-H "Authorization: Bearer $LLAMA_GATEWAY_KEY"' in text
    assert 'os.environ["LLAMA_GATEWAY_KEY"]' in python_part(text)
    assert "key_mgmt.py generate" in text


def test_service_without_keys_asks_for_none():
    text = welcome("0.0.0.0", 8000, "m", None, auth=False)
    assert "Authorization" not in text
    assert "key_mgmt" not in text
