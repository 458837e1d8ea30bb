"""The folder when the machine is unkind: no space, and a kill in the middle."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.blobs import BlobStore

FULL = """
import resource, signal, sys, hashlib
from pathlib import Path
from mainspring.blobs import BlobStore
from mainspring.core.errors import DiskFullError
root = Path(sys.argv[1])
store = BlobStore.open(str(root), folder=root)
kept = store.put_bytes(b"kept")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
data = b"z" * 300_000
digest = hashlib.sha256(data).hexdigest()
small = [(hashlib.sha256(b"%d" % n * 9000).hexdigest(), b"%d" % n * 9000) for n in range(10, 40)]
for attempt in (lambda: store.put(digest, data), lambda: store.put(digest, iter([data[:150_000], data[150_000:]])),
                lambda: store.put_many(small)):
    try:
        attempt()
    except DiskFullError as full:
        print(full.code)
assert store.missing([digest, small[0][0]]) == [digest, small[0][0]]
assert store.get(kept) == b"kept"
print(sorted(path.name for path in root.rglob("*") if path.is_file()) == [kept])
"""

WRITER = """
import sys
from pathlib import Path
from mainspring.blobs import BlobStore
root = Path(sys.argv[1])
store = BlobStore.open(str(root), folder=root)
number = 0
while True:
    number += 1
    digest = store.put_bytes(b"%d" % number * 40_000)
    print(digest, flush=True)
"""


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the kernel refuses the same write, with EFBIG."""
    ended = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "b")], capture_output=True, text=True, timeout=60)
    assert ended.stdout.split() == ["disk_full"] * 3 + ["True"], ended.stderr


@pytest.mark.chaos
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "b"
    command = [sys.executable, "-c", WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(30)]
        time.sleep(0.003)  # not a wait for anything: the kill should fall anywhere in a write
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    store = BlobStore.open(str(root), folder=root)
    for digest in acknowledged:
        assert hashlib.sha256(store.get(digest)).hexdigest() == digest
    for path in (root / "objects").rglob("*"):
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
