"""Each route's body becomes one engine call, or a 4xx that names the field."""

import dataclasses

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import DIALECTS, EngineCall, FieldPolicy, ModelFacts, ReplyHead
from gateway.dialects.chat import CHAT
from gateway.dialects.completions import COMPLETIONS
from gateway.dialects.embeddings import EMBEDDINGS
from gateway.dialects.rerank import RERANK
from gateway.errors import ApiError
from gateway.request.fields import Fate
from gateway.request.jsonbody import parse
from gateway.stream.assemble import ChatAssembler, CompletionAssembler

FACTS = ModelFacts(
    names=frozenset({"m", "alias/m"}),
    alias="m",
    slots=8,
    context_tokens=1000,
    vocab_size=300,
    embedding_size=64,
    embeddings=True,
    rerank=True,
)
CHAT_PATH = "/v1/chat/completions"
COUNT_PATH = "/v1/chat/completions/input_tokens"
HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g", "description": "d"}}


def build(path, facts=FACTS, policy=None, **body):
    return DIALECTS[path].build(body, facts, policy or FieldPolicy())


def chat(facts=FACTS, policy=None, **body):
    return build(CHAT_PATH, facts, policy, **{"model": "m", "messages": HELLO, **body})


def sent(call: EngineCall):
    return orjson.loads(call.body)


def refused(make, *args, **body):
    with pytest.raises(ApiError) as caught:
        make(*args, **body)
    return caught.value


# -- routes

HEAD = ReplyHead("req_1", "1", created=0)


def test_the_routes_are_these_and_no_others():
    assert set(DIALECTS) == {
        CHAT_PATH,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
        COUNT_PATH,
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    assert all(path == dialect.path for path, dialect in DIALECTS.items())


def test_replies_are_assembled_for_what_is_generated_and_only_there():
    assembler = DIALECTS[CHAT_PATH].assembler
    assert assembler is not None
    assert isinstance(assembler(chat(), HEAD), ChatAssembler)
    assembler = DIALECTS["/v1/completions"].assembler
    assert assembler is not None
    assert isinstance(assembler(build("/v1/completions", prompt="a"), HEAD), CompletionAssembler)
    others = ("/v1/embeddings", "/v1/rerank", COUNT_PATH)
    assert [DIALECTS[path].assembler for path in others] == [None] * 3


# -- what every generating call has


def test_generation_is_always_streamed_with_progress_and_one_limit():
    assert sent(chat()) == {
        "model": "m",
        "messages": HELLO,
        "max_tokens": 1000,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    assert sent(build("/v1/completions", prompt="a")) == {
        "model": "m",
        "prompt": "a",
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }


@pytest.mark.parametrize(
    ("body", "stream", "shown", "asked"),
    [
        ({}, False, False, True),
        ({"stream": False, "stream_options": {"include_usage": True}}, False, False, True),
        ({"stream": True}, True, False, False),
        ({"stream": True, "stream_options": {}}, True, False, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True, True),
        ({"stream": True, "stream_options": {"include_usage": None}}, True, False, False),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, True, False, False),
    ],
)
def test_the_usage_event_is_sent_when_asked_and_read_when_assembled(body, stream, shown, asked):
    call = chat(**body)
    assert (call.generates, call.stream, call.include_usage) == (True, stream, shown)
    assert sent(call)["stream_options"] == {"include_usage": asked}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({}, 1000),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5.0}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"n_predict": 9}, 9),
        ({"n_predict": -1}, 1000),
        ({"max_tokens": 5, "max_completion_tokens": 7, "n_predict": 9}, 5),
        ({"max_tokens": 50, "n_predict": 2**40}, 50),
        ({"max_tokens": 2**40}, 1000),
        ({"max_tokens": 4294967301}, 1000),
        ({"max_tokens": None}, 1000),
    ],
)
def test_the_smallest_limit_counts_and_the_context_bounds_it(body, limit):
    call = chat(**body)
    assert call.max_tokens == sent(call)["max_tokens"] == limit
    assert "n_predict" not in sent(call)
    assert "max_completion_tokens" not in sent(call)


