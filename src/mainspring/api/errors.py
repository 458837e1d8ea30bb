"""Errors on the wire: one shape for all of them, `{"error": {code, message, hint, details}}`, and never a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mainspring.core import codec
from mainspring.core.errors import MainspringError, NotFoundError, SpecError, UsageError

_AUTH_STATUS = 401


def answer_error(wrong: MainspringError) -> Response:
    """Return the answer that tells `wrong`."""
    headers = {"WWW-Authenticate": "Bearer"} if wrong.http_status == _AUTH_STATUS else {}
    if isinstance(again_s := wrong.details.get("retry_after_s"), int):
        headers["Retry-After"] = str(again_s)
    return Response(codec.encode(wrong.to_wire()), status_code=wrong.http_status, headers=headers, media_type="application/json")


def install_errors(app: FastAPI) -> None:
    """Let `app` answer our errors, FastAPI's and Starlette's in the one shape."""
    app.add_exception_handler(MainspringError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer_ours(request: Request, wrong: Exception) -> Response:
    del request
    if not isinstance(wrong, MainspringError):
        raise wrong
    return answer_error(wrong)


async def _answer_invalid(request: Request, wrong: Exception) -> Response:
    del request
    if not isinstance(wrong, RequestValidationError):
        raise wrong
    return answer_error(_explained(wrong.errors()))


def _explained(found: Sequence[Any]) -> SpecError:
    first = found[0]
    path = ".".join(str(part) for part in first["loc"][1:])
    return SpecError(f"{path} is wrong: {first['msg']}.", hint="See the REST reference.", details={"path": path})


async def _answer_http(request: Request, wrong: Exception) -> Response:
    if not isinstance(wrong, HTTPException):
        raise wrong
    if wrong.status_code == 404:
        return answer_error(NotFoundError(f"There is nothing at {request.url.path[:200]}.", hint="See /api/v1/openapi.json."))
    answer = answer_error(UsageError(f"{request.method} {request.url.path[:200]}: {wrong.detail}."))
    answer.status_code = wrong.status_code
    for name, value in (wrong.headers or {}).items():
        answer.headers[name] = value
    return answer
