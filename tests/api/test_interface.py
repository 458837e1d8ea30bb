"""What the interface promises under one protocol number: an older client must understand a newer server, and the reverse.

`interface-N.json` holds the routes and records of protocol N. What is new beside it is written there by
`WRITE_INTERFACE=1 .venv/bin/python -m pytest -n0 tests/api/test_interface.py`; what is gone or has changed needs another number.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mainspring.client import transport
from mainspring.core.beats import PROTOCOL

HERE = Path(__file__).parent
GOLDEN = HERE / f"interface-{PROTOCOL}.json"
WRITE = "WRITE_INTERFACE=1 .venv/bin/python -m pytest -n0 tests/api/test_interface.py"
NEW_NUMBER = f"""The interface of protocol {PROTOCOL} has changed in a way that another version does not understand:
{{changes}}
Do one of these:
- keep what was there (a new field beside the old one, with a default) and run this test again, or
- raise PROTOCOL in src/mainspring/core/beats.py, in src/mainspring/client/transport.py and in the runner, remove
  tests/api/{GOLDEN.name}, and write the new one: {WRITE}"""
NEW_LINES = f"""The interface of protocol {PROTOCOL} has grown:
{{changes}}
Would a client and a server without this still understand one with it? (A value that is new in an enum of an answer is one
that older clients refuse.) Then write it down: {WRITE}
Else raise PROTOCOL in src/mainspring/core/beats.py."""
Interface = dict[str, dict[str, str]]


def test_the_interface_is_that_of_its_protocol_number(world: Any) -> None:
    now = interface(world.app.openapi())
    before: Interface | None = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else None
    broken = broken_by(before, now) if before is not None else []
    assert not broken, NEW_NUMBER.format(changes=listed(broken))
    if os.environ.get("WRITE_INTERFACE"):
        GOLDEN.write_text("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(now[name])}" for name in sorted(now)) + "\n}\n")
        return
    assert before is not None, f"The interface of protocol {PROTOCOL} is not written down: {WRITE}"
    assert before == now, NEW_LINES.format(changes=listed(sorted(lines(now) ^ lines(before))))


def test_one_number_is_spoken_by_all() -> None:
    assert str(PROTOCOL) == transport.PROTOCOL
    assert [one.name for one in HERE.glob("interface-*.json")] == [GOLDEN.name]


def test_what_another_version_would_not_understand_is_told_from_what_is_only_new(world: Any) -> None:
    document = world.app.openapi()
    before = interface(document)

    def after(change: Any) -> tuple[list[str], bool]:
        changed = copy.deepcopy(document)
        change(changed["paths"], changed["components"]["schemas"])
        now = interface(changed)
        return broken_by(before, now), now != before

    def text(schemas: Any, record: str, field: str, kind: str = "string") -> None:
        schemas[record]["properties"][field] = {"type": kind}

    broken, _ = after(lambda paths, _: paths.pop("/api/v1/runs/{ref}/why"))
    assert broken == ["GET /runs/{ref}/why is gone"]
    broken, _ = after(lambda paths, _: paths["/api/v1/runs"]["get"]["parameters"].pop(0))
    assert broken == ["GET /runs: ?project is gone"]
    broken, _ = after(lambda _, schemas: schemas["Run"]["properties"].pop("owner"))
    assert broken == ["Run: owner is gone"]
    broken, _ = after(lambda _, schemas: text(schemas, "Run", "owner", "integer"))
    assert broken == ["Run: owner was string! and is integer!"]
    broken, _ = after(lambda _, schemas: schemas["RunState"]["enum"].remove("failed"))
    assert broken == ["RunState: =failed is gone"]
    broken, _ = after(lambda _, schemas: (text(schemas, "RunSpec", "mood"), schemas["RunSpec"].update(required=["mood"])))
    assert "RunSpec: mood is new, and an older client does not send it" in broken
    broken, _ = after(lambda _, schemas: schemas["Run"]["required"].remove("owner"))
    assert broken == ["Run: owner was string! and is string"]
    for change in (
        lambda _, schemas: text(schemas, "RunSpec", "mood"),
        lambda _, schemas: (text(schemas, "Run", "mood"), schemas["Run"]["required"].append("mood")),
        lambda _, schemas: schemas["RunState"]["enum"].append("musing"),
        lambda paths, _: paths.update({"/api/v1/moods": {"get": paths["/api/v1/status"]["get"]}}),
    ):
        assert after(change) == ([], True)
    assert after(lambda paths, _: paths["/api/v1/runs"]["get"].update(description="Other words.")) == ([], False)


def test_the_message_says_what_to_do() -> None:
    told = NEW_NUMBER.format(changes=listed(["Run: owner is gone"]))
    assert "- Run: owner is gone" in told
    assert "raise PROTOCOL" in told
    assert WRITE in told


def interface(document: Mapping[str, Any]) -> Interface:
    """Return what matters to the other side: routes with their parameters and bodies, records with their fields and values.

    A `!` behind a type: it is always there. A record that a request holds is marked `<`, for what is new there must be left
    out by older clients.
    """
    found: Interface = {}
    taken: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            route = found[f"{method.upper()} {path.removeprefix('/api/v1')}"] = {}
            for one in operation.get("parameters", ()):
                mark = {"query": "?", "header": "#"}.get(one["in"], "/")
                route[mark + one["name"]] = kind(one["schema"]) + ("!" if one.get("required") else "")
            for media, body in operation.get("requestBody", {}).get("content", {}).items():
                route["takes"] = f"{media} {kind(body['schema'])}"
                taken |= set(references(body["schema"], document["components"]["schemas"]))
            for status, answer in operation["responses"].items():
                for media, body in answer.get("content", {}).items():
                    route[f"gives {status}"] = f"{media} {kind(body['schema'])}"
    for name, schema in document["components"]["schemas"].items():
        always = set(schema.get("required", ()))
        fields = {field: kind(one) + ("!" if field in always else "") for field, one in schema.get("properties", {}).items()}
        fields |= {f"={value}": "value" for value in schema.get("enum", ())}
        found[name] = fields | ({"<": "taken"} if name in taken else {})
    return {name: dict(sorted(fields.items())) for name, fields in found.items()}


def kind(schema: Mapping[str, Any]) -> str:
    """Return a type in words, without its limits and defaults."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    several = [kind(one) for word in ("anyOf", "oneOf", "allOf") for one in schema.get(word, ())]
    if several:
        return " or ".join(dict.fromkeys(several))
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "items" in schema:
        return f"list of {kind(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {kind(schema['additionalProperties'])}"
    if schema.get("prefixItems"):
        return "(" + ", ".join(kind(one) for one in schema["prefixItems"]) + ")"
    inner = {name: kind(one) for name, one in schema.get("properties", {}).items()}
    return json.dumps(inner, sort_keys=True) if inner else str(schema.get("type", "any"))


