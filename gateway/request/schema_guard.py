"""JSON schemas from clients, before the engine turns them into a grammar.

The engine's converter recurses without a bound, follows every ``$ref``, and takes time that grows
with the square of an object's optional properties; some schemas end the process. So its walk is
repeated here, keyword by keyword in the same order and with the same multiplicity, and whatever
it would refuse, explode on or overflow at is a 400 with the place.

Put right on the way, because honest clients send it (the schema is changed in place): ``null``
keywords are absent, the schema ``true`` is ``{}``, counts written ``5.0`` are integers.

Not judged: keywords that the converter ignores (``not``, ``if``, ``patternProperties``, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.errors import ApiError
from gateway.request.fields.table import printable
from gateway.request.schema_refs import References
from gateway.request.schema_values import (
    SchemaError,
    check_array,
    check_integer,
    check_string,
    tidy,
)

__all__ = ["DOC", "SchemaBudget", "check_schema"]

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
"""Schemas inside each other, as written."""
MAX_WALK_DEPTH = 64
"""Schemas inside each other with references followed: what the engine's stack has to hold."""
MAX_PROPERTIES = 512
MAX_ALTERNATIVES = 1000
MAX_NAME_CHARS = 128
MAX_PATH_CHARS = 160

_TYPES = {"null", "boolean", "number", "integer", "string", "array", "object"}
DOC = f"""\
A schema becomes a grammar, so the answer cannot leave it; `strict` makes no difference. An answer
that hits its token limit is cut in the middle of its JSON, and says so in its finish reason. With
tools beside it the schema wins: no tool is called, unless `tool_choice` says that one must be. The
engine has no grammar for an answer in the templates of Kimi K2 and K3, Ling 3, GigaChat 3 and
Functionary 3.2: there a schema is a wish.

One schema has at most {MAX_BYTES >> 10} KiB, {MAX_DEPTH} levels, {MAX_PROPERTIES} properties in
all, and {MAX_ALTERNATIVES} enum values and members of `anyOf` and its like; property names have at
most {MAX_NAME_CHARS} characters. References lead into the schema itself (`#/$defs/...`). What the
engine's converter would choke on (very long repetitions, costly patterns, references that explode)
is 400 with the place. Keywords it has no use for (`not`, `if`, `patternProperties`, ...) are not
enforced.
"""

# They end up in a character class of the grammar, where these have a meaning of their own.
_CLASS_CHARACTERS = frozenset("]\\^\x00")


@dataclass(slots=True)
class SchemaBudget:
    """What is left for the schemas that share it."""

    properties: int
    alternatives: int
    """Enum values, constants and members of anyOf and its like."""
    nodes: int
    """Schemas visited, each as often as the engine does."""
    work: int
    """Characters of rule names written, the engine's measure of time."""

    @classmethod
    def for_one(cls) -> SchemaBudget:
        """For a schema that stands alone."""
        return cls(MAX_PROPERTIES, MAX_ALTERNATIVES, nodes=4096, work=6_000_000)

    @classmethod
    def for_tools(cls) -> SchemaBudget:
        """For all tools of a request together."""
        return cls(2048, 4096, nodes=8192, work=8_000_000)


