"""The store of the Kubernetes for tests, made to forget; and one more API server before it, which may die and come back."""

from __future__ import annotations

import contextlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engines.kubernetes import settings
from engines.kubernetes.daemons import spawn, tail, until
from engines.kubernetes.program import program
from engines.sharing import end, free_ports, is_alive

_EVERYTHING = {"key": "AA==", "range_end": "AA==", "count_only": True}  # etcd's words for all keys, in base64


@dataclass
class Server:
    """An API server at a port of its own. `words` are its flags, `pid` is 0 while it is down."""

    folder: Path
    url: str
    authority: str
    token: str
    words: Sequence[str]
    pid: int = 0

    def start(self) -> None:
        """Start it and wait until it answers. What it keeps of the past begins now."""
        self.pid = spawn(self.folder, "another", [str(program()), "apiserver", *self.words])
        until(lambda: answers(self.url, self.authority, self.token, {"another": self.pid}, self.folder), self.folder)

    def kill(self) -> None:
        """Let it die at once, and with it all its connections."""
        if self.pid:
            end(self.pid)
        self.pid = 0


@contextmanager
def another(folder: Path, etcd: str, address: str, token: str, more: Sequence[str]) -> Iterator[Server]:
    """Have one more API server before the cluster's etcd while a test needs it; `more` are flags of its own."""
    (port,) = free_ports(1)
    words = [*settings.apiserver(folder, etcd, port, address), "--endpoint-reconciler-type=none", *more]
    made = Server(folder, f"https://127.0.0.1:{port}", f"{folder}/certificates/apiserver.crt", token, words)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def compact(etcd: str) -> int:
    """Let etcd forget what was before now, as an API server has it done every five minutes; return the last revision it knows."""
    header = _ask(etcd, "range", _EVERYTHING)["header"]
    revision = int(header["revision"])
    _ask(etcd, "compaction", {"revision": revision, "physical": True})
    return revision


def answers(url: str, authority: str, token: str, pids: dict[str, int], folder: Path) -> bool:
    """Say whether an API server is ready. Raises RuntimeError when one of the processes that it needs has ended."""
    for name, pid in pids.items():
        if not is_alive(pid):
            raise RuntimeError(f"{name} ended:\n{tail(folder / f'{name}.log')}")
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError, urllib.error.URLError):
        context = ssl.create_default_context(cafile=authority)
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return bool(answer.status == 200)
    return False


def _ask(etcd: str, what: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
    request = urllib.request.Request(f"{etcd}/v3/kv/{what}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, dict[str, str]] = json.loads(answer.read())
    return told