def test_a_limit_that_nobody_set_is_open_ended():
    assert chat().open_ended
    assert chat(max_tokens=None, n_predict=-1).open_ended
    assert chat(policy=FieldPolicy(max_tokens_cap=10)).open_ended
    assert not chat(max_tokens=5).open_ended
    assert not chat(max_completion_tokens=10**6).open_ended
    # OpenAI's default of 16 is a limit.
    assert not build("/v1/completions", prompt="a").open_ended
    assert not build("/v1/embeddings", input="a").open_ended


def test_an_operators_cap_bounds_the_limit():
    policy = FieldPolicy(max_tokens_cap=10)
    assert chat(policy=policy).max_tokens == 10
    assert chat(policy=policy, max_tokens=5).max_tokens == 5
    assert build("/v1/completions", policy=policy, prompt="a").max_tokens == 10


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
@pytest.mark.parametrize("value", [0, -2, "5", 5.5, True, [5]])
def test_a_limit_that_is_none_is_refused(name, value):
    error = refused(chat, **{name: value})
    assert (error.status, error.param) == (400, name)


def test_choices_are_bounded_by_slots_and_policy():
    call = chat(n=4)
    assert (call.choices, call.tasks, sent(call)["n"]) == (4, 4, 4)
    assert refused(chat, n=5).param == "n"
    few = ModelFacts(frozenset({"m"}), "m", slots=2, context_tokens=100)
    assert refused(chat, few, n=3).param == "n"
    assert "n" not in sent(chat(n=1))


def test_the_cache_is_left_alone_only_where_the_operator_wants_that():
    assert "cache_prompt" not in sent(chat())
    policy = FieldPolicy(cache_prompt=False)
    assert sent(chat(policy=policy))["cache_prompt"] is False
    assert sent(chat(policy=policy, cache_prompt=True))["cache_prompt"] is False
    assert sent(build("/v1/completions", policy=policy, prompt="a"))["cache_prompt"] is False


# -- models


@pytest.mark.parametrize("name", ["m", "alias/m", None])
def test_every_name_of_the_model_is_sent_as_its_alias(name):
    call = chat(model=name)
    assert call.model == sent(call)["model"] == "m"


def test_an_unknown_model_is_not_found():
    error = refused(chat, model="gpt-9/x")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.message == "The model `gpt-9/x` does not exist."


def test_an_unknown_models_name_is_shown_escaped_and_cut():
    error = refused(chat, model="a`\r\n\x7fé" + "x" * 500)
    assert error.message.startswith("The model `a?????xxx")
    assert len(error.message) < 140
    assert refused(chat, model="x" * 2000).status == 400
    assert refused(chat, model=["m"]).param == "model"


# -- chat


def test_sampling_fields_pass_and_internals_do_not():
    call = chat(
        temperature=0.5,
        top_k=40,
        stop="x",
        seed=2**63,
        user="u",
        id_slot=3,
        made_up=1,
        **{"speculative.n_max": 5},
    )
    body = sent(call)
    assert body["temperature"] == 0.5
    assert body["top_k"] == 40
    assert body["stop"] == ["x"]
    assert call.ignored == ("id_slot", "made_up", "speculative.n_max")
    assert not {"user", "id_slot", "made_up"} & set(body)


