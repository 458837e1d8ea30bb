"""Blobs travel once, whole, and verified."""

from __future__ import annotations

import hashlib
import os

import pytest

from mainspring.core.errors import ArchiveError, ArtifactError, IntegrityError
from mainspring.core.manifests import FileEntry, pack_manifest


def _digest(data):
    return hashlib.sha256(data).hexdigest()


def test_only_missing_blobs_are_sent_small_ones_packed_large_ones_alone(blob_client, blob_server, tmp_path):
    small, known, large = b"small", b"known", os.urandom(3 << 20)
    blob_server.held[_digest(known)] = known
    file = tmp_path / "large"
    file.write_bytes(large)
    sent = blob_client.blobs.upload({_digest(small): small, _digest(known): known, _digest(large): file})
    assert sent == len(small) + len(large)
    assert set(blob_server.held.values()) == {small, known, large}
    assert blob_server.requests == ["POST /blobs/missing", f"PUT /blobs/{_digest(large)}", "POST /blobs/pack"]
    assert blob_client.blobs.upload({_digest(small): small}) == 0


def test_a_folder_comes_back_as_it_was(blob_client, blob_server, tmp_path):
    files = {"a.txt": b"a", "deep/b.sh": b"b", "same.txt": b"a", "big.bin": os.urandom(2 << 20), "empty": b""}
    entries = [
        FileEntry(path=name, digest=_digest(data), size=len(data), mode=0o755 if name.endswith(".sh") else 0o644)
        for name, data in files.items()
    ]
    data, digest = pack_manifest(entries)
    blob_server.held = {digest: data, **{_digest(one): one for one in files.values()}}
    target = tmp_path / "out"
    blob_client.blobs.save_folder(digest, target)
    assert {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()} == files
    assert os.access(target / "deep/b.sh", os.X_OK)
    before = len(blob_server.requests)
    blob_client.blobs.save_folder(digest, target)
    assert blob_server.requests[before:] == [f"GET /blobs/{digest}"]


def test_what_has_travelled_is_told_while_it_does(blob_client, tmp_path):
    (tmp_path / "large").write_bytes(os.urandom((3 << 20) + 5))
    sources = {_digest(data := (tmp_path / "large").read_bytes()): tmp_path / "large", _digest(b"small"): b"small"}
    total, sent, fetched = len(data) + 5, [], []
    blob_client.blobs.upload(sources, progress=lambda *told: sent.append(told))
    assert sent == [(1 << 20, total), (2 << 20, total), (3 << 20, total), (len(data), total), (total, total)]
    blob_client.blobs.upload(sources, progress=lambda *told: sent.append(told))
    assert len(sent) == 5, "nothing was missing"
    entries = [FileEntry(path=name[:5], digest=name, size=total - 5 if name == _digest(data) else 5) for name in sources]
    manifest = blob_client.blobs.put(pack_manifest(entries)[0])
    blob_client.blobs.save_folder(manifest, tmp_path / "out", progress=lambda *told: fetched.append(told))
    assert fetched == [(5, total), (total, total)]


def test_a_part_that_is_sent_again_is_counted_once(scripted, reply, tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    digest, told = _digest((tmp_path / "large").read_bytes()), []
    scripted.answers = [reply(body={"missing": [digest]}), reply(503), reply(201, {})]
    scripted.client().blobs.upload({digest: tmp_path / "large"}, progress=lambda done, total: told.append(done >> 20))
    assert told == [1, 2, 3, 1, 2, 3]


def test_damaged_bytes_are_refused_and_leave_nothing(blob_client, blob_server, tmp_path):
    data = os.urandom(100)
    blob_server.held[_digest(data)] = data
    blob_server.lies = True
    with pytest.raises(IntegrityError):
        blob_client.blobs.get(_digest(data))
    with pytest.raises(IntegrityError):
        blob_client.blobs.save(_digest(data), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_hostile_manifest_is_refused(blob_client, blob_server, tmp_path):
    data = b'{"files":[{"digest":"' + b"0" * 64 + b'","mode":420,"path":"../evil","size":0}]}'
    blob_server.held[_digest(data)] = data
    with pytest.raises(ArchiveError):
        blob_client.blobs.save_folder(_digest(data), tmp_path / "out")


def test_a_link_in_the_target_is_not_written_through(blob_client, blob_server, tmp_path):
    content = b"x"
    data, digest = pack_manifest([FileEntry(path="link/evil", digest=_digest(content), size=1)])
    blob_server.held = {digest: data, _digest(content): content}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="outside"):
        blob_client.blobs.save_folder(digest, tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []
