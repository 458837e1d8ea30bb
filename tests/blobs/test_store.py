"""What a blob store promises, on disk and on a real S3 server."""

from __future__ import annotations

import hashlib
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.blobs import BlobStore
from mainspring.core.codec import encode
from mainspring.core.errors import (
    ArchiveError,
    ConflictError,
    CredentialsError,
    IntegrityError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from mainspring.core.manifests import FileEntry, Manifest, pack_manifest


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


BIG = bytes(range(256)) * 12_000  # 3 MB: several chunks


def pieces(data: bytes, size: int = 700_000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def iter_into(seen: bytearray, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield `chunks`, and remember in `seen` what came before an error."""
    for chunk in chunks:
        seen += chunk
        yield chunk


@pytest.mark.parametrize("data", [b"", b"x", b"\x00" * 70_000, BIG], ids=["empty", "one", "zeros", "big"])
def test_what_was_put_is_what_comes_back(home, store: BlobStore, data: bytes) -> None:
    digest = sha(data)
    assert store.put(digest, data) is True
    assert store.put(digest, data) is False
    for opened in (store, home.open()):
        assert opened.get(digest) == data
        assert b"".join(opened.stream(digest)) == data
        assert opened.size(digest) == len(data)
        assert opened.has(digest)


def test_a_stream_is_kept_like_bytes(home, store: BlobStore) -> None:
    assert store.put(sha(BIG), pieces(BIG)) is True
    assert store.put(sha(BIG), pieces(BIG)) is False
    assert home.open().get(sha(BIG)) == BIG
    assert not list((home.folder if home.is_s3 else Path(home.url)).glob("incoming/*"))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_lying_digest_leaves_nothing(home, store: BlobStore, is_streamed: bool) -> None:
    lie = sha(b"another")
    with pytest.raises(IntegrityError) as wrong:
        store.put(lie, pieces(BIG) if is_streamed else BIG)
    assert wrong.value.details == {"expected": lie, "actual": sha(BIG)}
    assert not store.has(lie)
    assert home.listing() == []


def test_a_lie_about_a_blob_that_is_here_is_told_too(store: BlobStore) -> None:
    digest = store.put_bytes(b"true")
    for data in (b"false", iter([b"fal", b"se"])):
        with pytest.raises(IntegrityError):
            store.put(digest, data)
    assert store.get(digest) == b"true"


def test_an_upload_that_breaks_off_leaves_nothing(home, store: BlobStore) -> None:
    def breaks() -> Iterator[bytes]:
        yield BIG[:1_000_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(sha(BIG), breaks())
    assert home.listing() == []
    assert not list(home.folder.glob("incoming/*"))
    assert store.missing([sha(BIG)]) == [sha(BIG)]


def test_many_small_ones_are_one_object(home, store: BlobStore) -> None:
    blobs = [(sha(data), data) for data in (str(number).encode() for number in range(500))]
    large = (sha(BIG), BIG)
    assert store.put_many([*blobs, large, blobs[0]]) == 501
    assert store.put_many([*blobs, large]) == 0
    assert [key.partition("/")[0] for key in home.listing()] == ["objects", "packs"]
    again = home.open()
    assert [again.get(digest) for digest, _ in blobs] == [data for _, data in blobs]
    assert b"".join(again.stream(blobs[3][0])) == b"3"
    assert again.size(blobs[499][0]) == 3
    assert again.missing([blobs[0][0], sha(b"no"), large[0], sha(b"no")]) == [sha(b"no")]


def test_one_liar_among_many_stops_all(home, store: BlobStore) -> None:
    with pytest.raises(IntegrityError):
        store.put_many([(sha(b"a"), b"a"), (sha(b"b"), b"c")])
    assert home.listing() == []


def test_stores_over_one_place_see_each_other(home) -> None:
    one, other = home.open(), home.open()
    one.put_many([(sha(b"a"), b"a"), (sha(b"b"), b"b")])
    loose = one.put_bytes(b"c")
    assert other.missing([sha(b"a"), loose]) == []
    assert other.get(sha(b"b")) == b"b"


def test_a_missing_blob_is_not_found(store: BlobStore) -> None:
    absent = sha(b"absent")
    for ask in (store.get, store.size, lambda digest: list(store.stream(digest))):
        with pytest.raises(NotFoundError):
            ask(absent)
    assert not store.has(absent)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "g" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_no_digest_is_refused(store: BlobStore, digest: str) -> None:
    for ask in (store.get, store.size, store.has, lambda one: list(store.stream(one)), lambda one: store.put(one, b"")):
        with pytest.raises(UsageError):
            ask(digest)


def test_damage_is_found_kept_aside_and_mended_by_uploading_again(home, store: BlobStore) -> None:
    digest = store.put_bytes(BIG)
    [key] = home.listing()
    home.overwrite(key, BIG[:-1] + b"?")
    with pytest.raises(IntegrityError):
        store.get(digest)
    assert f"quarantine/{digest}" in home.listing()
    assert store.missing([digest]) == [digest]
    assert store.put(digest, BIG) is True
    assert store.get(digest) == BIG


def test_damage_in_a_stream_is_found_before_its_end(home, store: BlobStore) -> None:
    digest = store.put_bytes(BIG)
    [key] = home.listing()
    home.overwrite(key, BIG[:-1] + b"?")
    seen = bytearray()
    with pytest.raises(IntegrityError):
        seen.extend(b"".join(iter_into(seen, store.stream(digest))))
    assert 0 < len(seen) < len(BIG)
    assert not store.has(digest)


def test_damage_in_a_pack_spares_its_neighbours(home, store: BlobStore) -> None:
    blobs = [(sha(data), data) for data in (b"first" * 100, b"second" * 100, b"third" * 100)]
    store.put_many(blobs)
    [key] = home.listing()
    home.overwrite(key, home.read(key).replace(b"second" * 100, b"sEcond" * 100))
    opened = home.open()
    with pytest.raises(IntegrityError):
        opened.get(blobs[1][0])
    for reader in (opened, home.open()):
        assert [reader.get(digest) for digest, _ in (blobs[0], blobs[2])] == [blobs[0][1], blobs[2][1]]
        assert reader.missing([blobs[1][0]]) == [blobs[1][0]]
    assert opened.put(*blobs[1]) is True
    assert home.open().get(blobs[1][0]) == blobs[1][1]


def test_a_pack_with_a_damaged_header_is_left_alone(home, store: BlobStore) -> None:
    store.put_many([(sha(b"a"), b"a"), (sha(b"b"), b"b")])
    [key] = home.listing()
    home.overwrite(key, b"junk")
    opened = home.open()
    assert opened.missing([sha(b"a")]) == [sha(b"a")]
    assert opened.put(sha(b"a"), b"a") is True
    assert opened.get(sha(b"a")) == b"a"


def test_only_s3_signs_urls(home, store: BlobStore) -> None:
    digest = store.put_bytes(b"signed")
    url = store.signed_url(digest, 60)
    assert (url is not None) is home.is_s3
    if url is not None:
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == b"signed"


def test_threads_that_put_the_same_blobs_agree(home, store: BlobStore) -> None:
    blobs = [(sha(data), data) for data in (b"%d" % number * 50 for number in range(20))]
    news: list[bool] = []
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for digest, data in blobs:
                news.append(store.put(digest, data if number % 2 else iter([data])))
                assert store.get(digest) == data
            store.put_many(blobs)
        except BaseException as wrong:
            failed.append(wrong)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert news.count(True) == len(blobs)
    assert len(home.listing("objects")) == len(blobs)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "same.txt").write_text("a")
    (folder / "deep/er/big.bin").write_bytes(BIG)
    (folder / "deep/ünï 🙂.txt").write_text("name")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o750)
    (folder / "none").write_bytes(b"")
    return folder


def test_a_folder_comes_back_as_it_was(home, store: BlobStore, tree: Path, tmp_path: Path) -> None:
    digest, manifest = store.put_folder(tree)
    assert store.put_folder(tree) == (digest, manifest)
    assert [entry.path for entry in manifest.files] == sorted(entry.path for entry in manifest.files)
    got = home.open().get_folder(digest, tmp_path / "copy")
    assert got == manifest
    before = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    copy = tmp_path / "copy"
    assert {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert (copy / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (copy / "a.txt").stat().st_mode & 0o777 == 0o644


def test_what_is_ignored_stays_out(store: BlobStore, tree: Path) -> None:
    _, manifest = store.put_folder(tree, ignore=lambda path: path in ("deep/", "none"))
    assert [entry.path for entry in manifest.files] == ["a.txt", "run.sh", "same.txt"]


def test_links_are_refused_in_both_directions(disk_home, tree: Path, tmp_path: Path) -> None:
    store = disk_home.open()
    digest, _ = store.put_folder(tree)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError):
        store.get_folder(digest, tmp_path / "target")
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="link"):
        store.put_folder(tree)
    with pytest.raises(NotFoundError):
        store.put_folder(tmp_path / "target")


@pytest.mark.parametrize("path", ["../out", "/abs", "a/../../out", "a\\b", "", "a//b", "."])
def test_a_hostile_manifest_writes_nothing(disk_home, tmp_path: Path, path: str) -> None:
    store = disk_home.open()
    file = store.put_bytes(b"x")
    hostile = encode(Manifest(files=(FileEntry(path=path, digest=file, size=1),)))
    with pytest.raises(ArchiveError):
        store.get_folder(store.put_bytes(hostile), tmp_path / "in" / "target")
    assert not (tmp_path / "in").exists() or list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_folder_arrives_whole_or_not_at_all(disk_home, tree: Path, tmp_path: Path) -> None:
    store = disk_home.open()
    here, absent = store.put_bytes(b"here"), sha(b"absent")
    for entry in (FileEntry(path="b", digest=absent, size=1), FileEntry(path="b", digest=here, size=99)):
        data, _ = pack_manifest([FileEntry(path="a", digest=here, size=4), entry])
        with pytest.raises((NotFoundError, IntegrityError)):
            store.get_folder(store.put_bytes(data), tmp_path / "in" / "target")
        assert list((tmp_path / "in").iterdir()) == []
    digest, _ = store.put_folder(tree)
    with pytest.raises(ConflictError):
        store.get_folder(digest, tree)
    (tmp_path / "in" / "target").mkdir()
    store.get_folder(digest, tmp_path / "in" / "target")
    assert (tmp_path / "in" / "target" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("url", ["", "ftp://host/x", "s3://", "file://host/x"])
def test_what_is_no_place_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        BlobStore.open(url, folder=tmp_path)


@pytest.mark.engine
def test_wrong_keys_and_wrong_buckets_are_said(s3_server, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError):
        BlobStore.open(f"s3://{s3_server.bucket}", folder=tmp_path, config={**s3_server.config(), "secret_access_key": "wrong"})
    with pytest.raises(UnreachableError, match="NoSuchBucket"):
        BlobStore.open("s3://no-such-bucket", folder=tmp_path, config=s3_server.config())
    with pytest.raises(UsageError, match="colour"):
        BlobStore.open("s3://bucket", folder=tmp_path, config={"colour": "blue"})
