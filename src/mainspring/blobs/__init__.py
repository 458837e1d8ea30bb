"""Content-addressed objects: the only door to object storage."""

from mainspring.blobs.frames import decode_frames, encode_frames
from mainspring.blobs.garbage import Collected
from mainspring.blobs.store import BlobStore

__all__ = ["BlobStore", "Collected", "decode_frames", "encode_frames"]
