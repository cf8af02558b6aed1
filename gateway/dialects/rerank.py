"""POST /v1/rerank: documents in order of relevance to a query (Jina's and Cohere's shape)."""

from __future__ import annotations

from typing import Any

from gateway.dialects.base import Dialect, EngineCall, FieldPolicy, ModelFacts
from gateway.dialects.common import check_model, plain_call
from gateway.errors import ApiError
from gateway.request.fields import Fate, Table, sift
from gateway.request.fields.kinds import AnyValue, Integer, wrong_type, wrong_value
from gateway.request.fields.rows import INT64_MAX, MODEL, same_fate, translated

__all__ = ["RERANK", "RERANK_DIALECT", "build"]

_PATH = "/v1/rerank"
MAX_DOCUMENTS = 256

RERANK = Table(
    "rerank",
    [
        MODEL,
        translated("query", AnyValue("a string"), "Required, not empty."),
        translated(
            "documents",
            AnyValue(f"a list of 1 to {MAX_DOCUMENTS} strings, or objects with a `text`"),
            "Required.",
        ),
        translated("top_n", Integer(1, INT64_MAX), "At most as many as there are documents."),
        *same_fate(Fate.DROP_NAMED, "return_documents max_chunks_per_doc max_tokens_per_doc"),
        *same_fate(Fate.DROP, "user"),
    ],
)


def build(body: dict[str, Any], facts: ModelFacts, policy: FieldPolicy) -> EngineCall:
    """
    Make the engine's rerank request.

    Raises:
        ApiError: 400 or 404, with the exact field; `not_supported_by_model` unless the engine was
            started for reranking.
    """
    sifted = sift(body, RERANK, facts, policy)
    check_model(sifted.translate, facts)
    if not facts.rerank:
        raise ApiError(
            "not_supported_by_model",
            "The model that is loaded does not rerank.",
            hint="The operator has to start the engine for reranking.",
        )
    documents = _documents(sifted.translate.get("documents"))
    out = {
        "model": facts.alias,
        "query": _query(sifted.translate.get("query")),
        "documents": documents,
        **sifted.forward,
    }
    if "top_n" in sifted.translate:
        out["top_n"] = min(sifted.translate["top_n"], len(documents))
    return plain_call(_PATH, out, len(documents), sifted)


def _documents(documents: Any) -> list[str]:
    if documents is None:
        raise ApiError("missing_parameter", "'documents' is required.", param="documents")
    if not isinstance(documents, list):
        raise wrong_type("documents", "a list of texts")
    if not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise wrong_value("documents", f"a list of 1 to {MAX_DOCUMENTS} texts")
    return [_document(value, f"documents[{at}]") for at, value in enumerate(documents)]


def _document(document: Any, param: str) -> str:
    if isinstance(document, dict):
        return _text(document.get("text"), f"{param}.text")
    return _text(document, param)


def _text(text: Any, param: str) -> str:
    if text is None:
        raise ApiError("missing_parameter", f"'{param}' is required.", param=param)
    if not isinstance(text, str):
        raise wrong_type(param, "a string")
    return text


def _query(query: Any) -> str:
    text = _text(query, "query")
    if not text:
        raise wrong_value("query", "a string with something in it")
    return text


_DOC = """\
Documents in order of their relevance to a query. The shape is Jina's and Cohere's. Needs an engine
that was started for reranking; any other answers 400 `not_supported_by_model`. The reply tells
places in the list (`index`), never the texts.
"""

RERANK_DIALECT = Dialect("rerank", _PATH, RERANK, build, doc=_DOC)
