"""POST /v1/chat/completions: OpenAI's chat in, the engine's chat out.

Generation is always streamed from the engine, with progress events: only then does it notice at
once that nobody listens any more.
"""

from __future__ import annotations

from typing import Any

from gateway.dialects.base import (
    Assembler,
    Dialect,
    EngineCall,
    FieldPolicy,
    ModelFacts,
    ReplyHead,
)
from gateway.dialects.common import (
    check_generates,
    check_model,
    generation,
)
from gateway.errors import ApiError
from gateway.request.fields import Fate, Sifted, Table, printable, sift
from gateway.request.fields.kinds import AnyValue, Flag, Integer, wrong_type, wrong_value
from gateway.request.fields.rows import (
    GENERATION,
    MODEL,
    THINKING,
    forwarded,
    same_fate,
    translated,
)
from gateway.request.forced_calls import call_schema
from gateway.request.messages import MAX_MESSAGES, rebuild
from gateway.request.schema_guard import check_schema
from gateway.request.tools import MAX_TOOLS, tool_fields
from gateway.stream.assemble import ChatAssembler

__all__ = ["CHAT", "CHAT_DIALECT", "build", "prompt_fields"]

_PATH = "/v1/chat/completions"

_FORCED = "json_schema"
"""The engine's own name for a schema of the whole answer. With `response_format` it leaves answers
free, without a word, for templates whose parsers know no schema; with this it is an error."""

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_TEMPLATE_FLAGS = (
    "enable_thinking",
    "thinking",
    "preserve_thinking",
    "clear_thinking",
    "add_vision_id",
)
_TEMPLATE_SCALARS = ("reasoning_effort", "thinking_budget", "date_string", "model_identity")
_MAX_TEMPLATE_KEYS = 16
_MAX_TEMPLATE_CHARS = 256