@pytest.mark.parametrize(
    ("asked", "sent_fields"),
    [
        ({"logprobs": True}, {"logprobs": True, "top_logprobs": 1}),
        ({"logprobs": 1, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ({"logprobs": True, "top_logprobs": 0}, {"logprobs": True, "top_logprobs": 1}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"top_logprobs": 0}, {}),
    ],
)
def test_logprobs_mean_what_openai_means(asked, sent_fields):
    body = sent(chat(**asked))
    assert {name: body[name] for name in body if "logprobs" in name} == sent_fields


def test_logprobs_out_of_range_or_alone_are_refused():
    assert refused(chat, logprobs=True, top_logprobs=21).param == "top_logprobs"
    assert refused(chat, top_logprobs=5).param == "top_logprobs"
    assert refused(chat, logprobs=True, tools=[TOOL]).param == "logprobs"


@pytest.mark.parametrize(
    ("choice", "names", "word"),
    [
        (None, ["f", "g"], None),
        ("auto", ["f", "g"], "auto"),
        ("none", ["f", "g"], "none"),
        ("required", ["f", "g"], "required"),
        ("any", ["f", "g"], "required"),
        ({"type": "any"}, ["f", "g"], "required"),
        ({"type": "auto"}, ["f", "g"], "auto"),
        ({"type": "function", "function": {"name": "g"}}, ["g"], "required"),
        ({"type": "function", "name": "g"}, ["g"], "required"),
        ({"type": "tool", "name": "f"}, ["f"], "required"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
            ["f"],
            "required",
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "g"}, {"name": "zz"}]},
            ["g"],
            "auto",
        ),
    ],
)
def test_a_choice_of_tools_is_put_into_the_engines_words(choice, names, word):
    call = chat(tools=[TOOL, OTHER], tool_choice=choice)
    body = sent(call)
    assert [tool["function"]["name"] for tool in body["tools"]] == names
    assert call.forced_calls == (word == "required")
    if not call.forced_calls:
        assert body.get("tool_choice") == word
        assert "json_schema" not in body
        return
    # The engine is to write a call as text, and nothing but that.
    assert body["tool_choice"] == "none"
    assert list(body["json_schema"]["$defs"]) == [str(at) for at in range(len(names))]


def test_beside_a_call_that_must_come_nothing_shapes_the_text():
    shaped = {"type": "json_object"}
    call = chat(
        tools=[TOOL],
        tool_choice="required",
        stop=["x"],
        response_format=shaped,
        reasoning_format="none",
        ignore_eos=True,
    )
    assert not {"stop", "response_format", "ignore_eos"} & set(sent(call))
    assert sent(call)["reasoning_format"] == "auto"
    assert set(call.ignored) == {"stop", "response_format", "ignore_eos"}
    free = sent(chat(tools=[TOOL], stop=["x"], response_format=shaped, reasoning_format="none"))
    assert (free["stop"], free["response_format"]) == (["x"], shaped)
    assert free["reasoning_format"] == "none"


@pytest.mark.parametrize(
    "choice",
    [
        "maybe",
        5,
        {},
        {"type": "function", "function": {"name": "zz"}},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "tools": []},
        {"type": "allowed_tools", "tools": [TOOL], "mode": "none"},
    ],
)
def test_a_choice_that_is_none_is_refused(choice):
    error = refused(chat, tools=[TOOL], tool_choice=choice)
    assert error.status == 400
    assert (error.param or "").startswith("tool_choice")


def test_a_choice_without_tools_is_dropped():
    for tools in (None, []):
        body = sent(chat(tools=tools, tool_choice="required"))
        assert not {"tools", "tool_choice"} & set(body)


def test_legacy_functions_are_tools():
    body = sent(chat(functions=[{"name": "f"}, {"name": "g"}], function_call={"name": "g"}))
    assert body["tools"] == [{"type": "function", "function": {"name": "g"}}]
    assert body["json_schema"]["properties"]["name"] == {"const": "g"}


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        (5, "tools[0]"),
        ({"type": "web_search"}, "tools[0].type"),
        ({"type": "custom", "custom": {"name": "x"}}, "tools[0].type"),
        ({"type": "function"}, "tools[0].function"),
        ({"type": "function", "function": {}}, "tools[0].function.name"),
        ({"function": {"name": "a b"}}, "tools[0].function.name"),
        ({"function": {"name": "f" * 129}}, "tools[0].function.name"),
        ({"function": {"name": "f", "description": 5}}, "tools[0].function.description"),
        ({"function": {"name": "f", "parameters": [1]}}, "tools[0].function.parameters"),
        (
            {"function": {"name": "f", "parameters": {"type": "float"}}},
            "tools[0].function.parameters",
        ),
    ],
)
def test_tools_the_engine_would_fail_on_are_refused_with_their_place(tool, param):
    error = refused(chat, tools=[tool])
    assert (error.status, error.param) == (400, param)


