"""The Slurm backend: each replica is a batch job whose process is the runner, found again by its name.

The folder of a replica lies where login host and nodes both see it. Slurm keeps the queue of its own; we submit what the plan
admitted, to the node that it chose, and count what others hold there.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from mainspring.backends.again import refusals
from mainspring.backends.deadlines import Deadlines
from mainspring.backends.grants import thread_env
from mainspring.backends.launches import exit_record, json_object, launch_record, runner_zip
from mainspring.backends.openssh import Login, run_python
from mainspring.backends.slurm.door import Asked, Door, Said, here
from mainspring.backends.slurm.findings import (
    free_disk,
    limits_of,
    missing_commands,
    old_python,
    refused_job,
    unknown_partition,
    unlimited,
    unreachable,
    unseen_folder,
    unusable_folder,
    without_python,
)
from mainspring.backends.slurm.gangs import (
    STEP,
    Step,
    gang_name,
    gang_script,
    gently,
    is_gang,
    is_whole,
    layout,
    member_script,
    step_of,
    words_of_gang,
)
from mainspring.backends.slurm.options import OPTIONS, for_run, login_of
from mainspring.backends.slurm.reasons import outcome_of, waiting
from mainspring.backends.slurm.script import (
    JOB,
    PASSED_ON,
    SIGNALS,
    array_name,
    batch_script,
    comment_of,
    cpus_of,
    folder_of_element,
    is_array,
    memory_mib,
    option_words,
    owner_of,
    pythons_of,
    sbatch_words,
    shape_of,
    words_of_array,
    words_of_one,
)
from mainspring.backends.slurm.text import JOB_FORMAT, Job, has_features, last_word, node_of, parse_jobs, parse_nodes
from mainspring.core.backend import (
    Capabilities,
    Engine,
    ExitRecord,
    Handle,
    Inventory,
    LaunchRequest,
    Observation,
    ObservedState,
    Probe,
)
from mainspring.core.errors import BackendError, CredentialsError, LaunchError, UnreachableError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause, Cluster, NodeState, Outcome

MARGIN_S = 2.0
DRAIN_S = 30.0  # what a runner that only tells the end has left
_QUEUE = ("SLURM_TIME_FORMAT=%s", "squeue", "--me", "--array", "--noheader", "--states=all", f"--format={JOB_FORMAT}")
_STEPS = ("squeue", "--me", "--steps", "--noheader", "--format=%i")
_TELLING = ("OUT_OF_MEMORY", "TIMEOUT", "DEADLINE", "PREEMPTED")  # what runs again would end the same way, or was taken away
_NODES = ("scontrol", "--oneliner", "--details", "show", "node")
_WRONG_ACCOUNT = "Invalid account"
_ACCESS = ("Access/permission denied", _WRONG_ACCOUNT, "Authentication", "Protocol authentication", "Munge", "munge")
_REFUSED = ("Requested node configuration", "Invalid", "invalid", "not available", "Limit", "limit", "Unable to allocate")


def create(cluster: Cluster, folder: Path, installation: str) -> SlurmBackend:
    """Build the backend of a Slurm cluster; nobody is called yet."""
    login = login_of(cluster.config, folder)
    return SlurmBackend(cluster, folder, installation, Door(here if login is None else partial(run_python, login)), login)


class _Member(NamedTuple):
    """An element of an array, or a member of a gang: then `node` is where the plan put it."""

    folder: str
    comment: str
    node: str = ""


@dataclass(slots=True)
class SlurmBackend:
    """One Slurm cluster. Thread safe: launches take turns; another process's are kept apart by the runner's lock."""

    cluster: Cluster
    folder: Path
    installation: str
    door: Door
    login: Login | None = None
    _launching: threading.Lock = field(default_factory=threading.Lock)
    _crowds: dict[str, list[_Member]] = field(default_factory=dict)  # by the name of an array or a gang
    _runner: tuple[str, bytes] | None = None
    _ends: dict[tuple[str, int], Outcome] = field(default_factory=dict)  # of jobs that have left the queue
    _deadlines: Deadlines = field(init=False)

    def __post_init__(self) -> None:
        """Tie the deadlines to this backend."""
        self._deadlines = Deadlines(self._kill)

    @property
    def capabilities(self) -> Capabilities:
        """Return what Slurm can do; its nodes reach a server on loopback only if they are this machine."""
        needs_network = self.login is not None and not self.cluster.config.get("server_url")
        return Capabilities(places_itself=True, limits=True, launch_many=True, needs_network=needs_network)

    def probe(self) -> Probe:
        """Ask for the version, the controller, the partitions, and whether we may submit; see the contract."""
        try:
            answer = self.door.ask(
                Asked(
                    run=[
                        ["sinfo", "--version"],
                        ["scontrol", "ping"],
                        ["sinfo", "--noheader", "--format=%R"],
                        ["scontrol", "show", "config"],
                        ["squeue", "--me", "--noheader", "--format=%i"],
                        ["sbatch", "--version"],
                        ["sbatch", "--test-only", "--wrap=true", *option_words(self.cluster.config)],
                        ["mkdir", "-p", "-m", "700", self._base()],
                        ["test", "-w", self._base()],
                        ["df", "-Pk", self._base()],
                    ]
                )
            )
        except (CredentialsError, LaunchError) as wrong:
            return Probe(is_ready=False, notices=refusals(self.cluster, OPTIONS, wrong))
        version, ping, told, config, queue, sbatch, tried, *folder, disk = answer.said
        where = f"on {self.login.host}" if self.login is not None else "on this machine"
        notices = missing_commands({"sinfo": version, "scontrol": ping, "squeue": queue, "sbatch": sbatch}, where)
        if notices:
            return Probe(is_ready=False, notices=notices)
        partitions = sorted(set(told.out.split()))
        notices = (*unreachable(ping, queue), *unknown_partition(self.cluster, partitions), *old_python(answer.python, where))
        facts = {"commands": where, "partitions": ", ".join(partitions), "memory limits": limits_of(config.out)}
        facts["free disk"] = free_disk(disk)
        notices = (*notices, *unusable_folder(self.cluster, folder, self._base(), where))
        is_ready = not notices
        if is_ready:
            is_ready, notices = refused_job(self.cluster, tried)
        if is_ready and not facts["memory limits"].startswith("kept"):
            notices = (*notices, unlimited())
        return Probe(is_ready=is_ready, version=version.out.strip(), notices=notices, facts=facts)

    def inventory(self) -> Inventory:
        """Return Slurm's nodes, less what others' jobs hold there."""
        nodes, queue = self._ask(list(_NODES), list(_QUEUE))
        wanted = {one for one in str(self.cluster.config.get("partition") or "").split(",") if one}
        ours: dict[str, list[Job]] = {}
        for job in self._by_key(parse_jobs(queue.out)).values():
            if job.runs():
                ours.setdefault(job.node, []).append(job)
        constraint = str(self.cluster.config.get("constraint") or "")
        fields = [
            one
            for one in parse_nodes(nodes.out)
            if (not wanted or wanted & set(one.get("Partitions", "").split(","))) and has_features(one, constraint)
        ]
        return Inventory(nodes=tuple(node_of(self.cluster, one, ours.get(one["NodeName"], [])) for one in fields))

    def launch(self, request: LaunchRequest) -> Handle:
        """Submit the job unless it is there; see the contract."""
        (answer,) = self.launch_many([request])
        if isinstance(answer, Handle):
            return answer
        raise answer

    def launch_many(self, requests: Sequence[LaunchRequest]) -> Sequence[Handle | BackendError]:
        """Submit those that are not there, equal ones in one array; see the contract."""
        with self._launching:
            jobs = self._jobs()
            crowds: dict[tuple[object, ...], list[LaunchRequest]] = {}
            answers: dict[tuple[str, int], Handle | BackendError] = {}
            for request in requests:
                key = (request.attempt, request.replica)
                answers[key] = self._handle(*key, request.node.name)
                if key in jobs and jobs[key].lives():
                    self._readdress(request)
                else:
                    crowds.setdefault(shape_of(request), []).append(request)
                    self._died_of(request, jobs.get(key))
            for crowd in _gathered(crowds.values()):
                wrong = self._submit(crowd)
                if wrong is not None:
                    answers.update(((request.attempt, request.replica), wrong) for request in crowd)
            return [answers[request.attempt, request.replica] for request in requests]

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """Ask for all jobs and nodes at once."""
        told, nodes = self._ask(list(_QUEUE), list(_NODES))
        jobs = self._seen(parse_jobs(told.out))
        states = {one["NodeName"]: node_of(self.cluster, one, ()).state for one in parse_nodes(nodes.out)}
        return [_observation(handle, jobs.get((handle.attempt, handle.replica)), states) for handle in handles]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Let Slurm pass SIGTERM to the runner; end the job once the grace is over."""
        job = self._find(handle)
        if job is not None and job.lives():
            step = self._step(handle, job)
            if not job.runs():
                self.door.ask(Asked(run=[["scancel", job.id]]))
            elif not is_gang(job.name, self.installation):
                self.door.ask(Asked(run=[["scancel", "--batch", "--signal=TERM", job.id]]))
            elif step is not None:
                self.door.ask(Asked(run=[gently(step, job.node)]))
            self._deadlines.set(handle, grace_s + MARGIN_S)

    def owned(self) -> Sequence[Handle]:
        """Return each job of this installation that has not ended."""
        return [self._handle(*key, job.node) for key, job in self._jobs().items() if job.lives()]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return what Slurm tells of the job, and its script."""
        newest = self._find(handle)
        if newest is None:
            return {"folder": _folder(handle)}
        output = self._output(newest, handle)
        answer = self.door.ask(
            Asked(
                run=[
                    ["scontrol", "--oneliner", "show", "job", newest.id],
                    ["scontrol", "write", "batch_script", newest.id.partition("_")[0], "-"],
                ],
                read=[output],
            )
        )
        return {
            "job": newest.id,
            "state": newest.state,
            "node": newest.node,
            "reason": newest.reason,
            "details": answer.said[0].out.strip(),
            "script": answer.said[1].out,
            "output": (answer.read[output] or b"")[-2000:].decode("utf-8", "replace"),
            "folder": _folder(handle),
        }

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return what the runner wrote before it ended, else Slurm's last word for its job."""
        exit, job = f"{_folder(handle)}/exit.json", f"{_folder(handle)}/{JOB}"
        read = self.door.ask(Asked(read=[exit, job])).read
        record = exit_record(json_object(read[exit]))
        if record is not None:
            return record
        seen = self._find(handle)
        unseen = self._unbegun(seen, handle) if seen is not None and seen.state == "FAILED" else None
        if unseen is not None:  # nobody on that node could tell more
            return ExitRecord(outcome=unseen, is_final=True)
        state = seen.state if seen is not None else self._last_word((read[job] or b"").decode("ascii", "replace").strip())
        outcome = outcome_of(state)
        if outcome is None:
            return None
        self._ends[handle.attempt, handle.replica] = outcome
        return ExitRecord(outcome=outcome)

    def _unbegun(self, job: Job, handle: Handle) -> Outcome | None:
        """Return why a job ended in which no runner could begin; None where that is not so."""
        output = self._output(job, handle)
        answer = self.door.ask(Asked(run=[["scontrol", "--oneliner", "show", "job", job.id]], read=[output]))
        told = answer.said[0].out
        return unseen_folder(told, job.node, _folder(handle)) or without_python(told, job.node, answer.read[output] or b"")

    def _output(self, job: Job, handle: Handle) -> str:
        """Return the file of what the job printed."""
        if is_array(job.name, self.installation):
            return f"{self._base()}/arrays/{job.name}/{job.element()}.out"
        return f"{_folder(handle)}/slurm.out"

    def _last_word(self, job: str) -> str:
        """Return the state in which a job ended that has left the queue, by Slurm's accounting or its list of ended jobs."""
        if not job.isdecimal():
            return ""
        words = ["sacct", "--noheader", "--parsable2", f"--jobs={job}"]
        answer = self.door.ask(
            Asked(run=[[*words, "--allocations", "--format=State"], [*words, "--completion", "--format=state"]])
        )
        return last_word(*(said.out for said in answer.said if said.code == 0))

    def forget(self, handle: Handle) -> None:
        """Remove the replica's folder; Slurm forgets the job by itself."""
        self._deadlines.drop(handle)
        self._ends.pop((handle.attempt, handle.replica), None)
        if handle.data.get("folder"):
            self.door.ask(Asked(remove=[_folder(handle)]))

    def _submit(self, crowd: Sequence[LaunchRequest]) -> BackendError | None:
        """Submit replicas of one shape in one call of sbatch; return why they were not taken."""
        first, base = crowd[0], self._base()
        bundle, data = self._bundle()
        runner = f"{base}/{bundle}"
        try:
            config = for_run(self.cluster.config, first.overrides)
        except LaunchError as wrong:
            return wrong
        files: dict[str, bytes] = {}
        for request in crowd:
            record = self._record(request)
            files[f"{self._place(request)}/token"] = request.token.encode()
            files[f"{self._place(request)}/launch.json"] = json.dumps(record).encode()
        nodes, each, known = 1, 1, self.door.python(pythons_of(config)[0])
        if len(crowd) == 1:
            script = batch_script(first, shlex.quote(self._place(first)), runner, config, known)
            words = words_of_one(first, self._place(first))
        elif first.world_size > 1:
            name = gang_name(self.installation, first.attempt)
            place = self._crowd_files(files, name, crowd)
            files[f"{place}/members"] = "".join(f"{one.node.name} {self._place(one)}\n" for one in crowd).encode()
            files[f"{place}/member"] = member_script(first, runner, config, known).encode()
            script = gang_script(crowd, place, cpus_of(first), memory_mib(first))
            words = words_of_gang(name, place, crowd)
            nodes, each = layout(crowd)
        else:
            name = array_name(self.installation, [f"{one.attempt}.{one.replica}" for one in crowd])
            place = self._crowd_files(files, name, crowd)
            script = batch_script(first, folder_of_element(place), runner, config, known)
            words = words_of_array(name, place, len(crowd))
        shape = sbatch_words(first, config, nodes=nodes, each=each)
        asked = Asked(write=files, kept={runner: data}, run=[[*shape, *words]], script=script, passed=(*PASSED_ON, "SLURM_CONF"))
        (said,) = self.door.ask(asked).said
        return None if said.code == 0 else _refused(said, first, self.cluster.config)

    def _crowd_files(self, files: dict[str, bytes], name: str, crowd: Sequence[LaunchRequest]) -> str:
        """Write down who is in an array or a gang, for scripts there and for whoever looks at it later; return where."""
        place = f"{self._base()}/arrays/{name}"
        files[f"{place}/folders"] = "".join(f"{self._place(one)}\n" for one in crowd).encode()
        files[f"{place}/comments"] = "".join(f"{comment_of(one)}\n" for one in crowd).encode()
        files[f"{place}/nodes"] = "".join(f"{one.node.name if one.world_size > 1 else ''}\n" for one in crowd).encode()
        return place

    def _died_of(self, request: LaunchRequest, job: Job | None) -> None:
        """Leave Slurm's word of how the runner ended for the one that follows and reports: it cannot know."""
        outcome = outcome_of(job.state) if job is not None and job.state in _TELLING else None
        outcome = outcome or self._ends.pop((request.attempt, request.replica), None)
        if outcome is not None:
            told = {"cause": str(outcome.cause), "exit_code": outcome.exit_code, "message": outcome.message}
            path = f"{self._place(request)}/ended.json"
            self.door.ask(Asked(kept={path: json.dumps({"outcome": told}).encode()}))

    def _readdress(self, request: LaunchRequest) -> None:
        """Tell a living runner where the server is now; it looks there whenever it has to connect anew."""
        path = f"{self._place(request)}/launch.json"
        told = json_object(self.door.ask(Asked(read=[path])).read[path])
        if told and told.get("server_url") != self._record(request)["server_url"]:
            self.door.ask(Asked(write={path: json.dumps({**told, **self._record(request)}).encode()}))

    def _record(self, request: LaunchRequest) -> dict[str, object]:
        url = str(self.cluster.config.get("server_url") or request.server_url)
        return launch_record(
            replace(request, server_url=url),
            f"{self._base()}/cache",
            thread_env(request.granted),
            cgroup=f"{self._place(request)}/cgroup",
            term_cause=str(Cause.PREEMPTED),
            signals=SIGNALS,
        )

    def _kill(self, handle: Handle, is_last: bool) -> float:
        """End the job; return the seconds that a runner that is only telling the end still has."""
        path = f"{_folder(handle)}/ended.json"
        if not is_last and self.door.ask(Asked(read=[path])).read[path] is not None:
            return DRAIN_S
        job = self._find(handle)
        if job is not None and job.lives():
            step = self._step(handle, job)
            if step is not None:
                self.door.ask(Asked(run=[["scancel", "--signal=KILL", step.id]]))
            else:
                self.door.ask(Asked(run=[["scancel", "--full", "--signal=KILL", job.id], ["scancel", job.id]]))
        return 0.0

    def _ask(self, *commands: list[str]) -> list[Said]:
        return [_checked(said) for said in self.door.ask(Asked(run=commands)).said]

    def _find(self, handle: Handle) -> Job | None:
        return self._jobs().get((handle.attempt, handle.replica))

    def _jobs(self) -> dict[tuple[str, int], Job]:
        (queue,) = self._ask(list(_QUEUE))
        return self._seen(parse_jobs(queue.out))

    def _seen(self, jobs: Sequence[Job]) -> dict[tuple[str, int], Job]:
        """Return our jobs by replica; a member of a gang whose step is over has ended, though its job goes on."""
        found = self._by_key(jobs)
        running = {key: job for key, job in found.items() if job.runs() and is_gang(job.name, self.installation)}
        if not running:
            return found
        paths = {key: f"{self._base()}/attempts/{key[0]}.{key[1]}/{STEP}" for key in running}
        answer = self.door.ask(Asked(run=[list(_STEPS)], read=list(paths.values())))
        going = set(_checked(answer.said[0]).out.split())
        for key, job in running.items():
            step = step_of(answer.read[paths[key]], job.id)
            if step is not None and step.id not in going:
                found[key] = replace(job, state="COMPLETED")
        return found

    def _step(self, handle: Handle, job: Job) -> Step | None:
        """Return the step of a gang's member; None before it has begun, and for jobs of one replica."""
        if not is_gang(job.name, self.installation):
            return None
        path = f"{_folder(handle)}/{STEP}"
        return step_of(self.door.ask(Asked(read=[path])).read[path], job.id)

    def _by_key(self, jobs: Sequence[Job]) -> dict[tuple[str, int], Job]:
        """Return our jobs by replica; one that lives stands before those that ended, a newer one before an older."""
        self._learn(job.name for job in jobs if self._is_crowd(job.name))
        found: dict[tuple[str, int], Job] = {}
        for job in sorted(jobs, key=lambda job: (job.lives(), job.number())):
            members = self._crowds.get(job.name)
            key = owner_of(job.name, self.installation)
            if members is None:
                if key is not None:
                    found[key] = job
            elif is_gang(job.name, self.installation):
                found.update((_key_of(one), _part(job, one, members)) for one in members)
            elif job.element() < len(members):
                one = members[job.element()]
                found[_key_of(one)] = replace(job, comment=one.comment)
        return found

    def _is_crowd(self, name: str) -> bool:
        return is_array(name, self.installation) or is_gang(name, self.installation)

    def _learn(self, names: Iterable[str]) -> None:
        """Read which replicas the arrays and gangs are of that an earlier process submitted."""
        base = self._base()
        unknown = sorted({name for name in names if name not in self._crowds})
        if not unknown:
            return
        files = ("folders", "comments", "nodes")
        paths = {name: [f"{base}/arrays/{name}/{file}" for file in files] for name in unknown}
        read = self.door.ask(Asked(read=[path for three in paths.values() for path in three])).read
        for name, three in paths.items():
            lists = [(read[path] or b"").decode("utf-8", "replace").split("\n")[:-1] for path in three]
            if lists[0]:
                self._crowds[name] = [_Member(*row) for row in zip_longest(*lists, fillvalue="")]

    def _handle(self, attempt: str, replica: int, node: str) -> Handle:
        data = {"folder": f"{self._base()}/attempts/{attempt}.{replica}", "node": node}
        return Handle(attempt=AttemptId(attempt), replica=replica, data=data)

    def _place(self, request: LaunchRequest) -> str:
        return f"{self._base()}/attempts/{request.attempt}.{request.replica}"

    def _base(self) -> str:
        """Return the folder that login host and nodes share."""
        told = str(self.cluster.config.get("folder") or f".mainspring/slurm/{self.installation}").rstrip("/")
        return told if told.startswith("/") else f"{self.door.home()}/{told.removeprefix('~/')}"

    def _bundle(self) -> tuple[str, bytes]:
        if self._runner is None:
            path = runner_zip(self.folder)
            self._runner = (path.name, path.read_bytes())
        return self._runner


