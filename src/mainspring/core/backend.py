"""The contract between Mainspring and an engine that runs things. `testing.backend` has the suite that judges it.

Common to all calls: they block, they may be called from several threads at once, they raise only the four errors named
here, and they never hold anything of ours (no database, no lock) while they talk to the engine.
CapacityError: the place is taken, plan again. LaunchError: this attempt cannot start there. UnreachableError: nothing is
known, try later. CredentialsError: an operator must act.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from mainspring.core.errors import BackendError
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Cluster, Node, Outcome
from mainspring.core.resources import Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do beyond the common contract."""

    places_itself: bool = False  # has a node scheduler of its own: we choose the cluster, it chooses the node
    fractions: bool = False  # can hold several runs on one GPU; where not, the planner gives its GPUs only whole
    open_port: bool = False
    exec: bool = False
    launch_many: bool = False
    limits: bool = False  # memory and CPU limits are enforced
    images: bool = False  # a run may name a container image
    hears_ends: bool = False  # is told of ends as they happen, so that a look asks nobody and costs next to nothing
    needs_network: bool = False  # runners cannot reach a server that listens on loopback alone: no shared host, no tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Start (or find again) the runner of one replica.

    `server_url` is where the runner dials, `token` its one-attempt secret: pass it by file or standard input, never in
    arguments or a listing. `installation` and `attempt` must be findable from outside afterwards (name, label, tag).
    `server_fingerprint` is the sha256 of the server's own certificate for a `https` address (empty: an authority vouches for
    it); it goes into `launch.json` as it is. `overrides` are what the user asked of this engine kind, unchecked: refuse an
    unknown one with LaunchError. `timeout_s` 0: no limit; enforced by the runner, an engine may plan with it.
    """

    installation: str
    attempt: AttemptId
    run: RunId
    replica: int
    node: Node
    granted: Granted
    server_url: str
    token: str
    grace_s: float = 10.0
    labels: Mapping[str, str] = field(default_factory=dict)
    server_fingerprint: str = ""
    name: str = ""  # the run's, for people who look at the engine
    owner: str = ""
    project: str = ""  # the run's; what runs of one project leave on a node may be kept from those of others
    image: str = ""
    overrides: Mapping[str, object] = field(default_factory=dict)
    world_size: int = 1
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """How the backend finds a replica again, after any restart of ours. `data` is the backend's own, JSON values only."""

    attempt: AttemptId
    replica: int
    data: Mapping[str, object] = field(default_factory=dict)