def test_tools_are_few_and_short():
    assert refused(chat, tools=[TOOL] * 129).param == "tools"
    long = {"function": {"name": "f", "description": "x" * 300_000}}
    assert refused(chat, tools=[long]).param == "tools"
    assert len(sent(chat(tools=[TOOL] * 128))["tools"]) == 128


@pytest.mark.parametrize(
    ("wanted", "forwarded"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_object", "schema": {"type": "object"}},
            {"type": "json_object", "schema": {"type": "object"}},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {}}},
            {"type": "json_schema", "json_schema": {"schema": {}}},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            {"type": "json_schema", "json_schema": {"schema": {}}},
        ),
    ],
)
def test_response_formats_keep_what_the_engine_reads(wanted, forwarded):
    assert sent(chat(response_format=wanted)).get("response_format") == forwarded


@pytest.mark.parametrize(
    "wanted",
    [
        5,
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x/y"}}},
        {"type": "json_object", "schema": {"type": "nope"}},
    ],
)
def test_response_formats_that_are_none_are_refused(wanted):
    assert (refused(chat, response_format=wanted).param or "").startswith("response_format")


def test_what_a_template_may_be_told_is_known_and_scalar():
    call = chat(chat_template_kwargs={"enable_thinking": False, "messages": [], "thinking": None})
    assert sent(call)["chat_template_kwargs"] == {"enable_thinking": False}
    assert call.ignored == ("chat_template_kwargs.messages",)
    error = refused(chat, chat_template_kwargs={"enable_thinking": "false"})
    assert error.param == "chat_template_kwargs.enable_thinking"
    assert refused(chat, chat_template_kwargs=[]).param == "chat_template_kwargs"
    assert refused(chat, chat_template_kwargs=dict.fromkeys("abcdefghijklmnopq", 1)).status == 400
    policy = FieldPolicy(allow=frozenset({"chat_template_kwargs.tone"}))
    call = chat(policy=policy, chat_template_kwargs={"tone": "dry"})
    assert sent(call)["chat_template_kwargs"] == {"tone": "dry"}


def test_effort_never_fails_a_request():
    assert sent(chat(reasoning_effort="low"))["reasoning_effort"] == "low"
    for odd in ("extreme", 5, ["low"]):
        call = chat(reasoning_effort=odd)
        assert "reasoning_effort" not in sent(call)
        assert call.ignored == ("reasoning_effort",)


def test_sound_in_the_answer_cannot_be_had():
    assert chat(modalities=["text"])
    assert refused(chat, modalities=["text", "audio"]).param == "modalities"
    assert refused(chat, audio={"voice": "x"}).param == "audio"


def test_a_grammar_the_operator_allows_is_still_bounded():
    policy = FieldPolicy(allow=frozenset({"grammar"}))
    assert sent(chat(policy=policy, grammar='root ::= "a"'))["grammar"] == 'root ::= "a"'
    deep = "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000
    assert refused(chat, policy=policy, grammar=deep).param == "grammar"
    assert refused(chat, policy=policy, grammar="x", tools=[TOOL]).param == "grammar"


# -- counting


def test_counting_sends_the_prompt_and_nothing_else():
    call = build(COUNT_PATH, messages=HELLO, tools=[TOOL], temperature=0.5, max_tokens=5, n=2)
    assert sent(call) == {"model": "m", "messages": HELLO, "tools": [TOOL]}
    assert (call.path, call.generates, call.max_tokens) == (COUNT_PATH, False, None)
    assert refused(build, COUNT_PATH, messages=[]).param == "messages"


