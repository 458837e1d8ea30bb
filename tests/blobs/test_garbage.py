"""Collection never takes what is named: by hand on disk and S3, and by chance with a crash before and after every write."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring.blobs import BlobStore, Collected
from mainspring.blobs.disk import Disk
from mainspring.blobs.objects import Stat
from mainspring.core.errors import IntegrityError, NotFoundError, UsageError
from mainspring.core.manifests import FileEntry, pack_manifest

DAY_S = 86400.0


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_the_young_and_the_named_stay_and_the_rest_goes(home) -> None:
    store = home.open()
    named, other = store.put_bytes(b"named" * 30_000), store.put_bytes(b"other" * 30_000)
    small = [(sha(data), data) for data in (b"%d" % number for number in range(40))]
    store.put_many(small)
    assert store.collect(lambda: [named], grace_s=DAY_S, now=in_days(0.5)) == Collected()
    keep = [digest for digest, _ in small[:5]]
    done = store.collect(lambda: [named, *keep], grace_s=DAY_S, now=in_days(2))
    assert (done.removed, done.rewritten, done.kept) == (36, 1, 6)
    assert done.freed_bytes > 150_000
    for opened in (store, home.open()):
        assert opened.get(named) == b"named" * 30_000
        assert [opened.get(digest) for digest in keep] == [data for _, data in small[:5]]
        assert opened.missing([other, small[9][0]]) == [other, small[9][0]]
    assert len(home.listing("packs")) == 1


def test_a_named_manifest_keeps_its_files(home, tmp_path: Path) -> None:
    store = home.open()
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "data" / name).write_text(name * 50_000)
    (tmp_path / "data" / "small").write_text("s")
    digest, manifest = store.put_folder(tmp_path / "data")
    lookalike = store.put_bytes(b'{"files":["not a manifest"]}')
    store.collect(lambda: [digest, lookalike, sha(b"never uploaded")], grace_s=DAY_S, now=in_days(2))
    assert home.open().get_folder(digest, tmp_path / "copy") == manifest
    assert store.has(lookalike)
    done = store.collect(lambda: [], grace_s=DAY_S, now=in_days(2))
    assert done.removed >= len(manifest.files) + 2
    assert not [key for key in home.listing() if not key.startswith("quarantine/")]


def test_small_packs_are_merged(disk_home) -> None:
    store = disk_home.open()
    blobs = [(sha(data), data) for data in (b"%d" % number for number in range(60))]
    for start in range(0, 60, 3):
        store.put_many(blobs[start : start + 3])
    assert len(disk_home.listing("packs")) == 20
    names = [digest for digest, _ in blobs]
    store.collect(lambda: names, grace_s=DAY_S, now=in_days(2))
    assert len(disk_home.listing("packs")) == 1
    assert [disk_home.open().get(digest) for digest in names] == [data for _, data in blobs]


def test_a_damaged_named_manifest_stops_the_collection(disk_home, tmp_path: Path) -> None:
    store = disk_home.open()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a" * 100_000)
    digest, manifest = store.put_folder(tmp_path / "data")
    good = store.get(digest)
    disk_home.overwrite(f"objects/{digest[:2]}/{digest}", good.replace(b'"a"', b'"b"'))
    for _ in range(2):  # found while marking, and again when it lies in quarantine
        with pytest.raises(IntegrityError):
            store.collect(lambda: [digest], grace_s=DAY_S, now=in_days(2))
        assert store.size(manifest.files[0].digest) == 100_000
    store.put(digest, good)
    store.collect(lambda: [digest], grace_s=DAY_S, now=in_days(2))
    store.get_folder(digest, tmp_path / "copy")


def test_an_error_while_reading_names_removes_nothing(disk_home) -> None:
    store = disk_home.open()
    digest = store.put_bytes(b"x")

    def fails() -> Iterator[str]:
        yield sha(b"other")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.collect(fails, grace_s=DAY_S, now=in_days(2))
    assert store.has(digest)


def test_broken_uploads_are_tidied(disk_home) -> None:
    store = disk_home.open()
    left = Path(disk_home.url) / "incoming" / "left"
    left.write_bytes(b"half")
    store.collect(lambda: [], grace_s=DAY_S, now=in_days(0))
    assert left.exists()
    store.collect(lambda: [], grace_s=DAY_S, now=in_days(2))
    assert not left.exists()


@pytest.mark.engine
def test_a_grace_too_short_for_s3_is_refused(home) -> None:
    store = home.open()
    if home.is_s3:
        with pytest.raises(UsageError, match="7200"):
            store.collect(lambda: [], grace_s=60, now=in_days(1))
    else:
        assert store.collect(lambda: [], grace_s=60, now=in_days(1)) == Collected()


class PowerCut(BaseException):
    """The machine stops."""


class Unreliable(Disk):
    """A real folder whose machine stops at the n-th change, just before or just after it is made."""

    def __init__(self, root: Path, changes: int, is_after: bool) -> None:
        super().__init__(root)
        self._left, self._is_after = changes, is_after

    def _change(self, act, *arguments):  # type: ignore[no-untyped-def]
        self._left -= 1
        if self._left < 0:
            raise PowerCut
        if self._left == 0 and not self._is_after:
            raise PowerCut
        result = act(*arguments)
        if self._left == 0:
            raise PowerCut
        return result

    def write(self, key: str, data: bytes) -> bool:
        return self._change(super().write, key, data)

    def remove(self, key: str, seen: float) -> bool:
        return self._change(super().remove, key, seen)

    def set_aside(self, key: str, to: str) -> None:
        return self._change(super().set_aside, key, to)


CONTENTS = [b"%d" % number * (1 + 9000 * (number % 3)) for number in range(12)]
MANIFESTS = [
    pack_manifest([FileEntry(path=str(n), digest=sha(CONTENTS[n]), size=len(CONTENTS[n])) for n in members])[0]
    for members in ((0, 1, 2), (2, 3, 4, 5), (9, 10, 11))
]
FILES = [(0, 1, 2), (2, 3, 4, 5), (9, 10, 11)]
BLOBS = CONTENTS + MANIFESTS
some = st.lists(st.integers(0, len(BLOBS) - 1), min_size=1, max_size=6, unique=True)
cut = st.one_of(st.none(), st.tuples(st.integers(1, 8), st.booleans()))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), some, cut),
        st.tuples(st.just("many"), some, cut),
        st.tuples(st.just("name"), some, st.none()),
        st.tuples(st.just("unname"), some, st.none()),
        st.tuples(st.just("collect"), some, cut),
        st.tuples(st.just("collect"), st.just([]), cut),
    ),
    min_size=3,
    max_size=14,
)


class World:
    """Clients that upload and name, over a folder that is opened anew after every power cut."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.named: set[int] = set()

    def digests(self) -> list[str]:
        return [sha(BLOBS[number]) for number in self.named]

    def age(self) -> None:
        """Let a week pass for everything that lies there."""
        week_ago = time.time() - 7 * DAY_S
        for folder, _, names in os.walk(self.root):
            for name in names:
                os.utime(os.path.join(folder, name), (week_ago, week_ago))

    def name_what_is_here(self, store: BlobStore, numbers: Iterable[int]) -> None:
        """Name blobs as services do: ask first; a manifest only with all its files."""
        for number in numbers:
            files = FILES[number - len(CONTENTS)] if number >= len(CONTENTS) else ()
            if not store.missing([sha(BLOBS[one]) for one in (number, *files)]):
                self.named.add(number)

    def act(self, kind: str, numbers: list[int], store: BlobStore) -> None:
        pairs = [(sha(BLOBS[number]), BLOBS[number]) for number in numbers]
        if kind == "put":
            for digest, data in pairs:
                store.put(digest, data)
        elif kind == "many":
            store.put_many(pairs)
        elif kind == "name":
            self.name_what_is_here(store, numbers)
        elif kind == "unname":
            self.named -= set(numbers)
        else:

            def names() -> list[str]:
                """Answer, and let somebody name more just after the question was answered."""
                answer = self.digests()
                self.name_what_is_here(store, numbers)
                return answer

            self.age()
            store.collect(names, grace_s=DAY_S, now=datetime.now(UTC))

    def check(self) -> None:
        store = BlobStore(Disk(self.root))
        for number in self.named:
            assert store.get(sha(BLOBS[number])) == BLOBS[number]
            if number >= len(CONTENTS):
                for file in FILES[number - len(CONTENTS)]:
                    assert store.get(sha(BLOBS[file])) == BLOBS[file]