def references(schema: Any, schemas: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the records that a schema leads to."""
    if isinstance(schema, Mapping):
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name and name not in seen:
            yield name
            yield from references(schemas[name], schemas, seen | {name})
        for inner in schema.values():
            yield from references(inner, schemas, seen)
    elif isinstance(schema, list):
        for inner in schema:
            yield from references(inner, schemas, seen)


def broken_by(before: Interface, now: Interface) -> list[str]:
    """Return what a client or a server of before would not understand, in sentences."""
    found = []
    for name, fields in before.items():
        if name not in now:
            found.append(f"{name} is gone")
            continue
        is_taken = "<" in now[name] or " " in name  # a record of requests, or a route
        for field, was in fields.items():
            there = now[name].get(field)
            if there is None and field != "<":
                found.append(f"{name}: {field} is gone")
            elif there is not None and there != was and not (there == was.rstrip("!") and is_taken):
                is_stricter = there == was + "!"
                if not is_stricter or is_taken:
                    found.append(f"{name}: {field} was {was} and is {there}")
        new = [field for field in now[name].keys() - fields.keys() if now[name][field].endswith("!") and is_taken]
        found += [f"{name}: {field} is new, and an older client does not send it" for field in new]
    return sorted(found)


def lines(told: Interface) -> set[str]:
    """Return an interface as lines."""
    return {f"{name}: {field} {what}" for name, fields in told.items() for field, what in {"": "", **fields}.items()}


def listed(changes: list[str]) -> str:
    """Return changes as a list for people."""
    return "\n".join(f"- {one}" for one in changes)
