"""The tables: every field a client may send, and what becomes of it.

Read a row as "name, fate, kind". Ranges of the sampling fields are the engine's own where it has
any; where it would clamp silently we say 400 instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.request.fields.kinds import (
    AnyValue,
    Flag,
    Grammar,
    Integer,
    Kind,
    LogitBias,
    Number,
    OneOf,
    Seed,
    Stop,
    Text,
    Texts,
)
from gateway.request.fields.table import Fate, Row, Table

__all__ = ["CHAT", "COMPLETIONS", "EMBEDDINGS", "RERANK", "TABLES"]

_INT64_MAX = 2**63 - 1


def _forward(name: str, kind: Kind, note: str = "") -> Row:
    return Row(name, Fate.FORWARD, kind, note=note)


def _translate(name: str, kind: Kind, note: str = "") -> Row:
    return Row(name, Fate.TRANSLATE, kind, note=note)


def _all(fate: Fate, names: str, note: str = "", *, locked: bool = False) -> Iterable[Row]:
    return tuple(Row(name, fate, locked=locked, note=note) for name in names.split())


# -- what every generating route shares

_SMALLEST = "One of several names for the same limit; the smallest counts, and it is always sent."

_LIMITS = (
    _translate("max_tokens", Integer(-1, _INT64_MAX), _SMALLEST),
    _translate("max_completion_tokens", Integer(-1, _INT64_MAX), _SMALLEST),
    _translate("n_predict", Integer(-1, _INT64_MAX), _SMALLEST + " -1 counts as absent."),
    _translate("n", Integer(1, 128), "At most the engine's slots, and at most 4."),
)

_STREAM = (
    _translate("stream", Flag()),
    _translate("stream_options", AnyValue("an object; 'include_usage' is read")),
)

_SAMPLING = (
    _forward("temperature", Number(0, 2)),
    _forward("top_p", Number(0, 1)),
    _forward("presence_penalty", Number(-2, 2)),
    _forward("frequency_penalty", Number(-2, 2)),
    _forward("seed", Seed()),
    _forward("stop", Stop()),
    _forward("logit_bias", LogitBias()),
    # llama.cpp's own
    _forward("top_k", Integer(-1, "vocab")),
    _forward("min_p", Number(0, 1)),
    _forward("typical_p", Number(0, 1)),
    _forward("top_n_sigma", Number(-1, 100)),
    _forward("repeat_penalty", Number(0, 2, above=True)),
    Row("repetition_penalty", Fate.FORWARD, Number(0, 2, above=True), to="repeat_penalty"),
    _forward("repeat_last_n", Integer(0, "context", minus_one="context")),
    _forward("mirostat", Integer(0, 2)),
    _forward("mirostat_tau", Number(0, 100)),
    _forward("mirostat_eta", Number(0, 1)),
    _forward("dry_multiplier", Number(0, 10)),
    _forward("dry_base", Number(1, 10)),
    _forward("dry_allowed_length", Integer(0, "context")),
    _forward("dry_penalty_last_n", Integer(0, "context", minus_one="context")),
    _forward("dry_sequence_breakers", Texts(16, 64)),
    _forward("xtc_probability", Number(0, 1)),
    _forward("xtc_threshold", Number(0, 1)),
    _forward("dynatemp_range", Number(0, 10)),
    _forward("dynatemp_exponent", Number(0, 10)),
    _forward("min_keep", Integer(0, "vocab")),
    _forward("ignore_eos", Flag(), "Harmless, because a token limit is always sent."),
)

# OpenAI's, without effect on the text of an answer from this engine
_SILENT = _all(
    Fate.DROP,
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention"
    " prompt_cache_options verbosity prediction web_search_options moderation",
)

# The engine's internals, other tenants' slots, and other servers' extras
_NAMED = _all(
    Fate.DROP_NAMED,
    "id_slot cache_prompt n_keep n_discard n_probs n_cmpl n_indent n_cache_reuse samplers"
    " timings_per_token return_progress return_tokens post_sampling_probs verbose"
    " response_fields sse_ping_interval backend_sampling reasoning_control speculative.*"
    " t_max_* preserved_tokens message_delimiters reasoning_budget_*"
    " min_tokens guided_* num_ctx keep_alive options think best_of use_beam_search"
    " skip_special_tokens add_generation_prompt return_token_ids reasoning_budget",
)

_ANSWER = "It would change how the engine reads its own output; use response_format or tools."
_REFUSED = (
    Row("grammar", Fate.REFUSE, Grammar(), note="Use response_format with a JSON schema."),
    *_all(Fate.REFUSE, "json_schema", "Use response_format.", locked=True),
    *_all(Fate.REFUSE, "lora", "Adapters are the operator's choice."),
    *_all(
        Fate.REFUSE,
        "grammar_* chat_parser chat_format generation_prompt parse_tool_calls"
        " continue_final_message",
        _ANSWER,
        locked=True,
    ),
)

_GENERATION = (*_LIMITS, *_STREAM, *_SAMPLING, *_SILENT, *_NAMED, *_REFUSED)

_MODEL = _translate("model", Text(1024), "Checked against the names of the loaded model.")

# -- the routes

CHAT = Table(
    "chat",
    [
        _MODEL,
        _translate("messages", AnyValue("a list of 1 to 2048 messages"), "Rebuilt one by one."),
        _translate("logprobs", Flag(numbers=True)),
        _translate("top_logprobs", Integer(0, 20)),
        _translate("response_format", AnyValue("an object with a type")),
        _translate("tools", AnyValue("a list of functions")),
        _translate("tool_choice", AnyValue("a word or an object")),
        _forward("parallel_tool_calls", Flag()),
        _translate("functions", AnyValue("a list of functions"), "The old name of tools."),
        _translate("function_call", AnyValue("a word or an object"), "Became tool_choice."),
        _translate("reasoning_effort", AnyValue("a word"), "Templates that know it use it."),
        _translate("chat_template_kwargs", AnyValue("an object of scalars")),
        _forward("reasoning_format", OneOf(("none", "auto", "deepseek", "deepseek-legacy"))),
        _forward("thinking_budget_tokens", Integer(-1, "context")),
        _translate("modalities", AnyValue("a list"), "['text'] is dropped, audio refused."),
        *_all(Fate.REFUSE, "audio", "Answers are text only."),
    ],
    _GENERATION,
)

COMPLETIONS = Table(
    "completions",
    [
        _MODEL,
        _translate("prompt", AnyValue("a string, tokens, or a list of at most 64 of either")),
        _translate("logprobs", Integer(0, 5)),
        *_all(Fate.DROP_NAMED, "echo suffix"),
    ],
    _GENERATION,
)

EMBEDDINGS = Table(
    "embeddings",
    [
        _MODEL,
        _translate("input", AnyValue("a string, tokens, or a list of at most 64 of either")),
        _forward("encoding_format", OneOf(("float", "base64"))),
        _translate("dimensions", Integer(1, _INT64_MAX), "Only the model's own number."),
        *_all(Fate.DROP, "user"),
    ],
)

RERANK = Table(
    "rerank",
    [
        _MODEL,
        _translate("query", AnyValue("a string")),
        _translate("documents", AnyValue("a list of at most 256 texts")),
        _translate("top_n", Integer(1, _INT64_MAX)),
        *_all(Fate.DROP_NAMED, "return_documents max_chunks_per_doc max_tokens_per_doc"),
        *_all(Fate.DROP, "user"),
    ],
)

TABLES = (CHAT, COMPLETIONS, EMBEDDINGS, RERANK)
