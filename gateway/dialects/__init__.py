"""The dialects the API port speaks, by public path.

A route that is not here does not exist: nothing is forwarded by its own path.
"""

from gateway.dialects.base import (
    Assembler,
    Dialect,
    EngineCall,
    FieldPolicy,
    ModelFacts,
    ReplyHead,
    Translator,
)
from gateway.dialects.chat import CHAT_DIALECT
from gateway.dialects.completions import COMPLETIONS_DIALECT
from gateway.dialects.counting import CHAT_COUNT_DIALECT, CountCall, Counted, count_call
from gateway.dialects.embeddings import EMBEDDINGS_DIALECT
from gateway.dialects.messages import MESSAGES_COUNT_DIALECT, MESSAGES_DIALECT
from gateway.dialects.rerank import RERANK_DIALECT
from gateway.dialects.responses import RESPONSES_COUNT_DIALECT, RESPONSES_DIALECT

__all__ = [
    "DIALECTS",
    "Assembler",
    "CountCall",
    "Counted",
    "Dialect",
    "EngineCall",
    "FieldPolicy",
    "ModelFacts",
    "ReplyHead",
    "Translator",
    "count_call",
]

DIALECTS: dict[str, Dialect] = {
    dialect.path: dialect
    for dialect in (
        CHAT_DIALECT,
        COMPLETIONS_DIALECT,
        EMBEDDINGS_DIALECT,
        RERANK_DIALECT,
        CHAT_COUNT_DIALECT,
        RESPONSES_DIALECT,
        RESPONSES_COUNT_DIALECT,
        MESSAGES_DIALECT,
        MESSAGES_COUNT_DIALECT,
    )
}
