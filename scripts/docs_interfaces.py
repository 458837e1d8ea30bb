"""Write the pages of the command line and of the REST interface from the programs themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from mainspring.api.app import build_api
from mainspring.cli.dispatch import build_app
from mainspring.services.context import Context

CLI_INTRODUCTION = """# Command line

Every command has `--help` with examples, and `--json` for programs. `RUN` is an id, a beginning or an end of one that only one
run has, or the name given with `--name` (its newest run). What stands after `--` belongs to the script.
[Exit codes](exit-codes.md) are documented; `MAINSPRING_HOME` chooses the home folder, and `MAINSPRING_DEBUG=1` shows tracebacks,
which are never printed otherwise.

"""
REST_INTRODUCTION = """# REST interface

The prefix is `/api/v1`; every request needs `Authorization: Bearer TOKEN`. Errors are described on [their page](errors.md). The
OpenAPI document is served at `/api/v1/openapi.json`. What the routes have in common (versions, pages, idempotency keys, streams)
is in [REST, route by route](../internals/rest.md).

"""
METHODS = ("get", "post", "put", "patch", "delete")


def command_line_page() -> str:
    """Return the page of commands, from the cyclopts application."""
    text = build_app().generate_docs(output_format="markdown", heading_level=1, max_heading_level=4, usage_name="mainspring")
    return CLI_INTRODUCTION + _body(text)


def _body(text: str) -> str:
    """Return cyclopts' text without its own title and table of contents: the page has both."""
    lines = text.splitlines()
    if "## Table of Contents" in lines:
        start = lines.index("## Table of Contents")
        stop = next(number for number in range(start + 1, len(lines)) if lines[number] and not lines[number].startswith("- "))
        del lines[start:stop]
    while lines and (not lines[0].strip() or lines[0].startswith("# ")):
        lines.pop(0)
    return "\n".join(lines) + "\n"


def rest_page() -> str:
    """Return the page of routes, from the OpenAPI document."""
    nothing = cast("Context", None)  # the document is about routes: nothing is asked, so nothing has to be there
    document: Mapping[str, Any] = build_api(nothing).openapi()
    groups: dict[str, list[str]] = {}
    for path, operations in sorted(document["paths"].items()):
        noun = path.removeprefix("/api/v1/").split("/")[0] or "/"
        for method in METHODS:
            if method in operations:
                groups.setdefault(noun, []).extend(_route(path, method, operations[method]))
    lines = [line for noun in sorted(groups) for line in (f"## {noun}", "", *groups[noun])]
    lines += ["## Records", "", *_schemas(document.get("components", {}).get("schemas", {}))]
    return REST_INTRODUCTION + "\n".join(lines) + "\n"


def _route(path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    lines = [f"### `{method.upper()} {path}`", ""]
    about = operation.get("description") or operation.get("summary") or ""
    if about:
        lines += [about.strip().replace("\n", " "), ""]
    told = [
        f"| `{one['name']}` | {one['in']} | {_kind(one.get('schema', {}))} | {'yes' if one.get('required') else ''} |"
        for one in operation.get("parameters", [])
    ]
    if told:
        lines += ["| parameter | in | type | required |", "|---|---|---|---|", *told, ""]
    takes = _content(operation.get("requestBody", {}))
    gives = [(code, _content(answer)) for code, answer in operation.get("responses", {}).items() if code != "default"]
    if takes:
        lines += [f"Takes {takes}.", ""]
    if gives:
        lines += ["; ".join(f"{code}: {kind or 'no body'}" for code, kind in gives) + ".", ""]
    return lines


def _content(part: Mapping[str, Any]) -> str:
    for media, described in part.get("content", {}).items():
        kind = _kind(described.get("schema", {}))
        return kind if media == "application/json" else f"`{media}`"
    return ""


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield from (f"### {name}", "")
        if schema.get("description"):
            yield from (schema["description"].split("\n\n")[0].replace("\n", " "), "")
        if "enum" in schema:
            yield from ("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".", "")
        if schema.get("properties"):
            required = set(schema.get("required", ()))
            yield from ("| field | type | required |", "|---|---|---|")
            yield from (
                f"| `{key}` | {_kind(value)} | {'yes' if key in required else ''} |"
                for key, value in schema["properties"].items()
            )
            yield ""


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a type as people write it, with links to the records below."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower().replace('.', '')})"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[word]))
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"list of {_kind(items)}" if isinstance(items, Mapping) else "list"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {_kind(schema['additionalProperties'])}"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any value")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)
