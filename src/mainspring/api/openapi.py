"""The OpenAPI document: FastAPI tells addresses and parameters, the routes' shapes tell bodies, `core` tells the records."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from mainspring.api.answers import Shape, shape_of
from mainspring.settings import VERSION

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "hint": {"type": "string"},
                "details": {"type": "object"},
            },
        }
    },
}


def install_openapi(app: FastAPI) -> None:
    """Let `app.openapi()` return our document, made at the first question."""
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = _make(app)
    return app.openapi_schema


def _make(app: FastAPI) -> dict[str, Any]:
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    document: dict[str, Any] = get_openapi(
        title="Mainspring",
        version=VERSION,
        routes=routes,
        summary="One fair queue over every machine a team owns.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    shapes = [(route, shape_of(route.endpoint)) for route in routes if route.include_in_schema]
    types = {one for _, shape in shapes for one in (shape.takes, shape.gives) if one is not None}
    ordered = sorted(types, key=str)
    refs, schemas = msgspec.json.schema_components(ordered, schema_hook=_any_json, ref_template=_REF)
    by_type = dict(zip(ordered, refs, strict=True))
    for route, shape in shapes:
        for method in route.methods or ():
            _describe(document["paths"][route.path_format][method.lower()], shape, by_type)
    components = document.setdefault("components", {})
    asked = {name: schema for name, schema in components.get("schemas", {}).items() if "ValidationError" not in name}
    ours = {name: _closed(schema) for name, schema in schemas.items()}
    components["schemas"] = dict(sorted({**asked, **ours, "Error": _ERROR}.items()))
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    return document


def _describe(operation: dict[str, Any], shape: Shape, refs: dict[Any, dict[str, Any]]) -> None:
    if shape.takes is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": refs[shape.takes]}}}
    elif shape.takes_bytes:
        operation["requestBody"] = {
            "required": True,
            "content": {shape.takes_bytes: {"schema": {"type": "string", "format": "binary"}}},
        }
    good: dict[str, Any] = {"description": "Done."}
    if shape.gives_bytes:
        good["content"] = {shape.gives_bytes: {"schema": {"type": "string", "format": "binary"}}}
    elif shape.gives is not None:
        good["content"] = {_JSON: {"schema": _many(refs[shape.gives], shape)}}
    elif shape.status != 204:
        good["content"] = {_JSON: {"schema": {}}}
    operation["responses"] = {
        str(shape.status): good,
        "default": {"description": "What went wrong.", "content": {_JSON: {"schema": {"$ref": _REF.format(name="Error")}}}},
    }


def _any_json(cls: type) -> dict[str, Any]:
    if cls is not object:
        raise TypeError(f"{cls} has no JSON schema")
    return {"description": "Any JSON value."}


def _many(one: dict[str, Any], shape: Shape) -> dict[str, Any]:
    rows = {"type": "array", "items": one}
    if shape.is_page:
        total = {"cursor": {"type": "string"}, "total": {"type": "integer"}}
        return {"type": "object", "required": ["items", "cursor", "total"], "properties": {"items": rows, **total}}
    return rows if shape.is_list else one


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Say that unknown fields are refused, as `core.codec` does."""
    return {**schema, "additionalProperties": False} if "properties" in schema else schema
