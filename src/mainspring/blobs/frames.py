"""Many blobs in one body: a frame is 32 bytes of raw sha256, 8 bytes of big-endian length, then the bytes themselves.

Spoken on `POST /blobs/pack` and `POST /blobs/fetch`. Digests are not checked here: `BlobStore.put_many` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mainspring.core.errors import ArchiveError, TooLargeError

HEAD_BYTES = 40
MAX_FRAME_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_FRAMES = 100_000


def encode_frames(blobs: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the frames of (digest in hex, bytes), in order, in pieces fit for a socket."""
    for digest, data in blobs:
        yield bytes.fromhex(digest) + len(data).to_bytes(8, "big")
        if data:
            yield data


def decode_frames(
    stream: Iterable[bytes],
    *,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    max_frames: int = MAX_FRAMES,
) -> Iterator[tuple[str, bytes]]:
    """Yield (digest in hex, bytes) of each frame as soon as it is complete; the stream may be cut anywhere.

    Holds one frame in memory. Raises TooLargeError before a frame over a limit is read, ArchiveError for a truncated end.
    """
    held = bytearray()
    total = frames = 0
    for piece in stream:
        held += piece
        start = 0
        while len(held) - start >= HEAD_BYTES:
            size = int.from_bytes(held[start + 32 : start + HEAD_BYTES], "big")
            _within("A frame", size, max_frame_bytes)
            _within("The body", total + size, max_total_bytes)
            end = start + HEAD_BYTES + size
            if len(held) < end:
                break
            total, frames = total + size, frames + 1
            _within("The number of frames", frames, max_frames)
            yield held[start : start + 32].hex(), bytes(held[start + HEAD_BYTES : end])
            start = end
        del held[:start]
    if held:
        raise ArchiveError("The body ends in the middle of a frame.", hint="Send it again.", details={"frames": frames})


def _within(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise TooLargeError(
            f"{what} is {value:,}; the limit is {limit:,}.",
            hint="Send large blobs one by one and small ones in several bodies.",
            details={"size": value, "limit": limit},
        )