def _observation(handle: Handle, job: Job | None, nodes: Mapping[str, NodeState]) -> Observation:
    """Conclude from the job and its node. A job lost with its node may run on behind a cut network: nobody can tell."""
    if job is not None and job.lives():
        words = waiting(job.state, job.reason)
        return Observation(
            handle=handle,
            state=ObservedState.RUNNING,
            detail=f"{job.state}: {words}" if words else f"Slurm: {job.state}",
            waiting=words,
            expected_at=job.starts_at if words else None,
        )
    node = (job.node if job is not None else "") or str(handle.data.get("node") or "")  # Slurm may have chosen another
    is_cut = nodes.get(node) is NodeState.UNREACHABLE
    if is_cut and (job is None or job.state == "NODE_FAIL"):
        return Observation(handle=handle, state=ObservedState.UNKNOWN, detail=f"Slurm: node {node} does not answer")
    return Observation(handle=handle, state=ObservedState.GONE, detail=f"Slurm: {job.state}" if job is not None else "")


def _key_of(member: _Member) -> tuple[str, int]:
    attempt, _, replica = member.folder.rpartition("/")[2].rpartition(".")
    return attempt, int(replica)


def _part(job: Job, member: _Member, members: Sequence[_Member]) -> Job:
    """Return a gang's job as far as it is one member's."""
    each = max(1, sum(one.node == member.node for one in members))
    return replace(
        job,
        comment=member.comment,
        node=member.node,
        cpus=job.cpus // len(members),
        memory_bytes=job.memory_bytes // each,
        gpus=job.gpus // each,
    )


