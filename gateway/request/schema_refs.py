"""References inside a JSON schema, found and followed as the engine does it."""

from __future__ import annotations

from typing import Any

from gateway.request.schema_values import SchemaError

__all__ = ["References"]

MAX_REFERENCE_CHARS = 512
MAX_CHAIN = 64
"""References that lead to references, and unions inside unions."""
MAX_UNION_VISITS = 20_000


class References:
    """The references of one schema."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._visits = 0

    def resolve(self, reference: Any) -> dict[str, Any]:
        """
        The schema that *reference* names; no escapes are undone, as the engine undoes none.

        Raises:
            SchemaError: It leads out of the schema, or to nothing, or to what is no schema.
        """
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise SchemaError("may hold references into itself only, such as '#/$defs/name'")
        if len(reference) > MAX_REFERENCE_CHARS:
            raise SchemaError("has a reference that is too long")
        holder: Any = None
        key: Any = None
        value: Any = self._root
        for part in reference[2:].split("/"):
            holder = value
            if isinstance(value, dict) and part in value:
                key = part
            elif isinstance(value, list) and _is_index(part) and int(part) < len(value):
                key = int(part)
            else:
                raise SchemaError("has a reference to something that is not there")
            value = holder[key]
        if value is True:
            value = holder[key] = {}
        if not isinstance(value, dict):
            raise SchemaError("has a reference to something that is no schema")
        return value

    def chase(self, node: dict[str, Any]) -> dict[str, Any]:
        """
        The first schema on the way from *node* that is no reference.

        Raises:
            SchemaError: There is none: in an ``allOf`` the engine would follow it for ever.
        """
        for _ in range(MAX_CHAIN):
            if "$ref" not in node:
                return node
            node = self.resolve(node["$ref"])
        raise SchemaError("has a reference that leads to itself or through too many others")

    def check_union(self, node: dict[str, Any]) -> None:
        """
        Count the ways through alternatives of alternatives.

        Told apart by path, as by the engine: two references to the same union at each of forty
        levels are 2**40 ways, although the schema is short.

        Raises:
            SchemaError: There are too many.
        """
        self._union(node, frozenset(), 0)

    def _union(self, node: Any, open_references: frozenset[str], depth: int) -> None:
        self._visits += 1
        if self._visits > MAX_UNION_VISITS or depth > MAX_CHAIN:
            raise SchemaError("has too many alternatives inside alternatives")
        if not isinstance(node, dict):
            return
        reference = node.get("$ref")
        if reference is not None:
            target = self.resolve(reference)
            if reference not in open_references:
                self._union(target, open_references | {reference}, depth + 1)
            return
        for key in ("oneOf", "anyOf", "allOf"):
            alternatives = node.get(key)
            if isinstance(alternatives, list):
                for alternative in alternatives:
                    self._union(alternative, open_references, depth + 1)
                return


def _is_index(text: str) -> bool:
    """Digits only, written in one way: else one schema could be followed under many names."""
    return text.isascii() and text.isdigit() and len(text) < 6 and (text == "0" or text[0] != "0")
