"""Rows that the tables of several dialects share, and how to write one.

Read a row as "name, fate, kind". Each dialect has its table in its own file. Ranges of the sampling
fields are the engine's own where it has any; where it would clamp silently we say 400 instead.
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
    TokenLimit,
)
from gateway.request.fields.table import Fate, Row

__all__ = [
    "CHOICES",
    "ENGINE_ONLY",
    "GENERATION",
    "INT64_MAX",
    "LIMITS",
    "MODEL",
    "REFUSED",
    "SAMPLING",
    "STREAM",
    "THINKING",
    "WITHOUT_EFFECT",
    "forwarded",
    "same_fate",
    "translated",
]

INT64_MAX = 2**63 - 1


def forwarded(name: str, kind: Kind, note: str = "") -> Row:
    """A field that is checked and sent on."""
    return Row(name, Fate.FORWARD, kind, note=note)


def translated(name: str, kind: Kind, note: str = "") -> Row:
    """A field that is checked and handed to the dialect."""
    return Row(name, Fate.TRANSLATE, kind, note=note)


def same_fate(fate: Fate, names: str, note: str = "", *, locked: bool = False) -> Iterable[Row]:
    """Rows for *names*, which are parted by blanks and all meet the same fate."""
    return tuple(Row(name, fate, locked=locked, note=note) for name in names.split())


# -- what every generating route shares

_SMALLEST = "Several names for one limit: the smallest counts, -1 counts as absent."

LIMITS = tuple(
    translated(name, TokenLimit(), _SMALLEST)
    for name in ("max_tokens", "max_completion_tokens", "n_predict")
)

CHOICES = translated(
    "n", Integer(1, INT64_MAX), "No more than the engine has slots, and no more than 4."
)

THINKING = (
    forwarded(
        "reasoning_format",
        OneOf(("none", "auto", "deepseek", "deepseek-legacy")),
        "Where a reasoning model's thoughts go; `none`: they stay in the text.",
    ),
    forwarded(
        "thinking_budget_tokens", Integer(-1, "context"), "Tokens for thoughts; -1: no bound."
    ),
)

STREAM = (
    translated("stream", Flag(), "Events instead of one JSON reply."),
    translated(
        "stream_options",
        AnyValue("an object"),
        "`include_usage`: a last event tells the usage. Other keys are dropped.",
    ),
)

SAMPLING = (
    forwarded("temperature", Number(0, 2)),
    forwarded("top_p", Number(0, 1)),
    forwarded("presence_penalty", Number(-2, 2)),
    forwarded("frequency_penalty", Number(-2, 2)),
    forwarded("seed", Seed()),
    forwarded("stop", Stop(), "Empty strings are left out."),
    forwarded("logit_bias", LogitBias()),
    # llama.cpp's own
    forwarded("top_k", Integer(-1, "vocab")),
    forwarded("min_p", Number(0, 1)),
    forwarded("typical_p", Number(0, 1)),
    forwarded("top_n_sigma", Number(-1, 100)),
    forwarded("repeat_penalty", Number(0, 2, above=True)),
    Row("repetition_penalty", Fate.FORWARD, Number(0, 2, above=True), to="repeat_penalty"),
    forwarded("repeat_last_n", Integer(0, "context", minus_one="context")),
    forwarded("mirostat", Integer(0, 2)),
    forwarded("mirostat_tau", Number(0, 100)),
    forwarded("mirostat_eta", Number(0, 1)),
    forwarded("dry_multiplier", Number(0, 10)),
    forwarded("dry_base", Number(1, 10)),
    forwarded("dry_allowed_length", Integer(0, "context")),
    forwarded("dry_penalty_last_n", Integer(0, "context", minus_one="context")),
    forwarded("dry_sequence_breakers", Texts(16, 64)),
    forwarded("xtc_probability", Number(0, 1)),
    forwarded("xtc_threshold", Number(0, 1)),
    forwarded("dynatemp_range", Number(0, 10)),
    forwarded("dynatemp_exponent", Number(0, 10)),
    forwarded("min_keep", Integer(0, "vocab")),
    forwarded("ignore_eos", Flag(), "Harmless, because a token limit is always sent."),
)

# OpenAI's, without effect on the text of an answer from this engine
WITHOUT_EFFECT = same_fate(
    Fate.DROP,
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention"
    " prompt_cache_options verbosity prediction web_search_options moderation",
)

# The engine's internals, other tenants' slots, and other servers' extras
ENGINE_ONLY = same_fate(
    Fate.DROP_NAMED,
    "id_slot cache_prompt n_keep n_discard n_probs n_cmpl n_indent n_cache_reuse samplers"
    " timings_per_token return_progress return_tokens post_sampling_probs verbose"
    " response_fields sse_ping_interval backend_sampling reasoning_control speculative.*"
    " t_max_* preserved_tokens message_delimiters reasoning_budget_*"
    " min_tokens guided_* num_ctx keep_alive options think best_of use_beam_search"
    " skip_special_tokens add_generation_prompt return_token_ids reasoning_budget",
)

_ANSWER = "It would change how the engine reads its own output; use response_format or tools."
REFUSED = (
    Row("grammar", Fate.REFUSE, Grammar(), note="Ask for a JSON schema instead."),
    *same_fate(Fate.REFUSE, "json_schema", "Use the field for it of this route.", locked=True),
    *same_fate(Fate.REFUSE, "lora", "Adapters are the operator's choice."),
    *same_fate(
        Fate.REFUSE,
        "grammar_* chat_parser chat_format generation_prompt parse_tool_calls"
        " continue_final_message",
        _ANSWER,
        locked=True,
    ),
)

GENERATION = (*LIMITS, CHOICES, *STREAM, *SAMPLING, *WITHOUT_EFFECT, *ENGINE_ONLY, *REFUSED)

MODEL = translated("model", Text(1024), "Checked against the names of the loaded model.")
