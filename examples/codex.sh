#!/bin/sh
# One turn of the Codex CLI on /v1/responses, with a configuration of its own.
#
#   npm install -g @openai/codex
#   sh codex.sh                every feature
#   sh codex.sh chat           this one only
#
# Codex describes its tools in some 15,000 tokens with each request: the gateway needs slots of at
# least 32,768 tokens (CTX divided by PARALLEL) and a model that can do something with them.

set -eu

export LLAMA_GATEWAY_KEY="${LLAMA_GATEWAY_KEY:-}"
url=${LLAMA_GATEWAY_URL:-http://localhost:8000} # without /v1
model=${LLAMA_GATEWAY_MODEL:-smollm2-135m-instruct}

features="chat tools structured error truncated broken"
asked=${*:-$features}
for feature in $asked; do
    case " $features " in
    *" $feature "*) ;;
    *) echo "no feature $feature; there are $features" >&2 && exit 2 ;;
    esac
done

command -v codex >/dev/null || { echo "codex not found: npm install -g @openai/codex" >&2 && exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CODEX_HOME="$folder/home"
mkdir -p "$CODEX_HOME" "$folder/work"
cat >"$CODEX_HOME/config.toml" <<END
model = "$model"
model_provider = "llama-gateway"
model_context_window = 32768
web_search = "disabled"
# Nothing but the gateway is called: no news, no statistics, no catalogue of plugins.
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false
apps = false

[model_providers.llama-gateway]
name = "llama-gateway"
base_url = "$url/v1"
env_key = "LLAMA_GATEWAY_KEY"
wire_api = "responses"
# Codex sends a whole turn again when its stream breaks.
request_max_retries = 1
stream_max_retries = 1
END

# codex_exec PROMPT [options]: the last message is in $folder/last, all else in $folder/log
codex_exec() {
    prompt=$1
    shift
    rm -f "$folder/last"
    codex exec --skip-git-repo-check --ephemeral --sandbox read-only --cd "$folder/work" \
        --output-last-message "$folder/last" "$@" "$prompt" </dev/null >"$folder/log" 2>&1
}

fail() {
    echo "$1" >&2
    cat "$folder/log" >&2
    exit 1
}

# Codex always streams, so this is a stream as well.
chat() {
    codex_exec "What is a llama?" || fail "codex failed"
    [ -s "$folder/last" ] || fail "codex brought no answer"
    echo "chat: ok, $(tr '\n' ' ' <"$folder/last")"
}

# Two turns: the model has Codex run a command, and answers with what that printed.
tools() {
    codex_exec "${LLAMA_GATEWAY_TOOLS_PROMPT:-Run the command pwd and say what it prints.}" --json ||
        fail "codex failed"
    python3 -c 'import json, sys
lines = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
items = [line["item"] for line in lines if line["type"] == "item.completed"]
ran = [item for item in items if item["type"] == "command_execution"]
assert ran and ran[0]["exit_code"] is not None, items
assert items[-1]["type"] == "agent_message" and items[-1]["text"], items[-1]
print("tools: ok,", json.dumps([ran[0]["command"], ran[0]["aggregated_output"], items[-1]["text"]]))' \
        "$folder/log" || fail "the command was not run, or nothing said of it"
}

structured() {
    cat >"$folder/schema.json" <<'END'
{
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": false
}
END
    codex_exec "Anna is 31 years old. Who is she?" --output-schema "$folder/schema.json" ||
        fail "codex failed"
    python3 -c 'import json, sys
person = json.load(open(sys.argv[1]))
assert sorted(person) == ["age", "name"] and type(person["age"]) is int, person
print("structured: ok,", json.dumps(person))' "$folder/last" || fail "that is no person"
}

error() {
    if LLAMA_GATEWAY_KEY=sk-wrong codex_exec "Hello"; then fail "a wrong key was let in"; fi
    grep -q "Incorrect API key provided" "$folder/log" || fail "codex does not say why"
    echo "error: ok, $(grep "Incorrect API key provided" "$folder/log" | tail -1)"
}

# An answer that was cut off is a failed turn. Codex sets no limit, so a prompt has to reach one.
truncated() {
    if [ -z "${LLAMA_GATEWAY_ENDLESS_PROMPT:-}" ]; then
        echo "truncated: skipped, LLAMA_GATEWAY_ENDLESS_PROMPT is not set"
        return
    fi
    if codex_exec "$LLAMA_GATEWAY_ENDLESS_PROMPT"; then fail "a cut answer looked complete"; fi
    grep -q "^ERROR: .*max_output_tokens" "$folder/log" || fail "codex does not say that it was cut"
    echo "truncated: ok, $(grep "^ERROR: " "$folder/log" | tail -1)"
}

# A stream that breaks is a failed turn, and Codex shows the gateway's reason.
broken() {
    if [ -z "${LLAMA_GATEWAY_BROKEN_PROMPT:-}" ]; then
        echo "broken: skipped, LLAMA_GATEWAY_BROKEN_PROMPT is not set"
        return
    fi
    if codex_exec "$LLAMA_GATEWAY_BROKEN_PROMPT"; then fail "a broken stream looked complete"; fi
    [ ! -s "$folder/last" ] || fail "a broken stream left an answer"
    grep -q "^ERROR: " "$folder/log" || fail "codex does not say what happened"
    echo "broken: ok, $(grep "^ERROR: " "$folder/log" | tail -1)"
}

for feature in $asked; do "$feature"; done
