"""PURE: llama-server's JSON, with its key order. Checked against a real one by tests."""

from typing import Any

import orjson

Json = dict[str, Any]

BUILD = "b1-mock"
# Replies must not differ between two runs, and no caller looks at the date.
CREATED = 1_700_000_000
_MS_PER_PROMPT_TOKEN = 0.25
_MS_PER_TOKEN = 2.0

DONE = b"data: [DONE]\n\n"
OK = b'{"status":"ok"}'
LOADING = {"message": "Loading model", "type": "unavailable_error", "code": 503}
NOT_FOUND = {"message": "File Not Found", "type": "not_found_error", "code": 404}
BAD_KEY = {"message": "Invalid API Key", "type": "authentication_error", "code": 401}

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def error(status: int, message: str) -> Json:
    """An error object as handlers make it; the HTTP layer's own have another key order."""
    return {"code": status, "message": message, "type": _TYPES.get(status, "server_error")}


def context_error(prompt_tokens: int, context: int) -> Json:
    """The error for a prompt longer than a slot."""
    message = (
        f"request ({prompt_tokens} tokens) exceeds the available context size "
        f"({context} tokens), try increasing it"
    )
    return {
        "code": 400,
        "message": message,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": prompt_tokens,
        "n_ctx": context,
    }


def event(payload: object) -> bytes:
    """One SSE event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def timings(prompt: int, cached: int, predicted: int) -> Json:
    """Invented times that depend on the counts alone. Rates leave the first token out."""
    fresh = prompt - cached
    prompt_ms = fresh * _MS_PER_PROMPT_TOKEN
    predicted_ms = max(predicted - 1, 0) * _MS_PER_TOKEN
    return {
        "cache_n": cached,
        "prompt_n": fresh,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / fresh if fresh else 0.0,
        "prompt_per_second": 1000.0 / _MS_PER_PROMPT_TOKEN,
        "predicted_n": predicted,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _MS_PER_TOKEN if predicted > 1 else 0.0,
        "predicted_per_second": 1000.0 / _MS_PER_TOKEN if predicted > 1 else 0.0,
    }


def usage(prompt: int, cached: int, predicted: int) -> Json:
    """Counts of one choice, as OpenAI names them."""
    return {
        "completion_tokens": predicted,
        "prompt_tokens": prompt,
        "total_tokens": prompt + predicted,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def logprobs(token: str, top: int) -> Json:
    """Log probabilities of one token, with *top* alternatives (itself and fillers)."""
    entry = _entry(len(token), token, -0.5)
    others = [_entry(rank, f" t{rank}", -1.0 - rank) for rank in range(1, top)]
    return {"content": [{**entry, "top_logprobs": [entry, *others] if top else []}]}


def _entry(number: int, token: str, logprob: float) -> Json:
    return {"id": number, "token": token, "bytes": list(token.encode()), "logprob": logprob}


class ChatWire:
    """The shapes of one chat request."""

    object_name = "chat.completion.chunk"

    def __init__(self, reply_id: str, model: str) -> None:
        self._tail = {
            "created": CREATED,
            "id": reply_id,
            "model": model,
            "system_fingerprint": BUILD,
            "object": self.object_name,
        }
        self._tail_bytes = b"," + orjson.dumps(self._tail)[1:] + b"\n\n"

    def delta(self, index: int, delta: Json, probs: Json | None = None) -> bytes:
        """One chunk with a piece of the message."""
        choice: Json = {"finish_reason": None, "index": index, "delta": delta}
        if probs is not None:
            choice["logprobs"] = probs
        return b'data: {"choices":[' + orjson.dumps(choice) + b"]" + self._tail_bytes

    def role(self, index: int) -> bytes:
        """The opening chunk."""
        return self.delta(index, {"role": "assistant", "content": None})

    def token(self, index: int, piece: str, probs: Json | None = None) -> bytes:
        """One token of the answer."""
        return self.delta(index, {"content": piece}, probs)

    def progress(self, index: int, progress: Json) -> bytes:
        """One step of the prefill."""
        choice = {
            "finish_reason": None,
            "index": index,
            "delta": {"role": "assistant", "content": None},
        }
        return event({"choices": [choice], **self._tail, "prompt_progress": progress})

    def final(self, index: int, reason: str, counts: "Counts", *, with_usage: bool) -> bytes:
        """The end of one choice."""
        choice = {"finish_reason": reason, "index": index, "delta": {}}
        last: Json = {"choices": [choice], **self._tail}
        if not with_usage:
            return event({**last, "timings": counts.timings()})
        extra = {"choices": [], **self._tail, "usage": counts.usage(), "timings": counts.timings()}
        return event(last) + event(extra)

    def whole(self, choices: list[Json], counts: "Counts") -> Json:
        """The reply to a request that asked for no stream."""
        return {
            "choices": choices,
            "created": CREATED,
            "model": self._tail["model"],
            "system_fingerprint": BUILD,
            "object": "chat.completion",
            "usage": counts.usage(),
            "id": self._tail["id"],
            "timings": counts.timings(),
        }


class TextWire:
    """The shapes of one request to /v1/completions."""

    def __init__(self, reply_id: str, model: str) -> None:
        self._head = {
            "created": CREATED,
            "model": model,
            "system_fingerprint": BUILD,
            "object": "text_completion",
        }
        self._id = {"id": reply_id}
        self._tail_bytes = b"," + orjson.dumps({**self._head, **self._id})[1:] + b"\n\n"

    def token(self, index: int, piece: str, probs: Json | None = None) -> bytes:
        """One token of the answer."""
        choice = {"text": piece, "index": index, "logprobs": probs, "finish_reason": None}
        return b'data: {"choices":[' + orjson.dumps(choice) + b"]" + self._tail_bytes

    def role(self, index: int) -> bytes:
        """Completions have no opening chunk."""
        return b""

    def progress(self, index: int, progress: Json) -> bytes:
        """One step of the prefill."""
        choice = {"text": "", "index": index, "logprobs": None, "finish_reason": None}
        return event({"choices": [choice], **self._head, **self._id, "prompt_progress": progress})

    def final(self, index: int, reason: str, counts: "Counts", *, with_usage: bool) -> bytes:
        """The end of one choice; the counts are always in it."""
        choice = {"text": "", "index": index, "logprobs": None, "finish_reason": reason}
        return event(self.whole([choice], counts))

    def whole(self, choices: list[Json], counts: "Counts") -> Json:
        """The reply to a request that asked for no stream."""
        return {
            "choices": choices,
            **self._head,
            "usage": counts.usage(),
            **self._id,
            "timings": counts.timings(),
        }


class Counts:
    """Tokens of one choice."""

    __slots__ = ("cached", "predicted", "prompt")

    def __init__(self, prompt: int, cached: int, predicted: int) -> None:
        self.prompt = prompt
        self.cached = cached
        self.predicted = predicted

    def usage(self) -> Json:
        """As OpenAI reports it."""
        return usage(self.prompt, self.cached, self.predicted)

    def timings(self) -> Json:
        """As llama.cpp reports it."""
        return timings(self.prompt, self.cached, self.predicted)


def props(alias: str, slots: int, context: int, chat_template: str = "") -> Json:
    """What /props tells, as far as anyone reads it."""
    return {
        "default_generation_settings": {
            "params": {"seed": 4294967295, "temperature": 0.8, "max_tokens": -1, "n_predict": -1},
            "n_ctx": context,
        },
        "total_slots": slots,
        "model_alias": alias,
        "model_ftype": "F16",
        "model_path": "/mock/model.gguf",
        "modalities": {"vision": False, "video": False, "audio": False},
        "media_marker": "<__media__>",
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": False,
        "ui": False,
        "ui_settings": {},
        "chat_template": chat_template,
        "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": BUILD,
        "is_sleeping": False,
        "cors_proxy_enabled": False,
    }


def models(alias: str, context: int) -> Json:
    """What /v1/models tells."""
    meta = {
        "vocab_type": 2,
        "n_vocab": 410,
        "n_ctx": context,
        "n_ctx_train": 8192,
        "n_embd": 64,
        "n_params": 126528,
        "size": 253696,
        "ftype": "F16",
    }
    one = {
        "id": alias,
        "aliases": [alias],
        "tags": [],
        "object": "model",
        "created": CREATED,
        "owned_by": "llamacpp",
        "meta": meta,
    }
    other = {"name": alias, "model": alias, "type": "model", "capabilities": ["completion"]}
    return {"models": [other], "object": "list", "data": [one]}
