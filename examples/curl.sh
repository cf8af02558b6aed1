#!/bin/sh
# The API with nothing but curl (and python3 to read the replies).
#
#   sh curl.sh                 everything
#   sh curl.sh chat stream     these only

set -eu

url=${LLAMA_GATEWAY_URL:-http://localhost:8000} # without /v1
key=${LLAMA_GATEWAY_KEY:-}
model=${LLAMA_GATEWAY_MODEL:-smollm2-135m-instruct}

features="chat stream tools structured error truncated broken"
asked=${*:-$features}
for feature in $asked; do
    case " $features " in
    *" $feature "*) ;;
    *) echo "no feature $feature; there are $features" >&2 && exit 2 ;;
    esac
done

# post ROUTE BODY [curl's options]: the reply's body
post() {
    route=$1 body=$2
    shift 2
    curl -sS "$@" "$url/v1/$route" -H "Authorization: Bearer $key" \
        -H "Content-Type: application/json" -d "$body"
}

# check PYTHON [INPUT]: print what PYTHON, which sees the input as `text`, says; it may assert
check() {
    printf '%s' "$2" | python3 -c "
import json, sys
text = sys.stdin.read()
reply = json.JSONDecoder().raw_decode(text)[0] if text.startswith('{') else None
frames = [line[6:] for line in text.splitlines() if line.startswith('data: ')]
chunks = [json.loads(frame) for frame in frames if frame != '[DONE]']
$1"
}

chat() {
    reply=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 40,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is a llama?"}]
    }')
    check '
said = reply["choices"][0]["message"]["content"]
assert said and reply["usage"]["completion_tokens"] > 0, reply
print("chat: ok,", json.dumps(said))' "$reply"
}

# -N: show each piece as it comes
stream() {
    reply=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 40,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Count to five."}]
    }' -N)
    check '
assert frames[-1] == "[DONE]", frames[-1:]
choices = [choice for chunk in chunks for choice in chunk["choices"]]
pieces = [piece for choice in choices if (piece := choice["delta"].get("content"))]
assert len(pieces) > 1 and choices[-1]["finish_reason"] in ("stop", "length"), choices[-1]
assert chunks[-1]["usage"]["completion_tokens"] > 0, chunks[-1]
print("stream: ok,", json.dumps("".join(pieces)))' "$reply"
}

# Two turns: the model calls the tool, and answers with what the tool said.
tools() {
    question='{"role": "user", "content": "How is the weather in Paris?"}'
    offered='[{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Oslo"]}},
        "required": ["city"]
    }}}]'
    first=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 100,
        "temperature": 0,
        "messages": ['"$question"'],
        "tools": '"$offered"',
        "tool_choice": {"type": "function", "function": {"name": "weather"}}
    }')
    turn=$(check '
message = reply["choices"][0]["message"]
assert message.get("tool_calls"), message
call, = message["tool_calls"]
city = json.loads(call["function"]["arguments"])["city"]
result = {"role": "tool", "tool_call_id": call["id"], "content": f"21 degrees in {city}"}
print(json.dumps(message), json.dumps(result), sep=", ")' "$first")
    second=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 40,
        "temperature": 0,
        "messages": ['"$question, $turn"'],
        "tools": '"$offered"',
        "tool_choice": "none"
    }')
    check '
message = reply["choices"][0]["message"]
assert message["content"] and not message.get("tool_calls"), message
print("tools: ok,", json.dumps(message["content"]))' "$second"
}

structured() {
    reply=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 200,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Anna is 31 years old. Who is she?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": false
        }}}
    }')
    check '
person = json.loads(reply["choices"][0]["message"]["content"])
assert sorted(person) == ["age", "name"] and type(person["age"]) is int, person
print("structured: ok,", json.dumps(person))' "$reply"
}

# The status, and an error object that says why.
error() {
    body='{
        "model": "'"$model"'",
        "temperature": 9,
        "messages": [{"role": "user", "content": "Hello"}]
    }'
    too_hot=$(post chat/completions "$body" -w '\n%{http_code}')
    wrong_key=$(key=sk-wrong && post chat/completions "$body" -w '\n%{http_code}')
    check '
assert text.endswith("\n401") and reply["error"]["code"] == "invalid_api_key", text' "$wrong_key"
    check '
assert text.endswith("\n400") and reply["error"]["param"] == "temperature", text
print("error: ok,", json.dumps(reply["error"]["message"]))' "$too_hot"
}

truncated() {
    reply=$(post chat/completions '{
        "model": "'"$model"'",
        "max_tokens": 5,
        "temperature": 0,
        "messages": [{"role": "user", "content": "Tell me a long story."}]
    }')
    check '
choice, = reply["choices"]
assert choice["finish_reason"] == "length", choice
print("truncated: ok,", json.dumps(choice["message"]["content"]))' "$reply"
}

# A stream that breaks says so in a frame of its own, on each route in that API's words.
broken() {
    if [ -z "${LLAMA_GATEWAY_BROKEN_PROMPT:-}" ]; then
        echo "broken: skipped, LLAMA_GATEWAY_BROKEN_PROMPT is not set"
        return
    fi
    prompt=$(printf '%s' "$LLAMA_GATEWAY_BROKEN_PROMPT" | python3 -c 'import json, sys
print(json.dumps(sys.stdin.read()))')
    head='"model": "'"$model"'", "stream": true'
    messages='"messages": [{"role": "user", "content": '"$prompt"'}]'
    chat=$(check '
assert chunks[-1]["error"]["code"] and "[DONE]" not in frames, text
assert any(chunk["choices"][0]["delta"].get("content") for chunk in chunks[:-1]), text
print(chunks[-1]["error"]["code"])' "$(post chat/completions "{$head, $messages}" -N)")
    responses=$(check '
last = chunks[-1]
assert last["type"] == "response.failed" and last["response"]["status"] == "failed", text
assert any(chunk["type"] == "response.output_text.delta" for chunk in chunks), text
print(last["error"]["code"])' "$(post responses "{$head, \"input\": $prompt}" -N)")
    messages=$(check '
assert chunks[-1]["type"] == "error" and "event: error\n" in text, text
assert any(chunk["type"] == "content_block_delta" for chunk in chunks), text
print(chunks[-1]["error"]["type"])' "$(post messages "{$head, $messages}" -N)")
    echo "broken: ok, $chat, $responses, $messages"
}

for feature in $asked; do "$feature"; done
