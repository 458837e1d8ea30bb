"""The Slurm backend: each replica is a batch job whose process is the runner, found again by its name.

The folder of a replica lies where login host and nodes both see it. Slurm keeps the queue of its own; we submit what the plan
admitted, to the node that it chose, and count what others hold there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mainspring.backends.deadlines import Deadlines
from mainspring.backends.grants import thread_env
from mainspring.backends.launches import exit_record, launch_record, runner_zip
from mainspring.backends.slurm.door import Asked, Door, Said, here
from mainspring.backends.slurm.options import OPTIONS, for_run
from mainspring.backends.slurm.script import batch_script, job_name, owner_of, sbatch_words
from mainspring.backends.slurm.text import JOB_FORMAT, Job, node_of, parse_jobs, parse_nodes
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
    Probe,
)
from mainspring.core.errors import CredentialsError, LaunchError, UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cluster, NodeState

CAPABILITIES = Capabilities(places_itself=True, limits=True)
MARGIN_S = 2.0
DRAIN_S = 30.0  # what a runner that only tells the end has left
MIN_PYTHON = (3, 9)
_QUEUE = ("squeue", "--me", "--noheader", "--states=all", f"--format={JOB_FORMAT}")
_NODES = ("scontrol", "--oneliner", "--details", "show", "node")
_ACCESS = ("Access/permission denied", "Invalid account", "Authentication", "Protocol authentication", "Munge", "munge")
_REFUSED = ("Requested node configuration", "Invalid", "invalid", "not available", "Limit", "limit", "Unable to allocate")


def create(cluster: Cluster, folder: Path, installation: str) -> SlurmBackend:
    """Build the backend of a Slurm cluster whose commands are on this machine."""
    return SlurmBackend(cluster, folder, installation, Door(here))


@dataclass(slots=True)
class SlurmBackend:
    """One Slurm cluster. Thread safe: launches of one replica are kept apart here, and by the runner's lock on its folder."""

    cluster: Cluster
    folder: Path
    installation: str
    door: Door
    capabilities: Capabilities = CAPABILITIES
    _launching: dict[tuple[str, int], threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _runner: tuple[str, bytes] | None = None
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines to this backend."""
        self._deadlines = Deadlines(self._kill)

    def probe(self) -> Probe:
        """Ask for the version and the controller."""
        answer = self.door.ask(Asked(run=[["sinfo", "--version"], ["scontrol", "ping"]]))
        version, ping = answer.said
        if version.code != 0:
            return Probe(is_ready=False, notices=(Notice(text=f"Slurm's commands are not there: {version.err.strip()}."),))
        notices: list[Notice] = []
        if "UP" not in ping.out:
            told = (ping.out or ping.err).strip()[:200]
            notices.append(Notice(text=f"Slurm's controller does not answer: {told}", command="scontrol ping"))
        if tuple(int(part) for part in answer.python.split(".")[:2]) < MIN_PYTHON:
            notices.append(Notice(text=f"The login host has Python {answer.python}; 3.9 is needed."))
        return Probe(is_ready=not notices, version=version.out.strip(), notices=tuple(notices))

    def inventory(self) -> Inventory:
        """Return Slurm's nodes, less what others' jobs hold there."""
        nodes, jobs = self._ask(list(_NODES), list(_QUEUE))
        partition = str(self.cluster.config.get("partition") or "")
        ours: dict[str, list[Job]] = {}
        for job in self._ours(parse_jobs(jobs.out)):
            if job.runs():
                ours.setdefault(job.node, []).append(job)
        fields = [one for one in parse_nodes(nodes.out) if not partition or partition in one.get("Partitions", "").split(",")]
        return Inventory(nodes=tuple(node_of(self.cluster, one, ours.get(one["NodeName"], [])) for one in fields))

    def launch(self, request: LaunchRequest) -> Handle:
        """Submit the job unless it is there; see the contract."""
        handle = self._handle(request.attempt, request.replica, request.node.name)
        with self._lock:
            turn = self._launching.setdefault((request.attempt, request.replica), threading.Lock())
        with turn:
            folder = _folder(handle)
            name = job_name(self.installation, request.attempt, request.replica)
            asked = Asked(run=[[*_QUEUE, f"--name={name}"]], read=[f"{folder}/launch.json"])
            answer = self.door.ask(asked)
            jobs = parse_jobs(_checked(answer.said[0]).out)
            record = launch_record(request, f"{self._base()}/cache", thread_env(request.granted))
            if any(job.lives() for job in jobs):
                self._readdress(folder, record, answer.read[f"{folder}/launch.json"])
            else:
                self._submit(request, folder, record)
        return handle

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Ask for all jobs and nodes at once."""
        told, nodes = self._ask(list(_QUEUE), list(_NODES))
        jobs = self._by_key(parse_jobs(told.out))
        states = {one["NodeName"]: node_of(self.cluster, one, ()).state for one in parse_nodes(nodes.out)}
        return [_observation(handle, jobs.get((handle.attempt, handle.replica)), states) for handle in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Let Slurm pass SIGTERM to the runner; end the job once the grace is over."""
        name = job_name(self.installation, handle.attempt, handle.replica)
        pending = ["scancel", "--me", f"--name={name}", "--state=PENDING"]
        self.door.ask(Asked(run=[pending, ["scancel", "--me", f"--name={name}", "--batch", "--signal=TERM"]]))
        self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each job of this installation that has not ended."""
        (told,) = self._ask(list(_QUEUE))
        found = self._by_key(parse_jobs(told.out))
        return [self._handle(*key, job.node) for key, job in found.items() if job.lives()]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return what Slurm tells of the job, and its script."""
        name = job_name(self.installation, handle.attempt, handle.replica)
        (told,) = self._ask([*_QUEUE, f"--name={name}"])
        jobs = parse_jobs(told.out)
        if not jobs:
            return {"name": name, "folder": _folder(handle)}
        newest = max(jobs, key=lambda job: int(job.id) if job.id.isdecimal() else 0)
        answer = self.door.ask(
            Asked(
                run=[["scontrol", "--oneliner", "show", "job", newest.id], ["scontrol", "write", "batch_script", newest.id, "-"]],
                read=[f"{_folder(handle)}/slurm.out"],
            )
        )
        return {
            "job": newest.id,
            "state": newest.state,
            "node": newest.node,
            "reason": newest.reason,
            "details": answer.said[0].out.strip(),
            "script": answer.said[1].out,
            "output": (answer.read[f"{_folder(handle)}/slurm.out"] or b"")[-2000:].decode("utf-8", "replace"),
            "folder": _folder(handle),
        }

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended."""
        path = f"{_folder(handle)}/exit.json"
        data = self.door.ask(Asked(read=[path])).read[path]
        return exit_record(_record(data))

    def forget(self, handle: Handle) -> None:
        """Remove the replica's folder; Slurm forgets the job by itself."""
        self._deadlines.drop(handle)
        with self._lock:
            self._launching.pop((handle.attempt, handle.replica), None)
        if handle.data.get("folder"):
            self.door.ask(Asked(remove=[_folder(handle)]))

    def _submit(self, request: LaunchRequest, folder: str, record: Mapping[str, object]) -> None:
        name, data = self._bundle()
        runner = f"{self._base()}/{name}"
        config = for_run(self.cluster.config, request.overrides)
        script = batch_script(request, folder, runner, config)
        files = {f"{folder}/token": request.token.encode(), f"{folder}/launch.json": json.dumps(record).encode()}
        words = sbatch_words(request, folder, config)
        (said,) = self.door.ask(Asked(write=files, kept={runner: data}, run=[words], script=script)).said
        if said.code != 0:
            raise _refused(said, request)

    def _readdress(self, folder: str, record: Mapping[str, object], known: bytes | None) -> None:
        """Tell a living runner where the server is now; it looks there whenever it has to connect anew."""
        told = _record(known)
        if told and told.get("server_url") != record["server_url"]:
            self.door.ask(Asked(write={f"{folder}/launch.json": json.dumps({**told, **record}).encode()}))

    def _kill(self, handle: Handle, is_last: bool) -> float:
        """End the job; return the seconds that a runner that is only telling the end still has."""
        path = f"{_folder(handle)}/ended.json"
        if not is_last and self.door.ask(Asked(read=[path])).read[path] is not None:
            return DRAIN_S
        name = job_name(self.installation, handle.attempt, handle.replica)
        kill = ["scancel", "--me", f"--name={name}", "--full", "--signal=KILL"]
        self.door.ask(Asked(run=[kill, ["scancel", "--me", f"--name={name}"]]))
        return 0.0

    def _ask(self, *commands: list[str]) -> list[Said]:
        return [_checked(said) for said in self.door.ask(Asked(run=commands)).said]

    def _ours(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs if owner_of(job.name, self.installation) is not None]

    def _by_key(self, jobs: Sequence[Job]) -> dict[tuple[str, int], Job]:
        """Return our jobs by replica; one that lives stands before those that ended."""
        found: dict[tuple[str, int], Job] = {}
        for job in jobs:
            key = owner_of(job.name, self.installation)
            if key is not None and (key not in found or not found[key].lives()):
                found[key] = job
        return found

    def _handle(self, attempt: str, replica: int, node: str) -> Handle:
        data = {"folder": f"{self._base()}/attempts/{attempt}.{replica}", "node": node}
        return Handle(attempt=AttemptId(attempt), replica=replica, data=data)

    def _base(self) -> str:
        """Return the folder that login host and nodes share."""
        told = str(self.cluster.config.get("folder") or "")
        return told.rstrip("/") or f"{self.door.home()}/.mainspring/slurm/{self.installation}"

    def _bundle(self) -> tuple[str, bytes]:
        if self._runner is None:
            path = runner_zip(self.folder)
            self._runner = (path.name, path.read_bytes())
        return self._runner


def _observation(handle: Handle, job: Job | None, nodes: Mapping[str, NodeState]) -> Observation:
    """Conclude from the job and its node. A job lost with its node may run on behind a cut network: nobody can tell."""
    if job is not None and job.lives():
        why = f": {job.reason}" if job.reason and not job.runs() else ""
        starts = f", expected to start {job.starts_at}" if job.starts_at and not job.runs() else ""
        return Observation(handle=handle, state=ObservedState.RUNNING, detail=f"Slurm: {job.state}{why}{starts}")
    node = str(handle.data.get("node") or (job.node if job is not None else ""))
    is_cut = nodes.get(node) is NodeState.UNREACHABLE
    if is_cut and (job is None or job.state == "NODE_FAIL"):
        return Observation(handle=handle, state=ObservedState.UNKNOWN, detail=f"Slurm: node {node} does not answer")
    return Observation(handle=handle, state=ObservedState.GONE, detail=f"Slurm: {job.state}" if job is not None else "")


def _checked(said: Said) -> Said:
    """Return what a command said. Raises UnreachableError, CredentialsError when it failed."""
    if said.code == 0:
        return said
    told = said.err.strip()[:300] or said.out.strip()[:300]
    if any(word in told for word in _ACCESS):
        raise CredentialsError(f"Slurm refuses us: {told}")
    raise UnreachableError(f"Slurm does not answer: {told}")


def _refused(said: Said, request: LaunchRequest) -> Exception:
    told = said.err.strip().removeprefix("sbatch: ")[:400]
    if any(word in told for word in _ACCESS):
        return CredentialsError(f"Slurm refuses us: {told}")
    if any(word in told for word in _REFUSED):
        return LaunchError(f"Slurm does not take attempt {request.attempt}: {told}")
    return UnreachableError(f"Slurm does not answer: {told}")


def _record(data: bytes | None) -> dict[str, object]:
    try:
        told = json.loads(data or b"")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _folder(handle: Handle) -> str:
    return str(handle.data.get("folder", "/nonexistent"))


ENGINE = Engine(
    create=create,
    help="A Slurm cluster, by the commands on this machine (slurm local) or on a login host.",
    options=OPTIONS,
    targets="LOGIN",
    max_targets=1,
)
