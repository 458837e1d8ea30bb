"""Bodies of requests: read with a limit while they arrive, unzipped with the same limit, turned into records strictly."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from anyio import from_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mainspring.core import codec
from mainspring.core.errors import SpecError, TooLargeError, UsageError

T = TypeVar("T")
MAX_JSON_BYTES = 12_000_000
MAX_DEPTH = 64
INLINE_BYTES = 32_768  # decoding more than this would hold up the event loop for longer than a hop to a thread costs
_BIGGEST = 2**63 - 1


def body_of(cls: type[T], *, default: T | None = None) -> Callable[[Request], Awaitable[T]]:
    """Return the dependency that reads the request's JSON as a `cls`; an empty body is `default`, where there is one.

    The dependency raises SpecError, TooLargeError, UsageError.
    """

    async def read(request: Request) -> T:
        data = await read_body(request)
        if not data and default is not None:
            return default
        return to_record(data, cls) if len(data) <= INLINE_BYTES else await run_in_threadpool(to_record, data, cls)

    return read


async def read_body(request: Request, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the body, unzipped; TooLargeError as soon as it is over `limit`, in flight or unpacked."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "", "gzip"):
        raise UsageError(f"Content-Encoding {coding[:40]!r} is not understood.", hint="gzip, or none.")
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said[:20]) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    unzip = zlib.decompressobj(wbits=31) if coding == "gzip" else None
    async for chunk in request.stream():
        part = chunk if unzip is None else _unzipped(unzip, chunk, limit - size + 1)
        size += len(part)
        if size > limit or (unzip is not None and unzip.unconsumed_tail):
            raise _too_large(limit)
        parts.append(part)
    if unzip is not None and not unzip.eof:
        raise UsageError("The gzip stream ends too early.", hint="Send it again.")
    return b"".join(parts)


def to_record(data: bytes, cls: type[T]) -> T:
    """Return the `cls` that JSON `data` describes. Raises SpecError, also for what no column of a database holds."""
    plain = codec.decode_any(data)
    _check_plain(plain)
    return codec.from_plain(plain, cls)


def chunks_of(request: Request) -> Iterator[bytes]:
    """Yield the raw body as it arrives, for a function that runs in a worker thread. Raises ClientDisconnect."""
    stream = request.stream()

    async def take(chunks: AsyncIterator[bytes]) -> bytes | None:
        return await anext(chunks, None)

    while (chunk := from_thread.run(take, stream)) is not None:
        if chunk:
            yield chunk


def _unzipped(unzip: zlib._Decompress, chunk: bytes, most: int) -> bytes:
    try:
        return unzip.decompress(chunk, max(1, most))
    except zlib.error as wrong:
        raise UsageError(f"The body is not gzip: {wrong}.", hint="Send it without Content-Encoding.") from wrong


def _check_plain(plain: object) -> None:
    """Raise SpecError for values that JSON has and records must not: NUL characters, huge numbers, towers of brackets."""
    waiting: list[tuple[object, int]] = [(plain, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise SpecError(f"The JSON is nested more than {MAX_DEPTH} deep.", hint="Put large values into a file.")
        if isinstance(value, dict):
            waiting += [(one, depth + 1) for pair in value.items() for one in pair]
        elif isinstance(value, list):
            waiting += [(one, depth + 1) for one in value]
        elif isinstance(value, str):
            if "\x00" in value:
                raise SpecError("A text holds a NUL character.", hint="Remove it.")
        elif isinstance(value, int) and not -_BIGGEST <= value <= _BIGGEST:
            raise SpecError(f"{str(value)[:40]} is more than 64 bits hold.", hint="Write it as a text.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise SpecError(f"{value} is not a number that can be kept.", hint="Write it as a text.")


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The body is over the limit of {limit:,} bytes.",
        hint="Put large values into a file or a data set.",
        details={"limit": limit},
    )
