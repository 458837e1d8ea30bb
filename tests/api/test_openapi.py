"""The OpenAPI document is whole and true: every reference resolves, every route is in it, and no input it allows breaks us."""

from __future__ import annotations

import json
import re

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from mainspring.core import codec
from mainspring.core.records import Run

BUDGET = 600


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_whole(world):
    document = world.client().get("/openapi.json").json()
    for reference in set(references(document)):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    assert len(document["paths"]) > 50
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "default" in operation["responses"], (method, path)
            assert "422" not in operation["responses"], (method, path)
    submit = document["paths"]["/api/v1/runs"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/RunSpec"}
    assert document["components"]["schemas"]["RunSpec"]["additionalProperties"] is False


def test_nothing_is_loaded_from_elsewhere(world):
    for path in ("/docs", "/redoc"):
        assert world.client().get(f"http://127.0.0.1:8765{path}").status_code == 404
    text = json.dumps(world.app.openapi())
    assert not re.findall(r"https?://[^\"']+", text)


def test_answers_are_the_records(world):
    run = codec.decode(world.client().post("/runs", json={"command": ["true"]}).content, Run)
    assert run.owner == "ada"
    assert codec.decode(world.client().get(f"/runs/{run.id}").content, Run) == run


@pytest.mark.property
def test_no_allowed_input_makes_the_server_fail(world):
    world.submit(name="known")
    schema = schemathesis.openapi.from_asgi(
        "/api/v1/openapi.json", world.app, headers={"Authorization": f"Bearer {world.admin}", "Host": "127.0.0.1"}
    )
    operations = [found.ok() for found in schema.get_all_operations()]
    slow = {"/api/v1/changes", "/api/v1/shutdown", "/api/v1/backup", "/api/v1/runs/{ref}/logs/follow", "/api/v1/runs/{ref}/wait"}
    chosen = [one for one in operations if one.path not in slow]
    assert len(chosen) > 60
    headers = {"Authorization": f"Bearer {world.admin}", "Host": "127.0.0.1"}
    examples = max(1, BUDGET // len(chosen))

    for operation in chosen:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def attack(case):
            case.call_and_validate(headers=headers, checks=[not_a_server_error])

        attack()
