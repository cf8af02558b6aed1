"""PURE. A cheap upper bound of a prompt's tokens, good enough for most decisions.

A token of a byte-level vocabulary stands for at least one byte of text, and JSON never writes text
with fewer bytes than it has. What the engine adds by itself (the template's own words, a default
system prompt) is covered by an allowance for each prompt. The bound is loose, often three to six
times the truth; near a limit the engine has to be asked.
"""

from __future__ import annotations

__all__ = ["TEMPLATE_TOKENS", "upper_tokens"]

TEMPLATE_TOKENS = 512
"""What a chat template may add to one prompt beyond the text of the request."""


def upper_tokens(body_bytes: int, prompts: int, context_tokens: int, *, media: bool = False) -> int:
    """The most prompt tokens that a request can have.

    Args:
        body_bytes: Length of the JSON body, with all prompts in it.
        prompts: Prompts in the request, at least 1.
        context_tokens: The most tokens the engine takes for one prompt, at least 1.
        media: Whether it holds pictures or sound: their tokens do not follow from their bytes.
    """
    most = prompts * context_tokens
    loose = body_bytes + prompts * TEMPLATE_TOKENS
    return most if media or loose > most else loose
