"""A server as a runner sees it, in two hundred lines: work, blobs, beats, commands. For conformance suites of backends."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mainspring.testing.inside import HalfTunnel


@dataclass(slots=True)
class Told:
    """What the runner of one replica has said so far."""

    state: str = ""
    address: str = ""
    log: bytes = b""
    events: bytes = b""
    exit: dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    command: dict[str, Any] | None = None
    was_started: int = 0


class _Quiet(ThreadingHTTPServer):
    """Says nothing about runners that were killed in the middle of a request."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a connection that broke."""
        del request, client_address


class RunnerServer:
    """Answers runners on loopback, or at the address `host`; `jobs` maps attempt ids to the command each is to run."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.jobs: dict[str, list[str]] = {}
        self.env: dict[str, dict[str, str]] = {}  # of user code, by attempt
        self.files: dict[str, bytes] = {}  # blobs by digest: what runs may fetch, and what they sent
        self.code: dict[str, str] = {}  # the manifest of an attempt's code
        self.args: dict[str, dict[str, Any]] = {}  # of an attempt, as in a spec
        self.worlds: dict[str, int] = {}  # how many members an attempt has, where it is a gang
        self.told: dict[tuple[str, int], Told] = {}
        self.tunnels: dict[tuple[str, int], HalfTunnel] = {}
        self.wanted: set[tuple[str, int]] = set()  # whose runners are told that somebody wants in
        self.moved = threading.Condition()
        self.is_away = False  # every answer is 503 then
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self, None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.headers.get("Content-Type") == "application/octet-stream":
                    server.take(self, body)
                else:
                    server.answer(self, json.loads(body) if body else {})

            do_PUT = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                del format, args

        self._http = _Quiet((host, 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()

    def of(self, attempt: str, replica: int = 0) -> Told:
        """Return what the replica's runner said."""
        with self.moved:
            return self.told.setdefault((attempt, replica), Told())

    def wait(self, attempt: str, state: str, timeout_s: float = 60.0, replica: int = 0) -> Told:
        """Block until the replica's runner has reported `state` ("running", "ended", …). Raises TimeoutError."""
        told = self.of(attempt, replica)
        with self.moved:
            if not self.moved.wait_for(lambda: told.state == state, timeout_s):
                raise TimeoutError(f"{attempt} did not become {state} within {timeout_s:g} s, it is {told.state or 'silent'}")
        return told

    def wait_said(self, attempt: str, words: bytes, replica: int = 0, timeout_s: float = 60.0) -> Told:
        """Block until the replica's log has these words: "running" is told before user code does its first step. TimeoutError."""
        told = self.of(attempt, replica)
        with self.moved:
            if not self.moved.wait_for(lambda: words in told.log, timeout_s):
                raise TimeoutError(f"{attempt} did not say {words!r} within {timeout_s:g} s, but {told.log[-200:]!r}")
        return told

    def inside(self, attempt: str, replica: int = 0, timeout_s: float = 60.0) -> HalfTunnel:
        """Return the tunnel into a replica, once its runner has dialled. Raises TimeoutError."""
        key = (attempt, replica)
        with self.moved:
            self.wanted.add(key)
            self.moved.notify_all()
            if not self.moved.wait_for(lambda: key in self.tunnels, timeout_s):
                raise TimeoutError(f"the runner of {attempt} did not dial within {timeout_s:g} s")
            self.wanted.discard(key)
            return self.tunnels[key]

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        """Answer one request of a runner."""
        if self.is_away:
            self._send(handler, 503, {})
            return
        path = urlsplit(handler.path)
        parts = path.path.strip("/").split("/")
        if parts[2:3] == ["blobs"]:
            self._blobs(handler, parts[-1], body or {})
            return
        attempt, verb = parts[3], parts[4]
        query = parse_qs(path.query)
        if verb == "work":
            self._send(handler, 200, self._work(attempt))
        elif verb == "peers":
            world = range(self.worlds.get(attempt, 1))
            self._send(handler, 200, {"addresses": {str(index): self.of(attempt, index).address for index in world}})
        elif verb == "tunnel":
            self._take_tunnel(handler, attempt, int(query["replica"][0]))
        elif verb == "beat" and body is not None:
            self._send(handler, 200, self._beat(attempt, body))
        else:
            self._send(
                handler, 200, self._commands(attempt, int(query.get("replica", ["0"])[0]), int(query.get("after", ["0"])[0]))
            )

    def folder(self, files: Mapping[str, bytes]) -> str:
        """Keep files and their manifest; return its digest."""
        entries = [{"digest": self._keep(data), "mode": 0o644, "path": path, "size": len(data)} for path, data in files.items()]
        return self._keep(json.dumps({"files": entries}).encode())

    def take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Keep the blobs that a runner sends: one, or many as frames."""
        if handler.path.endswith("/pack"):
            while body:
                size = int.from_bytes(body[32:40], "big")
                self._keep(body[40 : 40 + size])
                body = body[40 + size :]
        else:
            self._keep(body)
        self._send(handler, 201, {})

    def _keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.files[digest] = data
        return digest

    def _blobs(self, handler: BaseHTTPRequestHandler, verb: str, body: dict[str, Any]) -> None:
        wanted = body.get("digests", [verb])
        if verb == "missing":
            self._send(handler, 200, {"missing": [one for one in wanted if one not in self.files]})
        elif any(one not in self.files for one in wanted):
            self._send(handler, 404, {})
        else:
            frames = [(bytes.fromhex(one) + len(self.files[one]).to_bytes(8, "big"), self.files[one]) for one in wanted]
            data = b"".join(head + blob for head, blob in frames) if verb == "fetch" else self.files[verb]
            self._send(handler, 200, data)

    def stop(self, attempt: str, replica: int = 0, deadline_s: float = 1.0) -> None:
        """Let the next answer tell the runner to stop."""
        with self.moved:
            self.told.setdefault((attempt, replica), Told()).command = {
                "no": 1,
                "kind": "stop",
                "cause": "cancelled",
                "deadline_s": deadline_s,
            }
            self.moved.notify_all()

    def _work(self, attempt: str) -> dict[str, Any]:
        return {
            "run": f"run-of-{attempt}",
            "attempt": attempt,
            "number": 1,
            "name": "conformance",
            "project": "default",
            "world_size": self.worlds.get(attempt, 1),
            "env": self.env.get(attempt, {}),
            "limits": {},
            "checkpoint": "",
            "spec": {
                "kind": "command",
                "command": self.jobs.get(attempt, ["true"]),
                "args": self.args.get(attempt, {}),
                "params": {},
                "code": {"manifest": self.code.get(attempt, ""), "folder": "."},
                "environment": {"interpreter": "", "lock": "", "image": ""},
                "env": {},
                "timeout_s": 0.0,
                "grace_s": 1.0,
                "disconnect_limit_s": 0.0,
                "entry": None,
                "replicas": 1,
            },
        }

    def _beat(self, attempt: str, body: dict[str, Any]) -> dict[str, Any]:
        told = self.of(attempt, int(body.get("replica", 0)))
        with self.moved:
            for chunk in body.get("chunks", ()):
                held = told.offsets.get(chunk["stream"], 0)
                data = base64.b64decode(chunk["data"])
                if chunk["offset"] <= held:
                    fresh = data[held - chunk["offset"] :]
                    told.offsets[chunk["stream"]] = held + len(fresh)
                    told.log += fresh if chunk["stream"] == "log" else b""
                    told.events += fresh if chunk["stream"] == "events" else b""
            if body.get("state") == "running" and told.state != "running":
                told.was_started += 1
            told.state = str(body.get("state"))
            told.address = str(body.get("address") or told.address)
            told.exit = body.get("exit") or told.exit
            told.outputs = body.get("outputs") or told.outputs
            self.moved.notify_all()
            commands = [told.command] if told.command else []
            is_over = told.state == "ended"
            return {
                "ack": dict(told.offsets),
                "commands": commands,
                "beat_in_s": 0.5,
                "is_followed": True,
                "is_tunnel_wanted": (attempt, int(body.get("replica", 0))) in self.wanted,
                "is_acknowledged": is_over,
            }

    def _commands(self, attempt: str, replica: int, after: int) -> dict[str, Any]:
        told = self.of(attempt, replica)
        with self.moved:
            key = (attempt, replica)
            self.moved.wait_for(lambda: key in self.wanted or (told.command is not None and told.command["no"] > after), 0.5)
            fresh = [told.command] if told.command is not None and told.command["no"] > after else []
            is_wanted = key in self.wanted
        return {"commands": fresh, "is_followed": True, "is_tunnel_wanted": is_wanted}

    def _take_tunnel(self, handler: BaseHTTPRequestHandler, attempt: str, replica: int) -> None:
        made = HalfTunnel(handler)
        with self.moved:
            self.tunnels[attempt, replica] = made
            self.moved.notify_all()
        try:
            made.serve()
        finally:
            with self.moved:
                if self.tunnels.get((attempt, replica)) is made:  # the runner may have dialled again
                    del self.tunnels[attempt, replica]
            made.end()

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # the runner was killed meanwhile
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
