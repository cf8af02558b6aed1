"""PURE: what a person is shown at the end of ``make run``, to paste.

The lines must work as they stand: the address is one that can be dialled (not the wildcard that
is listened on) and the key is the real one while it is still known. Later it is known to nobody,
so the lines take it from the environment and say how to make another.
"""

from __future__ import annotations

import json

__all__ = ["KEY_VARIABLE", "base_url", "welcome"]

KEY_VARIABLE = "LLAMA_GATEWAY_KEY"
# A demo model of 135 million weights answers this one right, when it is not made to roll dice.
_QUESTION = "Name the capital of France."


def base_url(host: str, port: int) -> str:
    """Return the address of the service for a client on the same machine."""
    if host in ("", "0.0.0.0", "::", "*"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def welcome(host: str, port: int, model: str, secret: str | None, *, auth: bool = True) -> str:
    """
    Return the text to show once the service answers.

    Args:
        host: The address that is listened on.
        port: The API port.
        model: The model's public name.
        secret: The first key, only at the moment it was made; None on every later start.
        auth: Whether the service asks for keys at all.
    """
    parts = [f"llama-gateway serves {model} at {base_url(host, port)}/v1"]
    if secret is not None:
        parts.append(f"Your API key, shown this once:\n\n    {secret}")
    elif auth:
        parts.append(
            "Your key was shown when it was made. To make another:\n\n"
            "    scripts/key_mgmt.py generate NAME\n\n"
            f"and put it into the environment: export {KEY_VARIABLE}=sk-..."
        )
    parts.append(f"Try it with curl:\n\n{_curl(host, port, model, secret, auth)}")
    parts.append(
        "or with Python (.venv/bin/python has the openai package):\n\n"
        f"{_python(host, port, model, secret, auth)}"
    )
    return "\n" + "\n\n".join(parts) + "\n\nCtrl-C stops the service.\n"


def _curl(host: str, port: int, model: str, secret: str | None, auth: bool) -> str:
    body = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": _QUESTION}],
    }
    # Double quotes, so that the shell fills in the variable; a key holds nothing a shell expands.
    key = secret if secret is not None else f"${KEY_VARIABLE}"
    header = f' -H "Authorization: Bearer {key}"' if auth else ""
    text = json.dumps(body).replace("'", "'\\''")
    return (
        f"curl -N {base_url(host, port)}/v1/chat/completions{header} "
        f"-H 'Content-Type: application/json' -d '{text}'"
    )


def _python(host: str, port: int, model: str, secret: str | None, auth: bool) -> str:
    if secret is not None or not auth:
        imports, key = "", repr(secret or "not-needed")
    else:
        imports, key = "import os\n", f'os.environ["{KEY_VARIABLE}"]'
    return f"""{imports}from openai import OpenAI
client = OpenAI(base_url="{base_url(host, port)}/v1", api_key={key})
stream = client.chat.completions.create(
    model={model!r},
    messages=[{{"role": "user", "content": {_QUESTION!r}}}],
    temperature=0,
    stream=True,
)
for event in stream: print(event.choices[0].delta.content or "", end="", flush=True)
"""
