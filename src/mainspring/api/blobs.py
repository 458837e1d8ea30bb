"""Routes of blobs: what is missing, up and down one by one or many in one body. Digests are checked as bytes arrive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from mainspring.api.answers import PREFIX, answer, shaped
from mainspring.api.auth import Carrier, Ctx, Reader
from mainspring.api.bodies import body_of, chunks_of
from mainspring.blobs import decode_frames, encode_frames
from mainspring.core.errors import TooLargeError, UsageError
from mainspring.core.manifests import is_digest
from mainspring.services.context import Context

router = APIRouter(prefix=PREFIX, tags=["blobs"])
MAX_DIGESTS = 100_000
BATCH_BYTES = 16 << 20
URL_S = 3600.0
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Which blobs: sha256 in lower-case hex."""

    digests: tuple[str, ...]


DigestsBody = Annotated[Digests, Depends(body_of(Digests))]


@router.post("/blobs/missing")
@shaped(takes=Digests)
def missing(ctx: Ctx, actor: Reader, body: DigestsBody) -> Response:
    """Return which of the blobs are not here yet."""
    del actor
    return answer({"missing": ctx.blobs.missing(_checked(body))})


@router.post("/blobs/pack")
@shaped(takes_bytes=_BYTES)
def pack(request: Request, ctx: Ctx, actor: Carrier) -> Response:
    """Store many small blobs: frames of 32 bytes of sha256, 8 bytes of big-endian length, and the bytes."""
    del actor
    _no_coding(request)
    stored = 0
    for batch in _batches(decode_frames(chunks_of(request))):
        ctx.blobs.put_many(batch)
        stored += len(batch)
    return answer({"stored": stored})


@router.post("/blobs/fetch")
@shaped(takes=Digests, gives_bytes=_BYTES)
def fetch(ctx: Ctx, actor: Reader, body: DigestsBody) -> Response:
    """Return many blobs as frames, in the order asked."""
    del actor
    digests = _checked(body)
    for digest in digests:
        ctx.blobs.size(digest)  # NotFoundError now, while there still is a status to tell it
    return StreamingResponse(encode_frames((digest, ctx.blobs.get(digest)) for digest in digests), media_type=_BYTES)


@router.put("/blobs/{digest}", status_code=201)
@shaped(takes_bytes=_BYTES, status=201)
def put(request: Request, ctx: Ctx, actor: Carrier, digest: str) -> Response:
    """Store one blob of any size; 200 when it was here already. Nothing is stored of a truncated or lying upload."""
    del actor
    _no_coding(request)
    _check_digest(digest)
    is_new = ctx.blobs.put(digest, chunks_of(request))
    return answer({"digest": digest}, status=201 if is_new else 200)


@router.get("/blobs/{digest}")
@shaped(gives_bytes=_BYTES)
def get(ctx: Ctx, actor: Reader, digest: str) -> Response:
    """Return one blob, or send to where the object store hands it out."""
    del actor
    _check_digest(digest)
    size = ctx.blobs.size(digest)
    url = ctx.blobs.signed_url(digest, URL_S)
    if url is not None:
        return RedirectResponse(url, status_code=307, headers={"Cache-Control": "no-store"})
    return StreamingResponse(_checked_start(ctx, digest), media_type=_BYTES, headers={"Content-Length": str(size)})


def _checked_start(ctx: Context, digest: str) -> Iterator[bytes]:
    """Return the blob's chunks; the first is read at once, so that a damaged small blob is an error and not a torn answer."""
    chunks = iter(ctx.blobs.stream(digest))
    first = next(chunks, b"")
    second = next(chunks, None)  # a blob of one chunk is verified when its end is reached

    def rest() -> Iterator[bytes]:
        yield first
        if second is not None:
            yield second
            yield from chunks

    return rest()


def _batches(frames: Iterator[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    size = 0
    for digest, data in frames:
        batch.append((digest, data))
        size += len(data)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _checked(body: Digests) -> tuple[str, ...]:
    if len(body.digests) > MAX_DIGESTS:
        raise TooLargeError(
            f"{len(body.digests):,} digests are over the limit of {MAX_DIGESTS:,}.", hint="Ask in several bodies."
        )
    for digest in body.digests:
        _check_digest(digest)
    return body.digests


def _check_digest(digest: str) -> None:
    if not is_digest(digest):
        raise UsageError(f"{digest[:80]!r} is not a sha256 digest.", hint="64 characters of 0-9 and a-f.")


def _no_coding(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise UsageError("Blobs travel as they are, without Content-Encoding.")