# -- completions


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", 1),
        (["a", "b"], 2),
        ([1, 2], 1),
        ([[1, 2], [299]], 2),
        ([[1], "a"], 2),
        (["a"] * 64, 64),
    ],
)
def test_prompts_are_texts_or_tokens(prompt, prompts):
    call = build("/v1/completions", prompt=prompt, n=2)
    assert sent(call)["prompt"] == prompt
    assert (call.prompts, call.choices, call.tasks) == (prompts, 2 * prompts, 2 * prompts)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ("", "prompt"),
        ([], "prompt"),
        (["a", ""], "prompt[1]"),
        ([[]], "prompt[0]"),
        ([300], "prompt"),
        ([-1], "prompt"),
        ([1, "a"], "prompt"),
        ([True], "prompt[0]"),
        ([None], "prompt[0]"),
        (["a", 5], "prompt[1]"),
        ([{"prompt_string": "x", "multimodal_data": ["http://x"]}], "prompt[0]"),
        ({"prompt_string": "x"}, "prompt"),
        (["a"] * 65, "prompt"),
    ],
)
def test_prompts_that_are_none_are_refused(prompt, param):
    error = refused(build, "/v1/completions", prompt=prompt)
    assert (error.status, error.param) == (400, param)


def test_more_tokens_than_the_context_holds_are_refused_in_words_sdks_know():
    error = refused(build, "/v1/completions", prompt=[1] * 1001)
    assert error.code == "context_length_exceeded"
    assert error.message == (
        "This model's maximum context length is 1000 tokens."
        " However, your messages resulted in 1001 tokens."
    )


def test_completions_count_logprobs_and_name_what_changes_the_answer():
    call = build("/v1/completions", prompt="a", logprobs=0, echo=True, suffix="x", best_of=2)
    assert sent(call)["logprobs"] == 1
    assert call.ignored == ("echo", "suffix", "best_of")
    assert refused(build, "/v1/completions", prompt="a", logprobs=6).param == "logprobs"
    assert refused(build, "/v1/completions", prompt="a", chat_parser="x").param == "chat_parser"


# -- embeddings and rerank


def test_embeddings_take_texts_and_tokens():
    call = build("/v1/embeddings", input=["a", "b"], encoding_format="base64", user="u")
    assert sent(call) == {"model": "m", "input": ["a", "b"], "encoding_format": "base64"}
    assert (call.generates, call.tasks) == (False, 2)
    assert build("/v1/embeddings", input="a", dimensions=64)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": [""]}, "input[0]"),
        ({"input": [{"content": [{"type": "image_url"}]}]}, "input[0]"),
        ({"input": ["a"] * 65}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_embeddings_the_engine_would_get_wrong_are_refused(body, param):
    error = refused(build, "/v1/embeddings", **body)
    assert (error.status, error.param) == (400, param)


def test_dimensions_are_refused_while_the_models_are_unknown():
    facts = ModelFacts(frozenset({"m"}), "m", slots=1, context_tokens=10, embeddings=True)
    assert refused(build, "/v1/embeddings", facts, input="a", dimensions=8).param == "dimensions"


def test_rerank_takes_documents_as_texts_or_objects():
    call = build("/v1/rerank", query="q", documents=["a", {"text": "b"}], top_n=9)
    assert sent(call) == {"model": "m", "query": "q", "documents": ["a", "b"], "top_n": 2}
    assert call.tasks == 2
    call = build("/v1/rerank", query="q", documents=[""], return_documents=True, texts=["x"])
    assert call.ignored == ("return_documents", "texts")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": "a"}, "documents"),
        ({"query": "q", "documents": [5]}, "documents[0]"),
        ({"query": "q", "documents": [{}]}, "documents[0].text"),
        ({"query": "q", "documents": ["a"] * 257}, "documents"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
    ],
)
def test_rerank_requests_that_are_none_are_refused(body, param):
    error = refused(build, "/v1/rerank", **body)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_a_model_for_something_else_is_a_400_that_nobody_retries(path):
    facts = ModelFacts(frozenset({"m"}), "m", slots=1, context_tokens=10)
    error = refused(build, path, facts, input="a", query="q", documents=["a"])
    assert (error.status, error.code) == (400, "not_supported_by_model")


