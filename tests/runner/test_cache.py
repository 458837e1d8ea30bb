"""The blob cache of a node: each blob comes once, damage is noticed, a full disk is told, room is made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mainspring.runner import cache, captures
from mainspring.runner.cache import STAMP_S, cached, is_there, keep, make_room

CODE = "import os; i = os.environ['MAINSPRING_INPUTS']; print(open(i + '/rows/rows.csv').read(), end='')"


def put(folder: Path, data: bytes, used_at: float = 0.0) -> str:
    """Keep a blob; return its digest."""
    digest = hashlib.sha256(data).hexdigest()
    keep(str(folder), digest, io.BytesIO(data), len(data))
    if used_at:
        os.utime(cached(str(folder), digest), (used_at, STAMP_S))
    return digest


def asks(site: Any, server: Any, rows: bytes, code: str = CODE) -> str:
    """Say that a run reads this data set; return the digest of its one file."""
    manifest = server.manifest({"rows.csv": rows})
    site.python_code(code, args={"rows": {"kind": "dataset", "digest": manifest, "size_bytes": len(rows)}})
    return hashlib.sha256(rows).hexdigest()


def again(site: Any, server: Any, name: str) -> None:
    """Go on in another folder of the same node."""
    site.next()
    site.root = site.root.rename(site.root.with_name(name))


def test_a_data_set_is_linked_and_what_a_run_writes_through_the_link_is_not_served_to_the_next(site: Any, server: Any) -> None:
    rows = b"1,2\n" * 100
    digest = asks(
        site,
        server,
        rows,
        "import os; p = os.environ['MAINSPRING_INPUTS'] + '/rows/rows.csv'; print(os.stat(p).st_nlink, oct(os.stat(p).st_mode));"
        "os.chmod(p, 0o644); f = open(p, 'r+b'); f.write(b'9'); f.close()",
    )
    assert site.run() == 0
    assert server.log == b"2 0o100444\n"
    assert Path(cached(str(site.root.parent / "cache"), digest)).read_bytes() != rows  # the size is the same
    again(site, server, "third")
    asks(site, server, rows)
    assert site.run() == 0
    assert server.log == rows


def begin_three(site: Any) -> None:
    """Let three runners of the site's work, each in a folder of its own beside it, begin at once and come to their ends."""
    root = site.root
    runners = []
    for number in range(3):
        site.root = root.with_name(f"beside-{number}")
        site.root.mkdir()
        for name in ("launch.json", "token"):
            (site.root / name).write_text((root / name).read_text())
        runners.append(site.start())
    assert [runner.wait(60) for runner in runners] == [0, 0, 0]


def test_two_runners_that_want_the_same_blob_fetch_it_once(site: Any, server: Any, tmp_path: Path) -> None:
    large, small = b"L" * 3_000_000, b"s" * 100
    asked: list[str] = []
    server.on_blob = asked.append
    asks(site, server, large)
    server.work["spec"]["args"]["note"] = {"kind": "file", "digest": server.put(small), "size_bytes": 100, "meta": {}}
    begin_three(site)
    for data in (large, small):
        assert asked.count(hashlib.sha256(data).hexdigest()) == 1


def test_a_full_disk_ends_the_try_and_is_not_taken_for_a_server_that_is_away(site: Any, server: Any, tmp_path: Path) -> None:
    asks(site, server, os.urandom(3_000_000))
    place = tmp_path / "cache"
    place.mkdir()
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    words += [f'mount -t tmpfs -o size=1m none "{place}" && exec "$@"', "sh"]
    words += [sys.executable, "-S", "-E", str(site.bundle), str(site.root)]
    assert subprocess.run(words, timeout=30, check=False).returncode == 0
    assert (server.exit["cause"], "disk of this node's cache is full" in server.exit["message"]) == ("launch_failed", True)


def test_when_the_disk_is_full_what_was_used_least_lately_makes_room(site: Any, server: Any, tmp_path: Path) -> None:
    rows = os.urandom(600_000)
    asks(site, server, rows, CODE.replace("print(open(i + '/rows/rows.csv').read(), end='')", "print('ran')"))
    place = tmp_path / "cache"
    place.mkdir()
    old = os.urandom(600_000)
    digest = hashlib.sha256(old).hexdigest()
    (tmp_path / "old").write_bytes(old)
    into = f"{place}/blobs/{digest[:2]}"
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    words += [
        f'mount -t tmpfs -o size=1m none "{place}" && mkdir -p {into} && cp {tmp_path}/old {into}/{digest} && exec "$@"',
        "sh",
    ]
    words += [sys.executable, "-S", "-E", str(site.bundle), str(site.root)]
    assert subprocess.run(words, timeout=30, check=False).returncode == 0
    assert (server.exit["cause"], server.log) == ("succeeded", b"ran\n")


