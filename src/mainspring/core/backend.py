"""The contract between Mainspring and an engine that runs things. `testing.backend` has the suite that judges it.

Common to all calls: they block, they may be called from several threads at once, they raise only the four errors named
here, and they never hold anything of ours (no database, no lock) while they talk to the engine.
CapacityError: the place is taken, plan again. LaunchError: this attempt cannot start there. UnreachableError: nothing is
known, try later. CredentialsError: an operator must act.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Node, Outcome
from mainspring.core.resources import Granted


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do beyond the common contract."""

    places_itself: bool = False  # has a node scheduler of its own: we choose the cluster, it chooses the node
    fractions: bool = False  # can hold several runs on one GPU
    open_port: bool = False
    exec: bool = False
    launch_many: bool = False
    limits: bool = False  # memory and CPU limits are enforced


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """Start (or find again) the runner of one replica.

    `server_url` is where the runner dials, `token` its one-attempt secret: pass it by file or standard input, never in
    arguments or a listing. `installation` and `attempt` must be findable from outside afterwards (name, label, tag).
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
    """What was seen of one handle. `detail` is a sentence for people."""

    handle: Handle
    state: ObservedState
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRecord:
    """What the runner wrote before it ended. `is_final` tells that its logs and outputs are with the server too."""

    outcome: Outcome
    outputs: Mapping[str, object] = field(default_factory=dict)
    is_final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether the engine answers, its version, and notices for the operator ("no cgroup: memory limits are not enforced")."""

    is_ready: bool
    version: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The nodes there are, with `used_*` left at zero (what we hold is ours to count)."""

    nodes: tuple[Node, ...] = ()


class Backend(Protocol):
    """One registered cluster of one engine kind. A plug-in's factory builds it: `create(cluster, folder, installation)`."""

    capabilities: Capabilities

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