# -- anything at all


def test_a_small_hostile_schema_never_gets_through():
    for schema in (
        {"type": "array", "minItems": 5, "maxItems": 3},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]},
        {"properties": {"_" * 60_000: {}}},
        {"properties": {f"p{i}": {} for i in range(2000)}},
    ):
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        assert refused(chat, response_format=wanted).status == 400
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        assert refused(chat, tools=[tool]).status == 400
        assert refused(build, COUNT_PATH, messages=HELLO, tools=[tool]).status == 400


ALWAYS = {"model", "stream", "stream_options", "return_progress", "max_tokens", "n"}
TABLES = {
    CHAT_PATH: (
        CHAT,
        ALWAYS
        | {"messages", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs"}
        | {"reasoning_effort", "chat_template_kwargs"},
    ),
    COUNT_PATH: (
        CHAT,
        {"model", "messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"},
    ),
    "/v1/completions": (COMPLETIONS, ALWAYS | {"prompt", "logprobs"}),
    "/v1/embeddings": (EMBEDDINGS, {"model", "input"}),
    "/v1/rerank": (RERANK, {"model", "query", "documents", "top_n"}),
}

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from([0.5, 5.0, 1e300, 2**63, -1, "", "auto", "m", "text", "json_schema"])
    | st.text(max_size=5)
)
inner_keys = st.sampled_from(
    [
        "type",
        "function",
        "name",
        "parameters",
        "role",
        "content",
        "text",
        "schema",
        "json_schema",
        "include_usage",
        "$ref",
        "anyOf",
        "properties",
        "items",
        "enum",
        "tools",
        "mode",
        "id",
        "url",
        "5",
        "x",
    ]
)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner_keys, inner, max_size=4),
    max_leaves=12,
)


def bodies(path):
    names = sorted(row.name.removesuffix("*") for row in TABLES[path][0].rows)
    base = {
        CHAT_PATH: {"messages": HELLO},
        COUNT_PATH: {"messages": HELLO},
        "/v1/completions": {"prompt": "a"},
        "/v1/embeddings": {"input": "a"},
        "/v1/rerank": {"query": "q", "documents": ["a"]},
    }[path]
    drawn = st.dictionaries(st.sampled_from(names) | st.text(max_size=10), json_values, max_size=4)
    return drawn.map(lambda body: {**base, **body})


def outcome(path, body, policy):
    try:
        return DIALECTS[path].build(body, FACTS, policy)
    except ApiError as error:
        return error.status


@pytest.mark.parametrize("path", sorted(TABLES))
@given(data=st.data(), policy=st.sampled_from([FieldPolicy(), FieldPolicy("reject")]))
@settings(max_examples=200, deadline=None)
def test_any_json_becomes_an_allow_listed_body_or_a_4xx(path, data, policy):
    table, own = TABLES[path]
    forwarded = {row.to or row.name for row in table.rows if row.fate is Fate.FORWARD}
    body = parse(orjson.dumps(data.draw(bodies(path))))
    call = outcome(path, body, policy)
    if not isinstance(call, EngineCall):
        assert call in (400, 404)
        return
    assert set(sent(call)) <= forwarded | own
    assert call.path == path
    assert call.choices >= 1
    if call.generates:
        assert 1 <= sent(call)["max_tokens"] <= FACTS.context_tokens
        assert sent(call)["stream"] is sent(call)["return_progress"] is True


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_engine_that_was_started_for_vectors_writes_no_text(path: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "hi"}
    with pytest.raises(ApiError) as refusal:
        DIALECTS[path].build(body, dataclasses.replace(FACTS, generates=False), FieldPolicy())
    assert refusal.value.code == "not_supported_by_model"


def test_counting_takes_no_slot() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    path = "/v1/chat/completions/input_tokens"
    assert DIALECTS[path].build(body, FACTS, FieldPolicy()).tasks == 0
