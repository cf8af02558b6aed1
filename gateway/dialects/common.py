"""What the dialects share: the model's name, token limits, prompts."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.dialects.base import EngineCall, FieldPolicy, ModelFacts
from gateway.errors import ApiError
from gateway.request.fields import Sifted
from gateway.request.fields.kinds import as_integer, wrong_type, wrong_value

__all__ = [
    "check_generates",
    "check_model",
    "choices",
    "generation",
    "plain_call",
    "stream_wishes",
    "texts_or_tokens",
    "token_limit",
    "unknown_model",
]

MAX_MODEL_CHARS = 100
"""Of an unknown model's name, the most that is shown in the error; users look for it there."""

_UNPRINTABLE = re.compile(r"[^ -_a-~]")
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens", "n_predict")


def check_model(translate: dict[str, Any], facts: ModelFacts) -> None:
    """
    Refuse a name that is not the loaded model's.

    An absent name is accepted: there is one model, and people with curl leave it out.

    Raises:
        ApiError: 404 `model_not_found`.
    """
    name = translate.get("model")
    if name is None or name == facts.alias or name in facts.names:
        return
    raise unknown_model(name)


def unknown_model(name: str) -> ApiError:
    """The 404 for the *name* of a model that is not here; shown cut, and in ASCII."""
    return ApiError(
        "model_not_found",
        f"The model `{_UNPRINTABLE.sub('?', name)[:MAX_MODEL_CHARS]}` does not exist.",
        param="model",
        hint="GET /v1/models lists what is there.",
    )


def check_generates(facts: ModelFacts) -> None:
    """
    Refuse text generation where the engine was started for something else.

    llama-server would try, with a model that was made for vectors or scores.

    Raises:
        ApiError: 400 `not_supported_by_model`.
    """
    if not facts.generates:
        raise ApiError(
            "not_supported_by_model",
            "The model that is loaded writes no text.",
            hint="The operator started the engine for embeddings or for reranking.",
        )


def token_limit(wanted: int | None, facts: ModelFacts, policy: FieldPolicy) -> int:
    """
    The one limit the engine gets: what is *wanted*, bounded by context and policy.

    Args:
        wanted: Tokens; `None` for as many as fit.
        facts: Gives the slot's context.
        policy: May hold a lower bound.
    """
    highest, cap = facts.context_tokens, policy.max_tokens_cap
    if cap is not None and cap < highest:
        highest = cap
    limit = highest if wanted is None or wanted > highest else wanted
    return limit if limit > 1 else 1


def _asked_limit(translate: dict[str, Any]) -> int | None:
    """The smallest limit the client set; `None`: it set none."""
    limit: int | None = None
    for name in _LIMIT_NAMES:
        if name in translate:
            asked = translate[name]
            limit = asked if limit is None else min(limit, asked)
    return limit