@pytest.mark.property
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_no_crash_ever_takes_a_named_blob(actions: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for kind, numbers, fault in actions:
            disk = Disk(world.root) if fault is None else Unreliable(world.root, fault[0], fault[1])
            try:
                world.act(kind, numbers, BlobStore(disk))
            except PowerCut:
                pass
            world.check()
        world.age()
        BlobStore(Disk(world.root)).collect(world.digests, grace_s=DAY_S, now=datetime.now(UTC))
        world.check()
        unnamed = set(range(len(BLOBS))) - world.named
        for number in world.named:
            unnamed -= set(FILES[number - len(CONTENTS)] if number >= len(CONTENTS) else ())
        store = BlobStore(Disk(world.root))
        loose = {key.key.rpartition("/")[2] for key in Disk(world.root).list("objects/")}
        assert not loose & {sha(BLOBS[number]) for number in unnamed}
        if not world.named:
            assert store.missing([sha(BLOBS[number]) for number in unnamed]) == [sha(BLOBS[number]) for number in sorted(unnamed)]


def test_a_renewed_object_is_not_removed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write("objects/a", b"a")
    os.utime(tmp_path / "objects/a", (1, 1))
    [seen] = disk.list("objects/")
    assert seen == Stat("objects/a", 1, 1.0)
    assert disk.renew("objects/a")
    assert disk.remove("objects/a", seen.modified) is False
    [again] = disk.list("objects/")
    assert disk.remove("objects/a", again.modified) is True
    assert disk.renew("objects/a") is False
    with pytest.raises(NotFoundError):
        disk.read("objects/a")
