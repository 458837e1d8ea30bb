"""The replica as an ASGI application: one function, one table of routes, no framework on the way of a prediction.

A fast model runs inline on the event loop: a thread would cost more than the model. A slow one, or a large request, goes
through `batching.py`. Every refusal is `{"error": {code, message, hint, details}}`; what the model raises never leaves the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import numpy as np

from mainspring.core.errors import MainspringError, NotFoundError, ServerError, TooLargeError, UsageError
from mainspring.serving.batching import Batcher
from mainspring.serving.counters import Counters
from mainspring.serving.inference import EXTENSIONS, metadata_of, read_infer, write_infer
from mainspring.serving.models import NUMPY_OF, Model, Tensors
from mainspring.serving.records import MAX_ROWS, predictions_of, reader_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[bytes], Awaitable[object]]

MAX_BODY_BYTES = 16 << 20
INLINE_ROWS = 64
INLINE_S = 0.001
_JSON = [(b"content-type", b"application/json")]
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


def build_app(model: Model, *, version: str = "") -> App:
    """Return the application that serves `model`; it holds no state but its counters."""
    counters = Counters(model.name)
    batcher = Batcher(model.run)
    read_records, to_predictions = reader_of(model), predictions_of(model)
    is_fast = _seconds_for_one(model) < INLINE_S

    async def run(tensors: Tensors) -> dict[str, Any]:
        rows = len(next(iter(tensors.values())))
        counters.rows += rows
        try:
            if is_fast and rows <= INLINE_ROWS:
                return model.run(tensors)
            return await batcher.run(tensors)
        except MainspringError:
            raise
        except Exception as wrong:  # the model is somebody's code: its traceback is for the log
            _log.exception("the model failed", extra={"model": model.name, "rows": rows})
            raise ServerError(
                "The model failed on this request.",
                hint="The replica's log has the story.",
                details={"kind": type(wrong).__name__},
            ) from wrong

    async def predict(body: bytes) -> object:
        return {"predictions": to_predictions(await run(read_records(body)))}

    async def infer(body: bytes) -> object:
        request, tensors = read_infer(body, model)
        return write_infer(request, await run(tensors), model)

    posts: dict[str, Handler] = {"/predict": predict, f"/v2/models/{model.name}/infer": infer}
    gets: dict[str, object] = {
        "/v2": {"name": "mainspring", "version": version, "extensions": list(EXTENSIONS)},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        f"/v2/models/{model.name}": metadata_of(model),
        f"/v2/models/{model.name}/ready": {"name": model.name, "ready": True},
        "/schema": _schema(model),
    }
    return _application(posts, gets, counters)


def _application(posts: dict[str, Handler], gets: dict[str, object], counters: Counters) -> App:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        path: str = scope["path"]
        if len(path) > 1 and path[-1] == "/":
            path = path[:-1]
        kind = "application/json"
        status = 200
        try:
            handler = posts.get(path)
            if handler is not None and scope["method"] == "POST":
                body = _encode(await handler(await _read_body(scope, receive)))
            elif path == "/metrics" and scope["method"] in ("GET", "HEAD"):
                body, kind = counters.text().encode(), "text"
            elif path in gets and scope["method"] in ("GET", "HEAD"):
                body = _encode(gets[path])
            else:
                status, body = _refuse(path, handler is not None or path in gets or path == "/metrics", str(scope["method"]))
        except _OtherTypeError as wrong:
            status, body = 415, _encode(wrong.to_wire())
        except MainspringError as wrong:
            status, body = wrong.http_status, _encode(wrong.to_wire())
        headers = [*(_TEXT if kind == "text" else _JSON), (b"content-length", b"%d" % len(body))]
        if status in (413, 415):  # the rest of the body was not read: this connection cannot go on
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        counters.count(path if path in posts or path in gets else "other", status, time.perf_counter() - started)

    return application


class _OtherTypeError(UsageError):
    """The body is not declared to be JSON (415)."""


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Return the body. Raises TooLargeError as soon as it is known to be, and UsageError for another content type."""
    for name, value in scope["headers"]:
        if name == b"content-type" and not value.lower().startswith((b"application/json", b"text/json")):
            raise _OtherTypeError(
                f"The body is {value[:60].decode('latin-1')!r}, not JSON.", hint="Send the header Content-Type: application/json."
            )
        if name == b"inference-header-content-length":
            raise _OtherTypeError("Binary tensors are not part of this version.", hint="Send the tensors as JSON.")
        if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY_BYTES:
            await _discard(receive)
            raise _too_large(int(value))
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(len(body))
        return body
    held = bytearray(body)
    while message.get("more_body", False):
        message = await receive()
        held += message.get("body", b"")
        if len(held) > MAX_BODY_BYTES:
            await _discard(receive)
            raise _too_large(len(held))
    return bytes(held)


async def _discard(receive: Receive) -> None:
    """Read on for a while: a client that is still sending would see a reset instead of the answer."""
    left = 4 * MAX_BODY_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b"")) or 1
        if not message.get("more_body", False):
            return


def _refuse(path: str, is_known: bool, method: str) -> tuple[int, bytes]:
    if is_known:
        wrong: MainspringError = UsageError(f"{method} is not how {path!r} is asked.", hint="Predictions are POST, the rest GET.")
        return 405, _encode(wrong.to_wire())
    wrong = NotFoundError(f"There is nothing at {path[:200]!r}.", hint="See /schema, /predict, /v2, /metrics.")
    return 404, _encode(wrong.to_wire())


def _too_large(size: int) -> TooLargeError:
    return TooLargeError(
        f"The body has {size:,} bytes; the limit is {MAX_BODY_BYTES:,}.",
        hint="Send the records in several requests.",
        details={"size": size, "limit": MAX_BODY_BYTES},
    )


def _schema(model: Model) -> dict[str, object]:
    return {
        "model": model.name,
        "version": model.version,
        "format": model.format,
        "fields": [
            {"name": one.name, "datatype": one.datatype, "width": one.width, "optional": one.is_optional}
            for one in model.features
        ],
        "prediction": {"label": "class", "probability": "of the positive class"} if model.is_classifier else "number",
        "verification": dict(model.verification),
        "limits": {"records": MAX_ROWS, "body_bytes": MAX_BODY_BYTES},
    }


def _seconds_for_one(model: Model) -> float:
    """Return how long one row takes, the best of five; infinite where zeros may not be a valid row."""
    if model.format != "onnx" or any(one.datatype == "BYTES" for one in model.inputs):
        return float("inf")
    row = {
        one.name: np.zeros([1 if size == -1 else size for size in one.shape], dtype=NUMPY_OF[one.datatype])
        for one in model.inputs
    }
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        model.run(row)
        best = min(best, time.perf_counter() - started)
    return best
