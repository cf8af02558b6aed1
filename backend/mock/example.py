"""PURE: a small JSON value that fits a JSON schema, always the same one."""

from typing import Any

_DEPTH_LIMIT = 16


def example(schema: object, root: object = None, depth: int = 0) -> Any:
    """Give a value that fits *schema*, as far as its plain keywords say; else null."""
    if not isinstance(schema, dict) or depth > _DEPTH_LIMIT:
        return None
    root = schema if root is None else root
    if "$ref" in schema:
        return example(_resolve(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return example(schema[word][0], root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: dict[str, Any], root: object, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: example(each, root, depth + 1) for name, each in properties.items()}
    if kind == "array":
        count = max(1, int(schema.get("minItems", 1)))
        return [example(schema.get("items", {}), root, depth + 1)] * count
    if kind == "string":
        return "word".ljust(int(schema.get("minLength", 0)), "x")
    return {"integer": schema.get("minimum", 7), "number": 1.5, "boolean": True}.get(str(kind))


def _resolve(pointer: str, root: object) -> object:
    found: Any = root
    for part in pointer.lstrip("#/").split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part) if part else found
    return found