class ObservedState(StrEnum):
    """RUNNING: seen alive. GONE: seen to be dead, nothing of it is left. UNKNOWN: cannot be seen; time never turns it to GONE."""

    RUNNING = "running"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen of one handle. `detail` is a sentence for people.

    `waiting` is why an engine with a scheduler of its own has not begun it yet, in its words ("exceeded quota: ml"; empty: it
    runs), and `expected_at` when it says that it will: `mainspring why` and the forecast show both.
    """

    handle: Handle
    state: ObservedState
    detail: str = ""
    waiting: str = ""
    expected_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """What the runner wrote before it ended. `is_final` tells that its logs and outputs are with the server too."""

    outcome: Outcome
    outputs: Mapping[str, object] = field(default_factory=dict)
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What an operator should know of a cluster, as a sentence; `command` is the exact command that mends it, if one does."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether the engine can be used, its version, and notices ("no cgroup: memory limits are not enforced").

    Not ready: the notices say what is missing; the cluster is refused. `facts` are what was found beside the nodes, for people,
    in the order in which they are shown: `{"flavour": "OpenShift 4.16", "driver": "550.54", "free disk": "312 GiB"}`.
    Facts that change with each look (free bytes to the digit) do not belong there. `is_late`: not ready only because no
    answer came in time; another look may find one. `latency_s` is for whoever asks to fill in: how long the answer took. It does
    not make two answers differ.
    """

    is_ready: bool
    is_late: bool = False
    version: str = ""
    notices: tuple[Notice, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    latency_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The nodes there are, with `used_*` left at zero (what we hold is ours to count)."""

    nodes: tuple[Node, ...] = ()


class Backend(Protocol):
    """One registered cluster of one engine kind, built by `Engine.create`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do; a plain attribute will do."""
        ...

    def probe(self) -> Probe:
        """Look whether the engine can be used; returns within 5 s. Changes nothing."""
        ...

    def inventory(self) -> Inventory:
        """Return the nodes and devices there are now; returns within 10 s. Changes nothing."""
        ...

    def launch(self, request: LaunchRequest) -> Handle:
        """Start the runner and return within 10 s; do not wait for it to be up.

        Idempotent: the same (attempt, replica) returns the same handle and starts nothing twice while its runner lives.
        A runner that lives is told `server_url` if it has changed.
        If the runner died without an acknowledged end, it is started again in the same folder: it never begins user
        code a second time, it ends what is left of the process group, replays its spool and reports the end.
        Raises CapacityError, LaunchError, UnreachableError, CredentialsError.
        """
        ...

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Return one observation for each handle, in order; in bulk, within 10 s. Never raises for a single unknown handle."""
        ...

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Ask the whole tree to end (SIGTERM), kill it after `grace_s`; returns at once. Idempotent, silent if it is gone."""
        ...

    def owned(self) -> Sequence[Handle]:
        """Return everything alive that carries our installation id, for the sweeper; never another installation's."""
        ...

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the engine's own object as JSON: the pod, the sbatch script, the process with its command line."""
        ...

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return the exit record from the attempt's folder, None if there is none. For runners that died before the last beat."""
        ...

    def forget(self, handle: Handle) -> None:
        """Remove what an acknowledged, ended attempt left on the engine (its folder, its object). Idempotent."""
        ...


@runtime_checkable
class Closes(Protocol):
    """What a backend that keeps connections or threads has besides."""

    def close(self) -> None:
        """Let go of them, and keep none from now on; what runs on the engine runs on. Called when the cluster is forgotten."""
        ...


class LaunchesMany(Protocol):
    """What a backend with the capability `launch_many` has besides."""

    def launch_many(self, requests: Sequence[LaunchRequest]) -> Sequence[Handle | BackendError]:
        """Launch all of them; return a handle or a BackendError for each, in order. As `launch` otherwise; within 20 s.

        Raises UnreachableError, CredentialsError when nothing is known of any.
        """
        ...


class OptionKind(StrEnum):
    """What an option of `cluster add` takes: text, a number, nothing (it is set or not), a path, several texts, or a secret.

    A path is made absolute where the command is typed. A secret is kept encrypted and is in no listing.
    """

    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    PATH = "path"
    LIST = "list"
    SECRET = "secret"  # noqa: S105  (its name, not one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of an engine kind: `--gpu-model` for the name `gpu_model`. Its value is `cluster.config[name]`.

    The value is a str (TEXT, PATH, SECRET), an int or a float (NUMBER), a bool (FLAG) or a list of str (LIST); one that was
    not given is absent unless it has a `default`. `is_required` refuses a cluster without it.
    """

    name: str
    help: str
    kind: OptionKind = OptionKind.TEXT
    default: object = None
    is_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine kind: what an entry point of the group `mainspring.backends` names (or a bare `create` without options).

    `create(cluster, folder, installation)` builds the backend of one registered cluster; it may read files of `folder`, which is
    the cluster's own, and talks to nobody: `Backend.probe` does. It is built again after a restart of the server.
    `targets` names what stands behind the kind in `mainspring cluster add ssh gpu01 gpu02` ("HOST"): these words are in
    `cluster.config["targets"]`, a list; empty: the kind takes none. `min_targets`, `max_targets`: how many (0: no limit).
    `shares_loopback`: runs have the server's own 127.0.0.1, so that it dials what they listen on; elsewhere it goes through the
    tunnel of their runner. `secret_overrides` are those of a run's overrides that name a secret of its project
    (`secret:NAME`): `LaunchRequest.overrides` has their values, or still the name of one that is gone.
    """

    create: Callable[[Cluster, Path, str], Backend]
    help: str = ""
    options: tuple[Option, ...] = ()
    targets: str = ""
    min_targets: int = 0
    max_targets: int = 0
    shares_loopback: bool = False
    secret_overrides: tuple[str, ...] = ()
