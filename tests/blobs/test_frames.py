"""Frames: what goes in comes out however the stream is cut, and no limit can be talked past."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.blobs import decode_frames, encode_frames
from mainspring.core.errors import ArchiveError, TooLargeError

blobs = st.lists(st.binary(max_size=300), max_size=8)


def pairs(contents: list[bytes]) -> list[tuple[str, bytes]]:
    return [(hashlib.sha256(data).hexdigest(), data) for data in contents]


@pytest.mark.property
@given(blobs, st.integers(1, 97))
def test_frames_survive_any_cut(contents: list[bytes], size: int) -> None:
    body = b"".join(encode_frames(pairs(contents)))
    cuts = [body[start : start + size] for start in range(0, len(body), size)]
    assert list(decode_frames(cuts)) == pairs(contents)


@pytest.mark.property
@given(blobs.filter(bool), st.data())
def test_a_truncated_body_is_refused_or_ends_between_frames(contents: list[bytes], data: st.DataObject) -> None:
    body = b"".join(encode_frames(pairs(contents)))
    end = data.draw(st.integers(0, len(body) - 1))
    ends = {0}
    for content in contents:
        ends.add(max(ends) + 40 + len(content))
    if end in ends:
        assert list(decode_frames([body[:end]])) == pairs(contents)[: sorted(ends).index(end)]
    else:
        with pytest.raises(ArchiveError):
            list(decode_frames([body[:end]]))


def test_a_frame_over_the_limit_is_refused_by_its_head_alone() -> None:
    head = bytes(32) + (2**63).to_bytes(8, "big")
    with pytest.raises(TooLargeError):
        list(decode_frames([head]))
    frames = b"".join(encode_frames(pairs([b"a" * 10] * 3)))
    for limits in ({"max_frame_bytes": 9}, {"max_total_bytes": 29}, {"max_frames": 2}):
        with pytest.raises(TooLargeError):
            list(decode_frames([frames], **limits))
    assert len(list(decode_frames([frames], max_frame_bytes=10, max_total_bytes=30, max_frames=3))) == 3
