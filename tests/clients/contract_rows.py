"""Bodies as clients send them: what the engine is to get, what is named, what is refused.

Rows are (path, fields added to the least body of that path, what is expected).
"""

from __future__ import annotations

from typing import Any

from openai.types.chat import ChatCompletionMessage

from tests.clients.contract_kit import ABSENT

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES_PATH = "/v1/messages"
VECTORS = "/v1/embeddings"
RANKS = "/v1/rerank"
CONTEXT = 4096
"""Tokens of the mock's slot."""

USER = {"role": "user", "content": "hi"}
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
G = {"type": "function", "function": {"name": "g"}}
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LEAST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER], "max_tokens": 2},
    CHAT + "/input_tokens": {"messages": [USER]},
    RESPONSES: {"input": "hi", "max_output_tokens": 2},
    RESPONSES + "/input_tokens": {"input": "hi"},
    MESSAGES_PATH: {"messages": [USER], "max_tokens": 2},
    MESSAGES_PATH + "/count_tokens": {"messages": [USER]},
    TEXT: {"prompt": "a", "max_tokens": 2},
    VECTORS: {"input": "a"},
    RANKS: {"query": "a", "documents": ["b"]},
}

# -- fields that are sent on

SENT_ON: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # one limit, the smallest of all names
    (CHAT, {"max_tokens": 9, "max_completion_tokens": 7, "n_predict": 8}, {"max_tokens": 7}),
    (CHAT, {"max_tokens": 9, "n_predict": 5}, {"max_tokens": 5, "n_predict": ABSENT}),
    (CHAT, {"max_tokens": None, "max_completion_tokens": 3}, {"max_tokens": 3}),
    (CHAT, {"max_tokens": 4, "n_predict": -1}, {"max_tokens": 4}),
    (CHAT, {"max_tokens": 5.0}, {"max_tokens": 5}),
    (CHAT, {"max_tokens": 10**12, "messages": [USER]}, {"max_tokens": CONTEXT}),
    # integers as floats, floats as integers
    (CHAT, {"top_k": 40.0, "seed": 7.0, "n": 2.0}, {"top_k": 40, "seed": 7, "n": 2}),
    (CHAT, {"temperature": 0, "top_p": 1}, {"temperature": 0, "top_p": 1}),
    # what the engine would choke on
    (CHAT, {"repeat_last_n": -1, "dry_penalty_last_n": -1.0},
     {"repeat_last_n": CONTEXT, "dry_penalty_last_n": CONTEXT}),
    (CHAT, {"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "repetition_penalty": ABSENT}),
    (CHAT, {"stop": ["", "x", ""]}, {"stop": ["x"]}),
    (CHAT, {"stop": ""}, {"stop": ABSENT}),
    (CHAT, {"stop": [""]}, {"stop": ABSENT}),
    (CHAT, {"stop": []}, {"stop": ABSENT}),
    (CHAT, {"stop": None}, {"stop": ABSENT}),
    (CHAT, {"stop": "x"}, {"stop": ["x"]}),
    (CHAT, {"logit_bias": {}}, {"logit_bias": ABSENT}),
    (CHAT, {"logit_bias": {"5": -100}}, {"logit_bias": {"5": -100}}),
    (CHAT, {"top_logprobs": 0}, {"top_logprobs": ABSENT, "logprobs": ABSENT}),
    (CHAT, {"logprobs": 0, "top_logprobs": 0}, {"top_logprobs": ABSENT, "logprobs": ABSENT}),
    (CHAT, {"logprobs": False}, {"logprobs": ABSENT}),
    (CHAT, {"logprobs": 1}, {"logprobs": True}),
    (CHAT, {"logprobs": True, "top_logprobs": 3.0}, {"logprobs": True, "top_logprobs": 3}),
    # streams are ours
    (CHAT, {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
     {"stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {"stream": True, "stream_options": {"include_obfuscation": False}},
     {"stream_options": {"include_usage": False}}),
    # structured output
    (CHAT, {"response_format": {"type": "text"}}, {"response_format": ABSENT}),
    (CHAT, {"response_format": {"type": "json_object"}},
     {"response_format": {"type": "json_object"}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
     {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": None}}},
     {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    # reasoning
    (CHAT, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    (CHAT, {"reasoning_format": "none"}, {"reasoning_format": "none"}),
    (CHAT, {"chat_template_kwargs": {"enable_thinking": False, "thinking": None}},
     {"chat_template_kwargs": {"enable_thinking": False}}),
    (CHAT, {"thinking_budget_tokens": -1}, {"thinking_budget_tokens": -1}),
    # guidellm
    (CHAT, {"stop": None, "ignore_eos": True, "max_completion_tokens": 2},
     {"ignore_eos": True, "max_tokens": 2}),
    # OpenAI's fields without a meaning here
    (CHAT, {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto",
            "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
            "prompt_cache_options": {}, "verbosity": "low", "modalities": ["text"],
            "prediction": {"type": "content", "content": "x"}, "web_search_options": {},
            "moderation": {}},
     dict.fromkeys(("user", "metadata", "store", "service_tier", "modalities"), ABSENT)),
    # tools
    (CHAT, {"tools": [F], "tool_choice": "auto"}, {"tools": [F], "tool_choice": "auto"}),
    (CHAT, {"tools": [F], "tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
    (CHAT, {"tools": [F], "tool_choice": "none"}, {"tools": [F], "tool_choice": "none"}),
    (CHAT, {"tools": [G]}, {"tools": [G], "tool_choice": ABSENT}),
    (CHAT, {"tools": [{"type": "function",
                       "function": {"name": "f", "parameters": {}, "strict": True}}]},
     {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (CHAT, {"tools": [{"type": None, "function": {"name": "f", "description": None,
                                                  "parameters": None, "strict": None}}]},
     {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (CHAT, {"tool_choice": "required"}, {"tools": ABSENT, "tool_choice": ABSENT}),
    (CHAT, {"tools": [], "tool_choice": "auto"}, {"tools": ABSENT, "tool_choice": ABSENT}),
    (CHAT, {"tools": None, "tool_choice": {"type": "function", "function": {"name": "f"}}},
     {"tools": ABSENT, "tool_choice": ABSENT}),
    (CHAT, {"tools": [F, G], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}},
     {"tools": [G], "tool_choice": "auto"}),
    (CHAT, {"tools": [F, G], "tool_choice": {
        "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
     {"tools": [F], "tool_choice": "auto"}),
    (CHAT, {"functions": [F["function"]], "function_call": "auto"},
     {"tools": [F], "tool_choice": "auto", "functions": ABSENT, "function_call": ABSENT}),
    (CHAT, {"functions": [F["function"]], "function_call": "none"},
     {"tools": [F], "tool_choice": "none"}),
    (CHAT, {"tools": [F], "parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    # completions
    (TEXT, {"max_tokens": None}, {"max_tokens": 16}),
    (TEXT, {"prompt": [1, 2.0, 3]}, {"prompt": [1, 2, 3]}),
    (TEXT, {"prompt": [[1, 2], [3]]}, {"prompt": [[1, 2], [3]]}),
    (TEXT, {"prompt": ["a", [1]]}, {"prompt": ["a", [1]]}),
    (TEXT, {"prompt": ["one"], "suffix": None, "best_of": None, "logprobs": None,
            "logit_bias": None, "echo": None}, {"prompt": ["one"], "echo": ABSENT}),
    (TEXT, {"logprobs": 5.0}, {"logprobs": 5}),
    (TEXT, {"stream": True, "stream_options": {"include_usage": True}},
     {"stream_options": {"include_usage": True}}),
    # embeddings
    (VECTORS, {"encoding_format": "base64", "user": "u"}, {"encoding_format": "base64"}),
    (VECTORS, {"input": ["a", "b"], "encoding_format": "float"}, {"input": ["a", "b"]}),
    (VECTORS, {"input": [1, 2]}, {"input": [1, 2]}),
    (VECTORS, {"input": [[1], [2]], "dimensions": None}, {"input": [[1], [2]]}),
    # rerank
    (RANKS, {"documents": ["b", {"text": "c"}], "top_n": 9.0},
     {"documents": ["b", "c"], "top_n": 2}),
]  # fmt: skip

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
    "thinking_budget_tokens": (-1, CONTEXT),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "top_n_sigma": (-1, 100),
    "repeat_penalty": (0.01, 2),
    "repetition_penalty": (0.01, 2),
    "repeat_last_n": (-1, CONTEXT),
    "mirostat": (0, 2),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 1),
    "dry_multiplier": (0, 10),
    "dry_base": (1, 10),
    "dry_allowed_length": (0, CONTEXT),
    "dry_penalty_last_n": (-1, CONTEXT),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "dynatemp_range": (0, 10),
    "dynatemp_exponent": (0, 10),
}
"""The lowest and the highest value of each numeric field of chat, both included."""

# -- fields that are left out, and named

NAMED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {name: 1}, name)
    for name in (
        *[
            "cache_prompt",
            "id_slot",
            "n_keep",
            "n_discard",
            "n_probs",
            "samplers",
            "timings_per_token",
        ],
        *["return_progress", "return_tokens", "post_sampling_probs", "verbose", "response_fields"],
        *[
            "sse_ping_interval",
            "speculative.n_max",
            "t_max_predict_ms",
            "min_tokens",
            "guided_json",
        ],
        *["num_ctx", "keep_alive", "options", "think", "best_of", "use_beam_search"],
        *["skip_special_tokens", "add_generation_prompt", "return_token_ids", "reasoning_budget"],
        "made_up",
    )
]
NAMED += [
    (CHAT, {"reasoning_effort": "utmost"}, "reasoning_effort"),
    (CHAT, {"reasoning_effort": {"effort": "low"}}, "reasoning_effort"),
    (CHAT, {"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs.messages"),
    (CHAT, {"made,up\r\n": 1}, "made%2Cup%0D%0A"),
    (TEXT, {"echo": True, "best_of": 1, "suffix": "x"}, "echo, best_of, suffix"),
    (RANKS, {"return_documents": True}, "return_documents"),
]

# -- fields that are refused

BAD_TYPE, BAD_VALUE, LACKING = "invalid_type", "invalid_value", "missing_parameter"
NEVER, UNABLE = "unsupported_parameter", "not_supported_by_model"

REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    (CHAT, {"model": "gpt-4o"}, 404, "model_not_found", "model"),
    (CHAT, {"model": 5}, 400, BAD_TYPE, "model"),
    *(
        (CHAT, {name: 0}, 400, BAD_VALUE, name)
        for name in ("max_tokens", "max_completion_tokens", "n_predict")
    ),
    (CHAT, {"max_tokens": "5"}, 400, BAD_TYPE, "max_tokens"),
    (CHAT, {"temperature": "1"}, 400, BAD_TYPE, "temperature"),
    (CHAT, {"temperature": 2.1}, 400, BAD_VALUE, "temperature"),
    (CHAT, {"n": 99}, 400, BAD_VALUE, "n"),
    (CHAT, {"stream": "true"}, 400, BAD_TYPE, "stream"),
    (CHAT, {"stop": ["x"] * 17}, 400, BAD_VALUE, "stop"),
    (CHAT, {"top_logprobs": 2}, 400, BAD_VALUE, "top_logprobs"),
    (CHAT, {"logit_bias": {"word": 1}}, 400, BAD_VALUE, "logit_bias"),
    (CHAT, {"response_format": {"type": "xml"}}, 400, BAD_VALUE, "response_format.type"),
    (CHAT, {"response_format": {"type": "json_schema"}}, 400, BAD_TYPE,
     "response_format.json_schema"),
    *(
        (RESPONSES, {"tools": [{"type": "function", "name": "f"}], "tool_choice": "required",
                     "text": {"format": wrong}}, 400, BAD_TYPE, "text.format")
        for wrong in (-1, True, "x", [])
    ),
    (CHAT, {"tools": [{"function": {"name": "f"}}], "tool_choice": "required",
            "response_format": -1}, 400, BAD_TYPE, "response_format"),
    (CHAT, {"reasoning_format": "fancy"}, 400, BAD_VALUE, "reasoning_format"),
    (CHAT, {"audio": {"voice": "a"}}, 400, NEVER, "audio"),
    (CHAT, {"modalities": ["text", "audio"]}, 400, NEVER, "modalities"),
    *(
        (CHAT, {name: "x"}, 400, NEVER, name)
        for name in (
            *["grammar", "json_schema", "lora", "chat_parser", "chat_format", "generation_prompt"],
            *["parse_tool_calls", "continue_final_message"],
        )
    ),
    *(
        (CHAT, {"tools": [F, {"type": kind}]}, 400, NEVER, "tools[1].type")
        for kind in ("custom", "web_search", "namespace", "")
    ),
    (CHAT, {"tools": [F], "tool_choice": "perhaps"}, 400, BAD_VALUE, "tool_choice"),
    (CHAT, {"tools": [F], "tool_choice": {"type": "tool", "name": "x"}}, 400, BAD_VALUE,
     "tool_choice.function.name"),
    (CHAT, {"messages": []}, 400, BAD_VALUE, "messages"),
    (CHAT, {"messages": None}, 400, LACKING, "messages"),
    (CHAT, {"messages": "hi"}, 400, BAD_TYPE, "messages"),
    (TEXT, {"prompt": None}, 400, LACKING, "prompt"),
    (TEXT, {"prompt": []}, 400, BAD_VALUE, "prompt"),
    (TEXT, {"prompt": [-1]}, 400, BAD_VALUE, "prompt"),
    (TEXT, {"prompt": [2**31]}, 400, BAD_VALUE, "prompt"),
    (TEXT, {"logprobs": 6}, 400, BAD_VALUE, "logprobs"),
    (TEXT, {"logprobs": True}, 400, BAD_TYPE, "logprobs"),
    (VECTORS, {"input": ""}, 400, BAD_VALUE, "input"),
    (VECTORS, {"input": ["a", ""]}, 400, BAD_VALUE, "input[1]"),
    (VECTORS, {"input": ["a"] * 65}, 400, BAD_VALUE, "input"),
    (VECTORS, {"dimensions": 8}, 400, BAD_VALUE, "dimensions"),
    (VECTORS, {"encoding_format": "int8"}, 400, BAD_VALUE, "encoding_format"),
    (RANKS, {"documents": []}, 400, BAD_VALUE, "documents"),
    (RANKS, {"query": ""}, 400, BAD_VALUE, "query"),
    (RANKS, {"top_n": "3"}, 400, BAD_TYPE, "top_n"),
]  # fmt: skip

# -- messages


def said(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", **more}


def calls(*each: Any) -> list[dict[str, Any]]:
    """A history with tool calls and their answer."""
    answer = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
    return [USER, said(content=None, tool_calls=list(each)), answer]


def called(arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


def parts(*each: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(each)}]


def replayed(**fields: Any) -> dict[str, Any]:
    """An assistant's message as the SDK dumps what it was given."""
    return ChatCompletionMessage.model_validate({"role": "assistant", **fields}).model_dump()


TEXT_PART = {"type": "text", "text": "a"}

MESSAGES: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([{"role": "developer", "content": "d"}, USER], [{"role": "system", "content": "d"}, USER]),
    (
        [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, USER],
        [{"role": "system", "content": "a\n\nb"}, USER],
    ),
    ([{"role": "user", "content": ""}], [{"role": "user", "content": ""}]),
    ([{"role": "user", "content": None}], [{"role": "user", "content": ""}]),
    ([USER, said(), USER], [USER, said(content=""), USER]),
    ([USER, said(content="so far")], [USER, said(content="so far")]),
    (
        [{"role": "user", "content": "hi", "name": "ann", "id": "m1", "made_up": {"a": []}}],
        [{"role": "user", "content": "hi", "name": "ann"}],
    ),
    # parts
    (parts(TEXT_PART), parts(TEXT_PART)),
    (parts({"type": "input_text", "text": "a"}), parts(TEXT_PART)),
    (parts({"type": "output_text", "text": "a", "annotations": []}), parts(TEXT_PART)),
    (parts({"type": "refusal", "refusal": "a"}), parts(TEXT_PART)),
    (parts({**TEXT_PART, "cache_control": {"type": "ephemeral"}}), parts(TEXT_PART)),
    (parts("a"), parts(TEXT_PART)),
    # what SDKs replay
    ([USER, replayed(content="a"), USER], [USER, said(content="a"), USER]),
    (
        [USER, replayed(content="a", refusal=None, annotations=[], reasoning_content="r"), USER],
        [USER, said(content="a", reasoning_content="r"), USER],
    ),
    (
        [USER, said(content="a", reasoning="x", thinking="y", parsed={"a": 1}, audio=None,
                    provider_specific_fields={"b": 1}, function_call=None, tool_calls=[]), USER],
        [USER, said(content="a"), USER],
    ),
    (
        [USER, replayed(content=None, tool_calls=[called('{"a": 1}', id="c1")]), calls()[2]],
        [USER, said(content="", tool_calls=[called('{"a": 1}', id="c1")]), calls()[2]],
    ),
    # tool calls
    (calls(called("", id="c1")), calls(called(id="c1"))),
    (calls({"id": "c1", "function": {"name": "f"}}), calls(called(id="c1"))),
    (calls({"function": {"name": "f", "arguments": "{}"}}), calls(called())),
    (calls({"type": None, "id": None, "function": {"name": "f", "arguments": None}}),
     calls(called())),
    (calls({"function": {"name": "f", "arguments": {"a": 1}}}), calls(called('{"a":1}'))),
    (calls(called("not JSON")), calls(called('{"arguments":"not JSON"}'))),
    (
        [USER, said(content=None, function_call={"name": "f", "arguments": "{}"}),
         {"role": "function", "name": "f", "content": "ok"}],
        [USER, said(content="", tool_calls=[called()]),
         {"role": "tool", "name": "f", "content": "ok"}],
    ),
    (
        [*calls(called(id="c1"))[:2],
         {"role": "tool", "tool_call_id": "c1", "content": [TEXT_PART]}],
        [*calls(called(id="c1"))[:2],
         {"role": "tool", "tool_call_id": "c1", "content": [TEXT_PART]}],
    ),
]  # fmt: skip

REFUSED_MESSAGES: list[tuple[list[Any], str, str]] = [
    ([{"content": "hi"}], LACKING, "messages[0].role"),
    ([{"role": "wizard", "content": "hi"}], BAD_VALUE, "messages[0].role"),
    ([USER, {"role": "user"}], LACKING, "messages[1].content"),
    ([{"role": "system"}, USER], LACKING, "messages[0].content"),
    ([{"role": "user", "content": {"text": "hi"}}], BAD_TYPE, "messages[0].content"),
    (["hi"], BAD_TYPE, "messages[0]"),
    (parts({"type": "file", "file": {"file_id": "f"}}), NEVER, "messages[0].content[0].type"),
    (parts({"type": "video_url", "video_url": {}}), NEVER, "messages[0].content[0].type"),
    (parts({"text": "no type"}), BAD_TYPE, "messages[0].content[0].type"),
    (
        parts({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}),
        UNABLE,
        "messages[0].content[0].image_url.url",
    ),
    (parts({"type": "image_url", "image_url": PNG}), UNABLE, "messages[0].content[0].image_url"),
    (
        parts({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}),
        UNABLE,
        "messages[0].content[0].image_url.url",
    ),
    (
        parts({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        UNABLE,
        "messages[0].content[0].input_audio.data",
    ),
    (calls({"id": "c1"}), BAD_TYPE, "messages[1].tool_calls[0].function"),
    (calls({"type": "custom", "custom": {}}), NEVER, "messages[1].tool_calls[0].type"),
    (calls({"function": {"name": ""}}), BAD_VALUE, "messages[1].tool_calls[0].function.name"),
    (calls(called())[:2], BAD_VALUE, "messages"),
]