def choices(translate: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> int:
    """How many answers were asked for; each takes a slot at once, so more cannot be had."""
    asked: int = translate.get("n", 1)
    if asked == 1:
        return 1
    highest = max(1, min(policy.max_choices, facts.slots))
    if asked > highest:
        raise wrong_value("n", f"from 1 to {highest}: each answer takes a slot")
    return asked


def stream_wishes(translate: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the client wants events, and whether a usage event among them."""
    stream: bool = translate.get("stream", False)
    options = translate.get("stream_options")
    if options is None:
        return stream, False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object")
    wanted = options.get("include_usage")
    if wanted not in (None, True, False):
        raise wrong_type("stream_options.include_usage", "a boolean")
    return stream, stream and bool(wanted)


def texts_or_tokens(
    value: Any, param: str, facts: ModelFacts, *, max_items: int, empty_text: bool
) -> tuple[Any, int]:
    """
    Check a prompt or an input: a text, a list of token ids, or a list of either.

    Returns:
        The value to send, and how many inputs it holds.

    Raises:
        ApiError: 400; also when token ids alone are more than the context holds.
    """
    if isinstance(value, str):
        if not value:
            _check_text(value, param, empty_text)
        return value, 1
    if value is None:
        raise ApiError("missing_parameter", f"'{param}' is required.", param=param)
    if not isinstance(value, list):
        raise wrong_type(param, "a string, a list of token ids, or a list of either")
    if not value:
        raise wrong_value(param, "a list with something in it")
    if type(value[0]) in (int, float):
        return _tokens(value, param, facts), 1
    if len(value) > max_items:
        raise wrong_value(param, f"a list of at most {max_items} items")
    checked: list[Any] = []
    for index, item in enumerate(value):
        at = f"{param}[{index}]"
        if isinstance(item, str):
            _check_text(item, at, empty_text)
            checked.append(item)
        elif isinstance(item, list):
            checked.append(_tokens(item, at, facts))
        else:
            raise wrong_type(at, "a string or a list of token ids")
    return checked, len(checked)


def _check_text(text: str, param: str, empty_text: bool) -> None:
    if not text and not empty_text:
        raise wrong_value(param, "a string with something in it")


def _tokens(tokens: list[Any], param: str, facts: ModelFacts) -> list[int]:
    if not tokens:
        raise wrong_value(param, "a list with something in it")
    if len(tokens) > facts.context_tokens:
        raise ApiError(
            "context_length_exceeded",
            f"This model's maximum context length is {facts.context_tokens} tokens."
            f" However, your messages resulted in {len(tokens)} tokens.",
            param=param,
        )
    highest = 2**31 - 1 if facts.vocab_size is None else facts.vocab_size - 1
    checked: list[int] = []
    for token in tokens:
        number = as_integer(token)
        if number is None:
            raise wrong_type(param, "a list of token ids")
        if not 0 <= number <= highest:
            raise wrong_value(param, f"a list of token ids from 0 to {highest}")
        checked.append(number)
    return checked


def generation(
    path: str,
    out: dict[str, Any],
    sifted: Sifted,
    facts: ModelFacts,
    policy: FieldPolicy,
    *,
    default_tokens: int | None,
    prompts: int = 1,
) -> EngineCall:
    """
    Finish the engine's request for text: what every dialect that generates has in common.

    Args:
        path: Path on the engine.
        out: What the dialect made of the body; completed in place.
        sifted: The body's fields.
        facts: What is known of the model.
        policy: The operator's choices.
        default_tokens: Tokens when no limit was asked; `None` for as many as fit.
        prompts: Prompts in the request.

    Raises:
        ApiError: 400, for the fields that are read here.
    """
    stream, include_usage = stream_wishes(sifted.translate)
    wanted = choices(sifted.translate, facts, policy)
    if wanted > 1:
        out["n"] = wanted
    asked = _asked_limit(sifted.translate)
    limit = token_limit(default_tokens if asked is None else asked, facts, policy)
    out["max_tokens"] = limit
    if not policy.cache_prompt:
        out["cache_prompt"] = False
    out["stream"] = True
    # A reply that is assembled here needs the usage as well.
    out["stream_options"] = {"include_usage": include_usage or not stream}
    out["return_progress"] = True
    return EngineCall(  # by place: a dozen keywords cost as much as all of the above
        path,
        orjson.dumps(out),
        True,  # generates
        stream,
        include_usage,
        facts.alias,
        wanted * prompts,  # choices
        prompts,
        wanted * prompts,  # tasks
        limit,
        asked is None and default_tokens is None,  # open_ended
        sifted.ignored_names(),
    )


def plain_call(path: str, out: dict[str, Any], tasks: int, sifted: Sifted) -> EngineCall:
    """
    The engine's request for what it answers with one JSON body.

    Args:
        path: Path on the engine.
        out: What the dialect made of the body, the model's name included.
        tasks: Inputs or documents in it.
        sifted: The body's fields.
    """
    call = EngineCall(path, orjson.dumps(out), False, False, False, out["model"])
    call.tasks = tasks
    call.ignored = sifted.ignored_names()
    return call
