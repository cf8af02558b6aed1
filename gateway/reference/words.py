"""PURE. What docs/api.md says that no table knows."""

from __future__ import annotations

from gateway.errors import RETRY_AFTER_MAX_S
from gateway.request.continuing import CONTINUE_HEADER
from gateway.request.fields.table import MAX_IGNORED
from gateway.request.jsonbody import MAX_DEPTH, MAX_STRUCTURE
from gateway.request.patience import MAX_QUEUE_HEADER

__all__ = [
    "DIFFERENCES",
    "ERRORS",
    "FRAMES",
    "INTRO",
    "MODELS",
    "OTHER_ROUTES",
    "REPLY",
    "REQUEST",
    "RETRIES",
    "ROUTES",
]

INTRO = """\
# The API

<!-- Made by `make docs` from gateway/dialects/, gateway/request/, gateway/errors.py and
gateway/reference/; edit those. -->

What every route takes, field by field, and what becomes of it. How the service behaves around that
(queue, limits, streams, restarts) is in [server-behavior.md](server-behavior.md); what to set in
which client in [clients.md](clients.md).

    curl -N http://127.0.0.1:8000/v1/chat/completions \\
      -H "Authorization: Bearer $LLAMA_GATEWAY_KEY" -H 'Content-Type: application/json' \\
      -d '{"stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
"""

OTHER_ROUTES = (
    (
        "[`GET /v1/models`, `GET /v1/models/{id}`](#models)",
        "any",
        "from memory, also while loading",
    ),
    (
        "`GET /info`, `/v1/server/info`",
        "any",
        "model, engine, limits of the key that asks and what is left of them",
    ),
    (
        "`GET /gpu/status`",
        "any",
        "busy, slots (those in use, and those that linger), queue, each GPU's memory and load",
    ),
    ("`GET /version`", "none", "the service's version, `api_version: v1`"),
    (
        "`GET /metrics`",
        "none, or `metrics` with `METRICS_AUTH_ENABLED`",
        "Prometheus text, or JSON by `Accept`",
    ),
    ("`POST /reload`", "`admin`", "reads the keys file now; takes no body"),
    (
        "`GET /ping`, `/health`, `/healthz`, `/v1/healthz`, `/ready`, `/readyz`, `/livez`,"
        " `/startupz`",
        "none",
        "[probes](server-behavior.md#probes)",
    ),
    ("`OPTIONS` anything", "none", "204 when [`CORS_ORIGINS`](settings.md#cors_origins) is set"),
)
"""Route, key, answer: of what the dialects do not make."""

ROUTES = """\
The middle column is the scope that the key needs. Anything else is 404, or 405 for a known path,
and the 404 has a hint where a client's `base_url` is probably wrong: OpenAI's clients want it with
`/v1` at its end, Anthropic's without. Files, batches, images, audio, assistants and stored
responses do not exist here.
"""

DIFFERENCES = """\
## What is different here

- **One model.** `model` may be absent; a name that is not the loaded model's is 404
  `model_not_found`.
- **`null` is absent**, for every field. Integers may be written `5.0`; numbers in quotes are 400.
- **Unknown fields are dropped** and named in `x-ignored-params`
  ([`UNKNOWN_PARAMS=reject`](settings.md#unknown_params): 400). Look there first when a field seems
  to do nothing.
- **Nothing is stored.** Conversations are sent whole each time; `store`, `metadata` and their like
  are dropped.
- **Out of range is 400**, never clamped: `temperature` 0 to 2, also for Anthropic's routes.
- **Token limits**: several names, the smallest counts. Without one an answer may fill the slot.
- **A schema is enforced**, with or without `strict`. What the engine would choke on is 400.
- **A tool that must be called is called**: `required` and named choices are enforced, in calls that
  fit the function's schema.
- **Images are data URLs**, never fetched; without a projector they are 400.
- **A broken stream says so**: it ends with an error in that API's own words, never like a complete
  one. Comment lines (`: ...`) while a stream waits are no events.
- **Prompts that do not fit** are 400 `context_length_exceeded` before they wait.
- **A client's fault is never a 5xx**, because SDKs send those again.
"""

