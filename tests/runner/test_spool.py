"""Streams: offsets stay exact over holes, lines stay whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring.runner.folder import Folder
from mainspring.runner.spool import SAFE_BYTES, Stream, marker


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An attempt's folder."""
    made = Folder(str(tmp_path))
    made.make()
    return made


def _drain(stream: Stream, limit: int) -> bytes:
    found = b""
    while data := stream.read(len(found), limit):
        found += data
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 4000), max_size=6), limit=st.integers(1, 3000), stop=st.integers(0, 20000))
def test_a_log_with_holes_reads_the_same_in_any_pieces(folder: Folder, sizes: list[int], limit: int, stop: int) -> None:
    text = bytes(n % 251 for n in range(40_000))  # more than the sizes and holes below can be
    Path(folder.log).write_bytes(text)
    stream = Stream(folder, "log")
    place, wanted, holes = 0, b"", []
    for size in sizes:
        wanted += text[place : place + size] + marker(size // 2 + 1)
        holes.append([place + size, place + size + size // 2 + 1])
        place = holes[-1][1]
    wanted += text[place:]
    stream._holes = holes
    assert stream.size() == len(wanted)
    assert stream.read(stop, limit) == wanted[stop : stop + limit]
    assert _drain(stream, max(limit, 700)) == wanted


def test_thinning_again_grows_the_hole_and_never_touches_what_may_have_been_sent(folder: Folder) -> None:
    log, stream = Path(folder.log), Stream(folder, "log")
    log.write_bytes(b"a" * (24 << 20))
    sent = stream.read(0, SAFE_BYTES)
    first = stream.thin(12 << 20)
    assert first > 0
    assert stream.thin(12 << 20) == 0
    assert stream.read(0, SAFE_BYTES) == sent
    with log.open("ab") as file:
        file.write(b"b" * (16 << 20))
    assert stream.thin(12 << 20) > 0
    again = Stream(folder, "log")
    whole = again.read(0, 1 << 30)
    assert again.size() == len(whole) == stream.size()
    assert whole.count(b"[mainspring:") == 1
    assert whole.startswith(sent)
    assert whole.endswith(b"b" * (5 << 20))
    assert log.stat().st_blocks * 512 < 20 << 20


@pytest.mark.parametrize(
    ("tail", "kept"), [(b'["b", 1]', b'["a", 1]\n["b", 1]\n'), (b'["b", ', b'["a", 1]\n'), (b"", b'["a", 1]\n')]
)
def test_a_stream_of_lines_ends_with_a_line(folder: Folder, tail: bytes, kept: bytes) -> None:
    Path(folder.spool, "metrics").write_bytes(b'["a", 1]\n' + tail)
    stream = Stream(folder, "metrics")
    assert stream.read(0, 1000) == b'["a", 1]\n'
    stream.seal()
    assert stream.read(0, 1000) == kept