CHAT = Table(
    "chat",
    [
        MODEL,
        translated(
            "messages",
            AnyValue(f"a list of 1 to {MAX_MESSAGES} messages"),
            "Required. Rebuilt one by one, see [messages](#messages).",
        ),
        translated("logprobs", Flag(numbers=True), "Not together with tools."),
        translated("top_logprobs", Integer(0, 20), "Only with `logprobs`; 0 counts as 1."),
        translated(
            "response_format",
            AnyValue("`text`, `json_object` or `json_schema`"),
            "Enforced while the answer is written, see [JSON schemas](#json-schemas).",
        ),
        translated("tools", AnyValue(f"at most {MAX_TOOLS} functions"), "See [tools](#tools)."),
        translated("tool_choice", AnyValue("a word or an object"), "See [tools](#tools)."),
        forwarded(
            "parallel_tool_calls", Flag(), "Where a call must come: one, or also several if `true`."
        ),
        translated("functions", AnyValue("a list of functions"), "The old name of `tools`."),
        translated(
            "function_call", AnyValue("a word or an object"), "The old name of `tool_choice`."
        ),
        translated(
            "reasoning_effort",
            AnyValue(", ".join(f"`{word}`" for word in _EFFORTS)),
            "For chat templates that know it. Another word is dropped and named.",
        ),
        translated(
            "chat_template_kwargs",
            AnyValue(f"an object of at most {_MAX_TEMPLATE_KEYS} booleans, numbers and strings"),
            "Known names only: "
            + ", ".join(f"`{name}`" for name in (*_TEMPLATE_FLAGS, *_TEMPLATE_SCALARS))
            + ". Others are dropped and named.",
        ),
        *THINKING,
        translated("modalities", AnyValue("a list"), "`text` is dropped, `audio` refused."),
        *same_fate(Fate.REFUSE, "audio", "Answers are text only."),
    ],
    GENERATION,
)


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's chat request.

    Raises:
        ApiError: 400 or 404, with the exact field.
    """
    sifted = sift(body, CHAT, facts, policy)
    translate = sifted.translate
    out = prompt_fields(sifted, facts, policy)
    check_generates(facts)
    out.update(sifted.forward)
    if "modalities" in translate:
        _refuse_modalities(translate["modalities"])
    if "logprobs" in translate or "top_logprobs" in translate:
        _set_logprobs(out, translate)
    forced = _FORCED in out
    if forced:
        _clear_for_calls(out, sifted)
    elif "response_format" in translate:
        _set_response_format(out, translate["response_format"])
    _check_together(out)
    if (forced or "response_format" in out) and out.pop("ignore_eos", False):
        # When the JSON is complete nothing else may follow, and the engine gives up with an error.
        sifted.ignored.append("ignore_eos")
    call = generation(_PATH, out, sifted, facts, policy, default_tokens=None)
    call.forced_calls = forced
    return call


def prompt_fields(sifted: Sifted, facts: ModelFacts, policy: FieldPolicy) -> dict[str, Any]:
    """The fields that make up the prompt: what counting tokens has in common with chat."""
    translate = sifted.translate
    check_model(translate, facts)
    out: dict[str, Any] = {
        "model": facts.alias,
        "messages": rebuild(translate.get("messages"), facts),
    }
    if "tools" in translate or "functions" in translate:
        _set_tools(out, sifted)
    if "reasoning_effort" in translate:
        _set_effort(out, sifted)
    if "chat_template_kwargs" in translate:
        _set_template_values(out, sifted, policy)
    return out


def _set_tools(out: dict[str, Any], sifted: Sifted) -> None:
    out.update(tool_fields(sifted.translate))
    if out.get("tool_choice") == "required":
        several = bool(sifted.forward.get("parallel_tool_calls"))
        out["tool_choice"] = "none"
        out[_FORCED] = call_schema(out["tools"], several=several)


def _clear_for_calls(out: dict[str, Any], sifted: Sifted) -> None:
    """Leave out what would spoil the JSON of a call, or what has no meaning beside one."""
    if out.pop("stop", None):
        sifted.ignored.append("stop")
    asked = sifted.translate.get("response_format", {"type": "text"})
    if not isinstance(asked, dict):
        raise wrong_type("response_format", "an object")
    if asked.get("type") != "text":
        sifted.ignored.append("response_format")
    out["reasoning_format"] = "auto"  # every other keeps thoughts in the text, or may do so


def _set_effort(out: dict[str, Any], sifted: Sifted) -> None:
    effort = sifted.translate["reasoning_effort"]
    if isinstance(effort, str) and effort in _EFFORTS:
        out["reasoning_effort"] = effort
    else:
        sifted.ignored.append("reasoning_effort")


def _set_template_values(out: dict[str, Any], sifted: Sifted, policy: FieldPolicy) -> None:
    asked = sifted.translate["chat_template_kwargs"]
    if not isinstance(asked, dict):
        raise wrong_type("chat_template_kwargs", "an object")
    if len(asked) > _MAX_TEMPLATE_KEYS:
        raise wrong_value("chat_template_kwargs", f"at most {_MAX_TEMPLATE_KEYS} keys long")
    known: dict[str, Any] = {}
    for name, value in asked.items():
        if value is None:
            continue
        # Any other name could replace what the template is given by the engine itself.
        if not _template_value(name, value, policy):
            sifted.ignored.append(f"chat_template_kwargs.{name}")
        else:
            known[name] = value
    if known:
        out["chat_template_kwargs"] = known


def _template_value(name: str, value: Any, policy: FieldPolicy) -> bool:
    """Whether a template argument may pass."""
    at = f"chat_template_kwargs.{printable(name)}"
    if name in _TEMPLATE_FLAGS:
        if not isinstance(value, bool):
            raise wrong_type(at, "a boolean")
        return True
    if name not in _TEMPLATE_SCALARS and f"chat_template_kwargs.{name}" not in policy.allow:
        return False
    if not isinstance(value, str | int | float):
        raise wrong_type(at, "a string, a number or a boolean")
    if isinstance(value, str) and len(value) > _MAX_TEMPLATE_CHARS:
        raise wrong_value(at, f"at most {_MAX_TEMPLATE_CHARS} characters long")
    return True


def _refuse_modalities(modalities: Any) -> None:
    if not isinstance(modalities, list):
        raise wrong_type("modalities", "a list")
    if any(modality != "text" for modality in modalities):
        raise ApiError("unsupported_parameter", "Answers are text only.", param="modalities")


def _set_logprobs(out: dict[str, Any], translate: dict[str, Any]) -> None:
    top: int = translate.get("top_logprobs", 0)
    if translate.get("logprobs"):
        out["logprobs"] = True
        # Without a number the engine sends 20 for each token, with 0 none at all.
        out["top_logprobs"] = max(1, top)
    elif top:
        raise wrong_value("top_logprobs", "absent unless 'logprobs' is true")


def _set_response_format(out: dict[str, Any], wanted: Any) -> None:
    if not isinstance(wanted, dict):
        raise wrong_type("response_format", "an object")
    kind = wanted.get("type")
    if kind == "text":
        return
    if kind == "json_object":
        out["response_format"] = {"type": kind}
        schema = wanted.get("schema")
        if schema is not None:
            out["response_format"]["schema"] = check_schema(schema, "response_format.schema")
        return
    if kind != "json_schema":
        raise wrong_value("response_format.type", "'text', 'json_object' or 'json_schema'")
    inner = wanted.get("json_schema")
    if not isinstance(inner, dict):
        raise wrong_type("response_format.json_schema", "an object")
    schema = inner.get("schema")
    param = "response_format.json_schema.schema"
    checked = {} if schema is None else check_schema(schema, param)
    out["response_format"] = {"type": kind, "json_schema": {"schema": checked}}


def _check_together(out: dict[str, Any]) -> None:
    """Refuse what the engine refuses only in combination."""
    if "tools" in out and "logprobs" in out:
        raise ApiError(
            "unsupported_parameter", "'logprobs' cannot be had with tools.", param="logprobs"
        )
    if "grammar" in out and ("tools" in out or "response_format" in out):
        raise ApiError(
            "unsupported_parameter",
            "'grammar' cannot be combined with tools or response_format.",
            param="grammar",
        )


def _assembler(call: EngineCall, head: ReplyHead) -> Assembler:
    return ChatAssembler(call.choices)


_DOC = """\
OpenAI's chat. The engine's events are passed on as they are; a reply in one piece is put together
from the same events. A last message of the assistant is continued, and the reply begins with it.

- `logprobs` cannot be had together with tools, and `grammar` (where the operator allows it) not
  together with tools or `response_format`.
- A reasoning model's thoughts come as `reasoning_content` beside `content`.
- The usage event of a stream has empty `choices`; it comes only when `include_usage` asks for it.
- The `x_continued` of [continued streams](server-behavior.md#continued-streams) is ours.
"""

CHAT_DIALECT = Dialect("chat", _PATH, CHAT, build, assembler=_assembler, doc=_DOC)