def test_what_was_used_least_lately_goes_first_and_what_a_run_links_stays(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cache, "KEEP_FREE_BYTES", 0)
    digests = [put(tmp_path, bytes([number]) * 1000, used_at=1e9 + number) for number in range(10)]
    os.link(cached(str(tmp_path), digests[0]), tmp_path / "in a run")
    assert make_room(str(tmp_path), 20_000) == 0
    assert make_room(str(tmp_path), 5_000) == 6  # a tenth below the limit
    kept = [number for number, digest in enumerate(digests) if os.path.exists(cached(str(tmp_path), digest))]
    assert kept == [0, 7, 8, 9]
    assert (tmp_path / "in a run").read_bytes() == bytes([0]) * 1000


def test_what_a_crash_left_is_cleared_once_nobody_writes_to_it(tmp_path: Path) -> None:
    digest = put(tmp_path, b"whole")
    left, fresh = Path(cached(str(tmp_path), digest) + ".4711"), Path(cached(str(tmp_path), digest) + ".4712")
    left.write_bytes(b"who")
    fresh.write_bytes(b"who")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    make_room(str(tmp_path), 1 << 40)
    assert (left.exists(), fresh.exists(), is_there(str(tmp_path), digest, 5)) == (False, True, True)


@pytest.mark.parametrize("written", [b"other", b"oth", b"", b"something longer"])
def test_a_blob_that_was_written_to_is_dropped_where_it_is_looked_for(tmp_path: Path, written: bytes) -> None:
    digest = put(tmp_path, b"whole")
    path = Path(cached(str(tmp_path), digest))
    path.chmod(0o644)
    path.write_bytes(written)
    assert not is_there(str(tmp_path), digest, 5)
    assert not path.exists()


def test_a_blob_of_an_older_cache_is_read_once_and_kept(tmp_path: Path) -> None:
    digest = put(tmp_path, b"whole")
    os.utime(cached(str(tmp_path), digest))
    assert is_there(str(tmp_path), digest, -1)
    assert os.stat(cached(str(tmp_path), digest)).st_mtime == STAMP_S


def test_every_kind_of_package_is_seen_with_its_name_and_version(tmp_path: Path) -> None:
    """As a wheel, as a folder of an old build, as the one file that distributions install, and one that tells no version."""
    site = tmp_path / "site"
    for name, text in {
        "one-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: One\nVersion: 1.0\n\nName: story\n",
        "two-2.0.egg-info/PKG-INFO": "Metadata-Version: 1.0\nName: two\nVersion: 2.0\n",
        "three-3.0.egg-info": "Metadata-Version: 1.0\nName: three\nVersion: 3.0\n",
        "four.dist-info/METADATA": "Metadata-Version: 2.1\nName: four\n",
        "five-5.0.dist-info/METADATA": "",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    words = [sys.executable, "-S", "-I", "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{captures._SCRIPT}"]
    seen, _ = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    found = {one["name"]: one["version"] for one in seen["packages"]}
    assert found.items() >= {"One": "1.0", "two": "2.0", "three": "3.0", "four": ""}.items()


def test_of_runs_that_begin_at_once_one_asks_their_interpreter_what_is_installed(site: Any, server: Any, tmp_path: Path) -> None:
    ledger, python = tmp_path / "ledger", tmp_path / "python3"
    asked = f"case $* in *importlib.metadata*) echo asked >> {ledger};; esac"
    python.write_text(f'#!/bin/sh\n{asked}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    told = str(tmp_path / "cache/captures/*.json")  # what ends before that is not waited for longer than some seconds
    site.spec(str(python), "-S", "-c", f"import glob, time\nwhile not glob.glob({told!r}): time.sleep(0.01)")
    root = site.root
    begin_three(site)
    assert ledger.read_text() == "asked\n"
    assert len(server.sent) == 1
    digest = server.sent[0]
    for number in range(3):
        events = (root.with_name(f"beside-{number}") / "spool/events").read_text()
        assert f'{{"kind": "environment_seen", "digest": "{digest}"}}\n' in events
