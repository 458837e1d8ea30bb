"""A small server that keeps what runners send, with switches for what goes wrong, and folders to start runners in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mainspring.runner.bundle import build_bundle

TOKEN = "t0ken-of-the-attempt"


class Server:
    """What the server knows. Switches: `status` (answer every beat so), `lose` (commit, then drop so many answers)."""

    def __init__(self) -> None:
        self.work: dict[str, Any] = {}
        self.streams: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.states: list[str] = []
        self.addresses: set[str] = set()
        self.commands: list[dict[str, Any]] = []
        self.exit: dict[str, Any] | None = None
        self.outputs: dict[str, Any] = {}
        self.ends = 0
        self.late_s = 0.0
        self.sent: list[str] = []  # digests of blobs that runners sent
        self.tokens: set[str] = set()
        self.status = 200
        self.is_patient = False  # 410 says when to ask again
        self.refusals = 0
        self.lose = 0
        self.beat_in_s = 0.5
        self.is_followed = False
        self.is_silent = False  # polls are refused too
        self.on_blob: Callable[[str], Any] = lambda digest: None  # called for each blob that is asked for
        self.lock = threading.Lock()

    def put(self, data: bytes) -> str:
        """Keep a blob; return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def manifest(self, files: dict[str, bytes]) -> str:
        """Keep files and their manifest; return the digest of the manifest."""
        entries = [{"digest": self.put(data), "mode": 0o644, "path": path, "size": len(data)} for path, data in files.items()]
        return self.put(json.dumps({"files": sorted(entries, key=lambda one: str(one["path"]))}).encode())

    @property
    def log(self) -> bytes:
        """What came of the log."""
        return self.streams.get("log", b"")

    def lines(self, stream: str) -> list[Any]:
        """Return the lines of a stream of JSON lines."""
        return [json.loads(line) for line in self.streams.get(stream, b"").splitlines()]

    def beat(self, beat: dict[str, Any]) -> dict[str, Any]:
        """Take a beat as the real server does: overlaps are cut, gaps are refused."""
        with self.lock:
            for chunk in beat["chunks"]:
                data, have = base64.b64decode(chunk["data"]), self.streams.get(chunk["stream"], b"")
                if chunk["offset"] <= len(have):
                    self.streams[chunk["stream"]] = have + data[len(have) - chunk["offset"] :]
            self.states.append(beat["state"])
            self.addresses.add(beat["address"])
            if beat["state"] == "ended":
                assert all(value["digest"] in self.blobs for value in beat["outputs"].values() if value["digest"])
                self.exit, self.outputs, self.late_s = beat["exit"], beat["outputs"], beat.get("late_s", 0.0)
                self.ends += 1
            return {
                "ack": {name: len(data) for name, data in self.streams.items()},
                "commands": self.commands,
                "beat_in_s": self.beat_in_s,
                "is_followed": self.is_followed,
                "is_acknowledged": beat["state"] == "ended",
            }


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None: ...

        def answer(self, value: object, status: int = 200) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 503 or (status == 410 and server.is_patient):
                self.send_header("Retry-After", "0.05")
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return zlib.decompress(data, 31) if self.headers.get("Content-Encoding") == "gzip" else data

        def do_GET(self) -> None:
            server.tokens.add(self.headers["Authorization"])
            path = self.path.removeprefix("/api/v1")
            if server.is_silent:
                self.answer({}, 503)
            elif "/commands" in path:
                after = int(path.partition("after=")[2])
                until = time.monotonic() + 1.0
                found: list[dict[str, Any]] = []
                while not found and time.monotonic() < until:
                    found = [one for one in server.commands if one["no"] > after]
                    time.sleep(0.01)
                self.answer({"commands": found, "is_followed": server.is_followed})
            elif server.status != 200:
                self.answer({}, server.status)
            elif "/work" in path:
                self.answer(server.work)
            else:
                server.on_blob(path.rpartition("/")[2])
                self.answer(server.blobs[path.rpartition("/")[2]])

        def do_POST(self) -> None:
            data = self.body()
            if server.status != 200:
                server.refusals += 1
                return self.answer({"error": {}}, server.status)
            if self.path.endswith("/beat"):
                answer = server.beat(json.loads(data))
                if server.lose > 0:
                    server.lose -= 1
                    self.close_connection = True
                    return None
                return self.answer(answer)
            if self.path.endswith("/missing"):
                return self.answer({"missing": [one for one in json.loads(data)["digests"] if one not in server.blobs]})
            if self.path.endswith("/fetch"):
                blobs = [(one, server.blobs[one]) for one in json.loads(data)["digests"]]
                for one, _ in blobs:
                    server.on_blob(one)
                return self.answer(b"".join(bytes.fromhex(one) + len(blob).to_bytes(8, "big") + blob for one, blob in blobs))
            while data:
                size = int.from_bytes(data[32:40], "big")
                assert server.put(data[40 : 40 + size]) == data[:32].hex()
                server.sent.append(data[:32].hex())
                data = data[40 + size :]
            return self.answer({"stored": 1})

        def do_PUT(self) -> None:
            assert server.put(self.body()) == self.path.rpartition("/")[2]
            server.sent.append(self.path.rpartition("/")[2])
            self.answer({}, 201)

    return Handler


