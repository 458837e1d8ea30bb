"""An engine with bad days: the local one behind a network that can be cut, be slow, or hide how things are.

For tests of what a server does about engines that cannot be reached. `register(folder)` makes it a plug-in for every process
that has `folder` on its PYTHONPATH; a cluster whose backend is `flaky` uses it. Its trouble is a file in the cluster's folder,
so that a test changes it while the server runs: `trouble(folder, Trouble(is_cut=True))`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from mainspring.backends.local.backend import LocalBackend
from mainspring.backends.local.backend import create as create_local
from mainspring.core.backend import (
    Capabilities,
    Engine,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Notice,
    Observation,
    ObservedState,
    Option,
    OptionKind,
    Probe,
)
from mainspring.core.errors import UnreachableError
from mainspring.core.records import Cluster

TROUBLE = "trouble.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is wrong: `is_cut` no call and no beat gets through; `is_blind` the engine answers, but cannot see its replicas,
    and beats do not get through; `slow_s` each call takes so long; `has_no_nodes` the inventory is empty; `is_unfit` it answers
    that it cannot be used."""

    is_cut: bool = False
    is_unfit: bool = False
    is_blind: bool = False
    slow_s: float = 0.0
    has_no_nodes: bool = False


def register(folder: Path) -> None:
    """Make the plug-in known to processes that have `folder` on their PYTHONPATH."""
    info = folder / "mainspring_flaky-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mainspring-flaky\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mainspring.backends]\nflaky = mainspring.testing.flaky:ENGINE\n")


def trouble(folder: Path, what: Trouble | None = None) -> None:
    """Bring trouble to the cluster of this folder, or end it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{TROUBLE}"
    draft.write_text(json.dumps(asdict(what or Trouble())))
    draft.replace(folder / TROUBLE)


def create(cluster: Cluster, folder: Path, installation: str) -> FlakyBackend:
    """Build the backend of a flaky cluster. Its config has `pool`, the pool of its one node, besides what a local one has."""
    return FlakyBackend(create_local(cluster, folder, installation), folder, str(cluster.config.get("pool") or cluster.name))


@dataclass(slots=True)
class FlakyBackend:
    """The local backend, as far as it can be reached."""

    inner: LocalBackend
    folder: Path
    pool: str
    _relays: dict[str, Relay] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def capabilities(self) -> Capabilities:
        """Return what the local one can do."""
        return self.inner.capabilities

    def probe(self) -> Probe:
        """See `LocalBackend.probe`."""
        self._pass()
        if self.now().is_unfit:
            return Probe(is_ready=False, version="0", notices=(Notice(text="It has no engine.", command="install an-engine"),))
        return self.inner.probe()

    def inventory(self) -> Inventory:
        """Return the one node, in the pool of this cluster."""
        self._pass()
        nodes = () if self.now().has_no_nodes else self.inner.inventory().nodes
        return Inventory(nodes=tuple(replace(node, pool=self.pool) for node in nodes))

    def launch(self, request: LaunchRequest) -> Handle:
        """Launch a runner that dials through the same network."""
        self._pass()
        return self.inner.launch(replace(request, server_url=self._relay(request.server_url).url))

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Observe, unless blind."""
        self._pass()
        if self.now().is_blind:
            return [Observation(handle=one, state=ObservedState.UNKNOWN, detail="The node does not answer.") for one in handles]
        return self.inner.observe(handles)

    def stop(self, handle: Handle, grace_s: float) -> None:
        """See `LocalBackend.stop`."""
        self._pass()
        self.inner.stop(handle, grace_s)

    def owned(self) -> Sequence[Handle]:
        """Return what lives in this cluster's folder: all flaky clusters share the machine."""
        self._pass()
        return [one for one in self.inner.owned() if Path(str(one.data["folder"])).exists()]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """See `LocalBackend.native`."""
        self._pass()
        return self.inner.native(handle)

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """See `LocalBackend.read_exit`."""
        self._pass()
        return self.inner.read_exit(handle)

    def forget(self, handle: Handle) -> None:
        """See `LocalBackend.forget`."""
        self._pass()
        self.inner.forget(handle)

    def now(self) -> Trouble:
        """Return what is wrong at this moment."""
        with contextlib.suppress(OSError, ValueError):
            return Trouble(**json.loads((self.folder / TROUBLE).read_text()))
        return Trouble()

    def _pass(self) -> None:
        """Let a call through as slowly as it goes. Raises UnreachableError when the network is cut."""
        what = self.now()
        if what.slow_s:
            time.sleep(what.slow_s)
        if what.is_cut:
            raise UnreachableError("The engine does not answer.")

    def _relay(self, server_url: str) -> Relay:
        with self._lock:
            if server_url not in self._relays:
                self._relays[server_url] = Relay(server_url, lambda: self.now().is_cut or self.now().is_blind)
            return self._relays[server_url]


ENGINE = Engine(
    create=create,
    help="The local engine with bad days, for tests.",
    options=(
        Option(name="gpus", help="GPUs that it declares.", kind=OptionKind.NUMBER),
        Option(name="cpus", help="CPUs that it declares.", kind=OptionKind.NUMBER),
        Option(name="password", help="A secret that nobody needs.", kind=OptionKind.SECRET),
    ),
)


class Relay:
    """Passes connections on to a server, unless `is_cut`; what is open then breaks."""

    def __init__(self, server_url: str, is_cut: Callable[[], bool]) -> None:
        parts = urlsplit(server_url)
        self._goal = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._is_cut = is_cut
        self._door = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept_for_ever, daemon=True, name="relay").start()

    def _accept_for_ever(self) -> None:
        while True:
            near, _ = self._door.accept()
            if self._is_cut():
                near.close()
                continue
            try:
                far = socket.create_connection(self._goal, timeout=5)
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True, name="relay").start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        source.settimeout(0.2)
        with contextlib.suppress(OSError):
            while not self._is_cut():
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data or self._is_cut():
                    break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