REQUEST = f"""\
## What goes in

A JSON object in UTF-8, with at most {MAX_STRUCTURE:,} objects and arrays and {MAX_DEPTH} inside
each other, at most [`MAX_REQUEST_BODY_SIZE`](settings.md#max_request_body_size). A missing
`Content-Type` is taken as `application/json`; any other (`curl -d` sends one by itself) is 415.
Query strings are ignored, but an API key in one is refused.

| header | what it does |
|---|---|
| `X-API-Key`, `api-key`, `Authorization: Bearer` | the key, looked for in this order |
| `{MAX_QUEUE_HEADER}` | the longest wait for a turn, in seconds; beyond, 429 or 503 |
| `{CONTINUE_HEADER}` | `true`: a plain stream of chat, Responses or Messages [goes \
on](server-behavior.md#continued-streams) when the engine dies; `false` switches off what the key \
has |
| `X-Request-Id` | comes back, if it is 1 to 64 of `A-Z a-z 0-9 . _ -` |
| `x-stainless-read-timeout`, `x-stainless-timeout` | sent by SDKs of themselves: how long they \
wait for the next byte. A reply in one piece is refused in time, a stream gets comments often \
enough |
| `x-stainless-retry-count` | counted |
| `anthropic-version`, `anthropic-beta`, `OpenAI-Organization`, any other | ignored; no header of \
a client reaches the engine |

Every body is rebuilt from the tables below before the engine sees it. What happens to a field:

- *forwarded*: checked, and sent to the engine as it is;
- *translated*: checked, and turned into what the engine understands, or answered here;
- *dropped*: left out; it changes nothing about the text of the answer;
- *dropped and named*: left out, and its name is in `x-ignored-params`;
- *refused*: 400 `unsupported_parameter`.

The operator may let single fields through with [`ALLOW_FIELDS`](settings.md#allow_fields).
"""

REPLY = f"""\
## What comes out

| header | what it says |
|---|---|
| `x-request-id`, `request-id` | the request's name in the log; tell it the operator |
| `x-ignored-params` | fields that were dropped, at most {MAX_IGNORED} names and then `...` |
| `x-ratelimit-limit-requests`, `x-ratelimit-remaining-requests`, `x-ratelimit-reset-requests`, \
and the same for `-tokens` | the limits of the key, on routes that need `inference` |
| `X-Queue-Wait-Ms` | how long the request waited for its turn; not where a stream's headers went \
out before |
| `Server-Timing` | `queue`; for replies in one piece also `prefill` and `decode`, in milliseconds |
| `Retry-After`, `retry-after-ms` | when to come back: whole seconds, 1 to \
{RETRY_AFTER_MAX_S:.0f}, and exactly |
| `x-should-retry: false` | SDKs do not try again, because it cannot help |
| `x-api-version` | `v1` |
| `Content-Type` | `text/event-stream; charset=utf-8` for streams, also when they fail later; else \
`application/json` |

With [`CORS_ORIGINS`](settings.md#cors_origins) a browser may read all of them.
"""

MODELS = """\
## Models

`GET /v1/models` and `GET /v1/models/{id}` are answered from memory at any time, for OpenAI's and
Anthropic's SDKs at once. A slash in an id is written `%2F`.

    {"object": "list", "has_more": false, "first_id": "NAME", "last_id": "NAME", "data": [
      {"id": "NAME", "object": "model", "created": 1800000000, "owned_by": "llama-gateway",
       "type": "model", "display_name": "NAME", "created_at": "2027-01-15T08:00:00Z"}]}
"""

ERRORS = """\
## Errors

Until the first event, a failure is a status with a JSON body. `code` is the word to program
against, `param` the place in the request, `hint` what to change, `retryable` whether the same
request may pass later. No error quotes a prompt, a key or the engine.
"""

RETRIES = f"""\
What a wait can cure has `Retry-After`, as far as the time is known; the rest, and what takes longer
than {RETRY_AFTER_MAX_S:.0f} s, has `x-should-retry: false`. In the table, "again?" is `retryable`;
a 429 may say otherwise where the request is larger than a whole limit.
"""

FRAMES = """\
### When a stream breaks

Once a stream has begun its status is 200 for good, so the error is its last event; no `[DONE]` and
no other end follows. SDKs raise from it.
"""