class _Door(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...  # runners that ended do not wait for their polls


class Site:
    """One attempt's folder, and the runners that are started in it."""

    def __init__(self, root: Path, bundle: Path, server: Server) -> None:
        self.root, self.bundle, self.server = root, bundle, server
        self.runners: list[subprocess.Popen[bytes]] = []
        self.python = sys.executable

    def spec(self, *command: str, **more: Any) -> None:
        """Say what is to be run."""
        env = more.pop("env", {})
        spec = {"kind": "command", "command": list(command), "args": {}, "code": {}, "environment": {}, "grace_s": 5.0, **more}
        names = {"run": "run-1", "attempt": "att-1", "number": 1, "name": "n", "project": "default", "checkpoint": ""}
        self.server.work = {**names, "spec": spec, "env": env, "world_size": 1}

    def python_code(self, code: str, **more: Any) -> None:
        """Say that this Python code is to be run."""
        self.spec(sys.executable, "-c", code, **more)

    def start(self, **more: Any) -> subprocess.Popen[bytes]:
        """Start a runner here."""
        with (self.root.parent / "runner.log").open("ab") as log:
            runner = subprocess.Popen(
                [self.python, "-S", "-E", str(self.bundle), str(self.root)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **more,
            )
        self.runners.append(runner)
        return runner

    def run(self, timeout_s: float = 60) -> int:
        """Start a runner and wait for its end."""
        return self.start().wait(timeout_s)

    def next(self, cache: str = "cache") -> None:
        """Go on with the run's second attempt, in a folder and with a cache of its own (another cache is another node)."""
        launch = self.read("launch.json") | {"cache_dir": str(self.root.parent / cache)}
        self.root = self.root.parent / "second"
        self.root.mkdir()
        (self.root / "launch.json").write_text(json.dumps(launch))
        (self.root / "token").write_text(TOKEN)
        self.server.streams.clear()
        self.server.commands.clear()
        self.server.work["number"] = 2

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the folder."""
        found: dict[str, Any] = json.loads((self.root / name).read_text())
        return found


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner's zip."""
    return build_bundle(tmp_path_factory.mktemp("bundle") / "runner.zip")


@pytest.fixture
def server() -> Server:
    """What the fake server knows; `site` has its address."""
    return Server()


@pytest.fixture
def site(tmp_path: Path, bundle: Path, server: Server) -> Iterator[Site]:
    """A folder as a backend leaves it, and a server that listens."""
    door = _Door(("127.0.0.1", 0), _handler(server))
    threading.Thread(target=door.serve_forever, daemon=True).start()
    root = tmp_path / "attempt"
    root.mkdir()
    launch = {"installation": "i", "attempt": "att-1", "run": "run-1", "replica": 0, "grace_s": 2.0, "cgroup": ""}
    launch |= {"server_url": f"http://127.0.0.1:{door.server_port}", "cache_dir": str(tmp_path / "cache")}
    (root / "launch.json").write_text(json.dumps(launch))
    (root / "token").write_text(TOKEN)
    made = Site(root, bundle, server)
    yield made
    for runner in made.runners:
        runner.kill()
        runner.wait()
    with contextlib.suppress(OSError, ValueError, KeyError):
        os.killpg(made.read("started")["pgid"], signal.SIGKILL)
    door.shutdown()
    door.server_close()


@pytest.fixture
def until() -> Callable[[Callable[[], Any], str], None]:
    """Wait for something with a deadline that only ends what hangs: a disk may stand still for a while."""

    def wait(check: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 60
        while not check():
            assert time.monotonic() < deadline, f"{what} did not happen"
            time.sleep(0.01)

    return wait