def check_schema(schema: Any, param: str, budget: SchemaBudget | None = None) -> dict[str, Any]:
    """
    Check one schema, and change it where the engine would stumble over a spelling.

    Args:
        schema: The schema, as parsed.
        param: Where it stands in the request.
        budget: Shared with other schemas of the request; one of its own without.

    Returns:
        The schema to send.

    Raises:
        ApiError: 400 `invalid_value` with the place.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ApiError("invalid_type", f"'{param}' must be a JSON schema.", param=param)
    try:
        size_bytes = len(orjson.dumps(schema))
    except TypeError:  # deeper than the serializer goes
        size_bytes = MAX_BYTES + 1
    if size_bytes > MAX_BYTES:
        raise ApiError(
            "invalid_value",
            f"A schema may be {MAX_BYTES >> 10} KiB long and {MAX_DEPTH} levels deep.",
            param=param,
        )
    _Walk(schema, param, budget or SchemaBudget.for_one()).run()
    return schema


class _Walk:
    """One walk over one schema, as the engine's converter does it."""

    def __init__(self, root: dict[str, Any], param: str, budget: SchemaBudget) -> None:
        self._root = root
        self._param = param
        self._left = budget
        self._properties = 0
        self._alternatives = 0
        self._depth = 0
        self._name_chars = 0
        self._path: list[str] = []
        self._followed: set[str] = set()
        self._references = References(root)

    def run(self) -> None:
        self._node(self._root, 0)

    # -- errors

    def _bad(self, what: str) -> ApiError:
        place = ".".join([self._param, *(printable(part) for part in self._path)])
        return ApiError("invalid_value", f"The schema {what}.", param=place[:MAX_PATH_CHARS])

    def _judge(self, check: Callable[[Any], Any], value: Any) -> Any:
        try:
            return check(value)
        except SchemaError as exc:
            raise self._bad(str(exc)) from None

    # -- the walk

    def _node(self, node: dict[str, Any], written: int, as_type: str | None = None) -> None:
        """
        Visit a schema. The order of the questions is the converter's:

        1. a reference; 2. alternatives; 3. several types; 4. constants; 5. one type, or what the
        other keywords make of it.
        """
        self._left.nodes -= 1
        if self._left.nodes < 0:
            raise self._bad("is too large once its references and alternatives are followed")
        if self._depth > MAX_WALK_DEPTH or written > MAX_DEPTH:
            raise self._bad(f"is nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        try:
            if as_type is None:
                tidy(node)
            self._questions(node, written, as_type)
        finally:
            self._depth -= 1

    def _questions(self, node: dict[str, Any], written: int, as_type: str | None) -> None:
        if "$ref" in node:  # 1
            self._reference(node)
            return
        for key in ("oneOf", "anyOf"):  # 2
            if key in node:
                self._list(node, key, written)
                return
        kind = node.get("type") if as_type is None else as_type
        if isinstance(kind, list):  # 3
            self._types(node, kind, written)
            return
        if "const" in node:  # 4
            self._take_alternatives(1)
            return
        if "enum" in node:
            self._enum(node["enum"])
            return
        self._typed(node, None if kind == "" else kind, written)  # 5

    def _typed(self, node: dict[str, Any], kind: Any, written: int) -> None:
        if kind is not None and (not isinstance(kind, str) or kind not in _TYPES):
            raise self._bad("has a type that JSON schema does not know")
        extra = node.get("additionalProperties", True)
        has_properties = "properties" in node or extra is not True
        if kind == "object" or (kind is None and has_properties):
            if "allOf" in node and not has_properties:
                self._all_of(node, written)
            else:
                self._object(node, written)
        elif kind in (None, "string") and "allOf" in node:
            self._all_of(node, written)
        elif kind == "array" or (kind is None and ("items" in node or "prefixItems" in node)):
            self._array(node, written)
        elif kind in (None, "string"):
            self._judge(check_string, node)
        elif kind == "integer":
            self._judge(check_integer, node)

    def _step(self, key: str, node: Any, written: int, name_chars: int) -> None:
        """Visit a schema below this one; *name_chars* is what it adds to rule names."""
        self._path.append(key)
        self._name_chars += name_chars
        self._left.work -= self._name_chars
        if self._left.work < 0:
            raise self._bad("has too many optional properties or too long names")
        if not isinstance(node, dict):
            raise self._bad("has a part that is no schema")
        self._node(node, written + 1)
        self._name_chars -= name_chars
        self._path.pop()

    # -- composition

    def _list(self, node: dict[str, Any], key: str, written: int) -> None:
        schemas = node[key]
        if not isinstance(schemas, list) or not schemas:
            raise self._bad(f"has '{key}' that is no list of schemas")
        self._take_alternatives(len(schemas))
        for index, schema in enumerate(schemas):
            if schema is True:
                schema = schemas[index] = {}
            self._step(f"{key}[{index}]", schema, written, 8)
        self._judge(self._references.check_union, node)

    def _all_of(self, node: dict[str, Any], written: int) -> None:
        """
        Visit the parts of an allOf, and once more the objects that its references lead to.

        The converter writes their properties into one object, here and each time: it does not
        notice when that leads round in a circle.
        """
        self._list(node, "allOf", written)
        for part in node["allOf"]:
            inner = part.get("oneOf", part.get("anyOf"))
            for component in inner if isinstance(inner, list) else [part]:
                if "$ref" in component:
                    target = self._judge(self._references.chase, component)
                    if "properties" in target:
                        self._path.append("allOf")
                        self._object(target, written + 1)
                        self._path.pop()

    def _types(self, node: dict[str, Any], kinds: list[Any], written: int) -> None:
        # Each listed type is a copy of the whole schema to the engine, repeated ones included.
        names = [kind for kind in kinds if isinstance(kind, str)]
        if not names or len(set(names)) != len(kinds):
            raise self._bad("has a list of types that is empty or repeats one")
        for name in names:
            self._node(node, written, as_type=name)

    def _enum(self, values: Any) -> None:
        if not isinstance(values, list) or not values:
            raise self._bad("has an empty enum")
        self._take_alternatives(len(values))

    def _take_alternatives(self, count: int) -> None:
        """Alternatives at one place cost the engine their square, wherever they come from."""
        self._alternatives += count
        self._left.alternatives -= count
        if self._left.alternatives < 0 or self._alternatives > MAX_ALTERNATIVES:
            raise self._bad(f"has more than {MAX_ALTERNATIVES} enum values and alternatives")

    # -- references

    def _reference(self, node: dict[str, Any]) -> None:
        reference = node["$ref"]
        target: dict[str, Any] = self._judge(self._references.resolve, reference)
        self._judge(self._references.chase, target)
        if reference in self._followed:
            return
        self._followed.add(reference)
        name_chars, self._name_chars = self._name_chars, len(reference) + 3
        self._step(reference, target, 0, 0)
        self._name_chars = name_chars

    # -- values

    def _object(self, node: dict[str, Any], written: int) -> None:
        properties = node.get("properties", {})
        if not isinstance(properties, dict):
            raise self._bad("has 'properties' that are no object")
        self._properties += len(properties)
        self._left.properties -= len(properties)
        if self._left.properties < 0 or self._properties > MAX_PROPERTIES:
            raise self._bad(f"has more than {MAX_PROPERTIES} properties")
        extra = node.get("additionalProperties")
        if extra not in (None, True, False) and not isinstance(extra, dict):
            raise self._bad("has 'additionalProperties' that are neither a boolean nor a schema")
        open_ended = extra is True or isinstance(extra, dict)
        for name, schema in properties.items():
            self._check_name(name, open_ended)
            if schema is True:
                schema = properties[name] = {}
            self._step(name, schema, written, len(name) + 1)
        self._count_optional(node, properties, open_ended)
        if isinstance(extra, dict):
            self._step("additionalProperties", extra, written, 16)

    def _check_name(self, name: str, open_ended: bool) -> None:
        if len(name) > MAX_NAME_CHARS:
            raise self._bad(f"has a property name longer than {MAX_NAME_CHARS} characters")
        if open_ended and not _CLASS_CHARACTERS.isdisjoint(name):
            raise self._bad("has a property name that cannot be combined with others unnamed")

    def _count_optional(
        self, node: dict[str, Any], properties: dict[str, Any], open_ended: bool
    ) -> None:
        """Each optional property starts a rule with all that follow it: half the square."""
        required = node.get("required")
        listed = required if isinstance(required, list) else ()
        named = {name for name in listed if isinstance(name, str)}
        optional = [name for name in properties if name not in named]
        count = len(optional) + open_ended
        names_chars = sum(map(len, optional)) + count * (self._name_chars + 16)
        self._left.work -= count * names_chars // 2
        if self._left.work < 0:
            raise self._bad("has too many optional properties or too long names")

    def _array(self, node: dict[str, Any], written: int) -> None:
        key = "items" if "items" in node else "prefixItems"
        items = node.get(key)
        if isinstance(items, list):
            for index, item in enumerate(items):
                if item is True:
                    item = items[index] = {}
                self._step(f"{key}[{index}]", item, written, 9)
            return
        if items is not None:
            self._step(key, items, written, 5)
        self._judge(check_array, node)