def _gathered(crowds: Iterable[list[LaunchRequest]]) -> list[list[LaunchRequest]]:
    """Return what goes in one call of sbatch each: equal replicas, whole gangs, and the members of others one by one."""
    found: list[list[LaunchRequest]] = []
    gangs: dict[str, list[LaunchRequest]] = {}
    for crowd in crowds:
        if crowd[0].world_size > 1:
            gangs.setdefault(crowd[0].attempt, []).extend(crowd)
        else:
            found.append(crowd)
    for members in gangs.values():
        found += [members] if is_whole(members) else [[member] for member in members]
    return found


def _checked(said: Said) -> Said:
    """Return what a command said. Raises UnreachableError, CredentialsError when it failed."""
    if said.code == 0:
        return said
    told = said.err.strip()[:300] or said.out.strip()[:300]
    if any(word in told for word in _ACCESS):
        raise CredentialsError(f"Slurm refuses us: {told}")
    raise UnreachableError(f"Slurm does not answer: {told}")


def _refused(said: Said, request: LaunchRequest, config: Mapping[str, object]) -> BackendError:
    told = said.err.strip().removeprefix("sbatch: ")[:400]
    own = [name for name in ("account", "partition") if request.overrides.get(name) not in (None, config.get(name))]
    is_runs_own = _WRONG_ACCOUNT in told and bool(own)
    if any(word in told for word in _ACCESS) and not is_runs_own:
        return CredentialsError(f"Slurm refuses us: {told}")
    if is_runs_own or any(word in told for word in _REFUSED):
        return LaunchError(f"Slurm does not take attempt {request.attempt}: {told}")
    return UnreachableError(f"Slurm does not answer: {told}")


def _folder(handle: Handle) -> str:
    return str(handle.data.get("folder", "/nonexistent"))


ENGINE = Engine(
    create=create,
    help="A Slurm cluster, by the commands on this machine (slurm local) or on a login host.",
    options=OPTIONS,
    targets="LOGIN",
    min_targets=1,
    max_targets=1,
)
