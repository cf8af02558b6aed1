"""POST /v1/embeddings: texts or tokens into vectors."""

from __future__ import annotations

from typing import Any

from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.dialects.common import check_model, plain_call, texts_or_tokens
from gateway.errors import ApiError
from gateway.request.fields import Fate, Table, sift
from gateway.request.fields.kinds import AnyValue, Integer, OneOf, wrong_value
from gateway.request.fields.rows import INT64_MAX, MODEL, forwarded, same_fate, translated

__all__ = ["EMBEDDINGS", "EMBEDDINGS_DIALECT", "build"]

_PATH = "/v1/embeddings"
MAX_INPUTS = 64

EMBEDDINGS = Table(
    "embeddings",
    [
        MODEL,
        translated(
            "input",
            AnyValue(f"a string, a list of token ids, or a list of at most {MAX_INPUTS} of either"),
            "Required, and nothing in it is empty. Token ids are those of the loaded model.",
        ),
        forwarded("encoding_format", OneOf(("float", "base64")), "`float` if absent."),
        translated("dimensions", Integer(1, INT64_MAX), "Only the model's own length; else 400."),
        *same_fate(Fate.DROP, "user"),
    ],
)


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's embeddings request.

    Raises:
        ApiError: 400 or 404, with the exact field; `not_supported_by_model` unless the engine was
            started for embeddings (its own 501 would be retried by SDKs).
    """
    sifted = sift(body, EMBEDDINGS, facts, policy)
    translate = sifted.translate
    check_model(translate, facts)
    if not facts.embeddings:
        raise ApiError(
            "not_supported_by_model",
            "The model that is loaded makes no embeddings.",
            hint="The operator has to start the engine for embeddings.",
        )
    value, inputs = texts_or_tokens(
        translate.get("input"), "input", facts, max_items=MAX_INPUTS, empty_text=False
    )
    if "dimensions" in translate:
        _check_dimensions(translate["dimensions"], facts)
    out = {"model": facts.alias, "input": value, **sifted.forward}
    return plain_call(_PATH, out, inputs, sifted)


def _check_dimensions(dimensions: int, facts: ModelFacts) -> None:
    """The engine would ignore it and send vectors of another length."""
    if dimensions == facts.embedding_size:
        return
    if facts.embedding_size is None:
        raise wrong_value("dimensions", "absent: this model's vectors have one length only")
    raise wrong_value("dimensions", f"{facts.embedding_size}, the length of this model's vectors")


_DOC = """\
Texts or tokens into vectors. Needs an engine that was started for embeddings; any other answers
400 `not_supported_by_model`.
A client that cuts texts into OpenAI's tokens itself (langchain does, unless told otherwise) sends
ids that mean something else to the loaded model: let it send text.
"""

EMBEDDINGS_DIALECT = Dialect("embeddings", _PATH, EMBEDDINGS, build, doc=_DOC)
