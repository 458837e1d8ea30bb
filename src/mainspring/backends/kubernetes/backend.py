"""The Kubernetes backend: each replica is a Job of one pod whose process is the runner, found again by its labels.

The plan chooses the node where nodes may be read, and the cluster's own scheduler has the last word; its refusals are told.
A runner's folder is its pod's. A container that died is started again there: that runner sends what is left and tells no
end; how it ended, Kubernetes knows better (out of memory, killed, evicted).
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from mainspring.backends.again import add_again
from mainspring.backends.kubernetes import doors, manifests, nodes, options, pods, rights
from mainspring.backends.kubernetes.api import Api, ExistsError, Json, MissingError, stranger
from mainspring.backends.kubernetes.flavours import Flavour, find_flavour
from mainspring.backends.kubernetes.listing import listed
from mainspring.backends.kubernetes.places import Place, find_place, stamp_of
from mainspring.backends.kubernetes.queues import unnamed_queue
from mainspring.backends.kubernetes.watch import Watch
from mainspring.backends.launches import launch_record, runner_zip
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
from mainspring.core.errors import BackendError, CapacityError, CredentialsError, LaunchError
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause, Cluster, NodeState, Outcome

log = logging.getLogger(__name__)
CAPABILITIES = Capabilities(places_itself=True, limits=True, images=True, hears_ends=True, needs_network=True)
NODES_S = 10.0  # how old what is known of nodes may be when pods are judged
RUNNER_S = 60.0  # how long a ConfigMap that was there is not looked for again
DRAIN_S = 30  # what a runner that only tells the end has left after a stop's grace
PLACE = "place.json"
ALIVE = "status.phase!=Succeeded,status.phase!=Failed"


def create(cluster: Cluster, folder: Path, installation: str) -> KubernetesBackend:
    """Build the backend of a cluster; it is looked for at the first call."""
    return KubernetesBackend(cluster, folder, installation)


@dataclass(slots=True)
class KubernetesBackend:
    """One name space of one cluster. Thread safe: what two launches create has one name, and Kubernetes keeps one of them."""

    cluster: Cluster
    folder: Path
    installation: str
    capabilities: Capabilities = CAPABILITIES
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _api: Api | None = None
    _flavour: Flavour | None = None
    _runner: tuple[str, bytes] | None = None
    _runner_at: float = -RUNNER_S - 1
    _ends: dict[pods.Key, Outcome] = field(default_factory=dict)  # what was seen of pods that may be gone by now
    _watched: Watch | None = None
    _is_closed: bool = False
    _stamp: tuple[tuple[int, int], ...] = ()
    _silent: tuple[float, tuple[str, ...]] = (-NODES_S, ())

    def probe(self) -> Probe:
        """Ask for the version, the flavour, our rights, and what there is for us."""
        try:
            return self._probe()
        except MissingError as wrong:
            told = stranger(self._door().place, str(wrong))
            return Probe(is_ready=False, notices=(Notice(text=told.message, command=_command(told.hint)),))
        except BackendError as wrong:
            return Probe(is_ready=False, notices=(Notice(text=wrong.message, command=_command(wrong.hint)),))

    def inventory(self) -> Inventory:
        """Return the nodes less what others' pods hold, or one node for what the name space may use."""
        api = self._door()
        try:
            machines = self._machines(api)
        except CredentialsError:
            quotas = self._quotas(api)
            holders = self._holders(api, f"{self._space()}/pods")
            return Inventory(nodes=nodes.from_quota(self.cluster, api.place.namespace, quotas, holders, self.installation))
        try:
            holders = self._holders(api, "/api/v1/pods")
        except CredentialsError:  # others' pods elsewhere are not to be seen: the cluster's scheduler will know
            holders = self._holders(api, f"{self._space()}/pods")
        return Inventory(nodes=nodes.from_machines(self.cluster, machines, holders, self.installation))

    def launch(self, request: LaunchRequest) -> Handle:
        """Create the Job unless it is there; see the contract."""
        api = self._door()
        name = manifests.object_name(self.installation, request.attempt, request.replica)
        try:
            job = api.get(f"{self._jobs()}/{name}")
        except MissingError:
            self._create(api, request, name)
        else:
            self._check_ours(job, request)
            self._readdress(api, request, job)
        return self._handle(request.attempt, request.replica)

    def observe(self, handles: Sequence[Handle]) -> Sequence[Observation]:
        """List our pods, and our Jobs if some handle has no pod."""
        api = self._door()
        known = self._pods(api)
        silent = self._silent_nodes(api) if known else ()
        now = api.now()
        keys = [(str(handle.attempt), handle.replica) for handle in handles]
        jobs = self._our_jobs(api) if any(key not in known for key in keys) else {}
        waiting = [key for key in set(keys) if key not in known and key in jobs]
        told = self._told_of(api, [jobs[key].metadata.name for key in waiting]) if waiting else {}
        found = {key: pods.states(known, jobs, key, now, silent, told) for key in set(keys)}
        for key, seen in found.items():
            if seen.outcome is not None and seen.state is not ObservedState.UNKNOWN:
                self._remember(key, seen)
            if seen.is_stuck and key in known:
                self._delete_pod(api, known[key], 1)
            elif seen.is_stuck:
                api.delete(f"{self._jobs()}/{jobs[key].metadata.name}")
        if any(pods.is_being_made(known[key]) for key in found if key in known):
            with contextlib.suppress(BackendError, MissingError):  # it waits on, and is asked for again
                self._ensure_runner(api)  # a pod whose ConfigMap somebody deleted would be made for ever
        return [
            Observation(handle=handle, state=found[key].state, detail=found[key].detail, waiting=found[key].waiting)
            for handle, key in zip(handles, keys, strict=True)
        ]

    def stop(self, handle: Handle, grace_s: float) -> None:
        """Delete the pod with its grace; the Job stays, and makes no other."""
        api = self._door()
        key = (str(handle.attempt), handle.replica)
        pod = self._pods(api, key).get(key)
        if pod is not None:
            if pod.status.phase not in ("Succeeded", "Failed"):
                self._delete_pod(api, pod, int(grace_s + 0.999) + DRAIN_S)
        else:  # none yet, or none any more
            job = self._our_jobs(api, key).get(key)
            if job is not None and not any(one.type in ("Failed", "Complete") for one in job.status.conditions):
                api.delete(f"{self._jobs()}/{job.metadata.name}")

    def owned(self) -> Sequence[Handle]:
        """Return each replica of this installation that has a living pod, or will have one."""
        api = self._door()
        known, jobs = self._pods(api), self._our_jobs(api)
        now = api.now()
        seen = {key: pods.states(known, jobs, key, now) for key in {*known, *jobs}}
        return [self._handle(*key) for key, one in seen.items() if one.state is not ObservedState.GONE]

    def native(self, handle: Handle) -> Mapping[str, object]:
        """Return the Job and its pods as Kubernetes tells of them."""
        api = self._door()
        selector = _selector(self.installation, (str(handle.attempt), handle.replica))
        found = _standing(api, f"{self._space()}/pods", labelSelector=selector)
        jobs = _standing(api, self._jobs(), labelSelector=selector)
        there = cast("Sequence[Mapping[str, Mapping[str, Mapping[str, str]]]]", jobs.get("items") or [])
        notes = there[0]["metadata"].get("annotations", {}) if there else {}
        ports = doors.ports_of(notes.get(doors.PORTS))
        name = manifests.object_name(self.installation, handle.attempt, handle.replica)
        more = {"ports": doors.addresses(api, name, ports)} if ports else {}
        return {"jobs": there, "pods": found.get("items", []), "namespace": api.place.namespace, **more}

    def read_exit(self, handle: Handle) -> ExitRecord | None:
        """Return how its container ended where its runner could not tell. What it had logged is with the server by then."""
        if not handle.data.get("job"):
            return None
        key = (str(handle.attempt), handle.replica)
        self.observe([handle])
        outcome = self._ends.get(key)
        return ExitRecord(outcome=outcome, is_final=True) if outcome is not None else None

    def forget(self, handle: Handle) -> None:
        """Delete the Job, and with it its pod and its Secret."""
        api = self._door()
        name = manifests.object_name(self.installation, handle.attempt, handle.replica)
        api.delete(f"{self._jobs()}/{name}")
        api.delete(f"{self._space()}/secrets/{name}")
        self._ends.pop((str(handle.attempt), handle.replica), None)

    def close(self) -> None:
        """Follow no pods any more, and let go of the connections; see `core.backend.Closes`."""
        with self._lock:
            watched, api = self._watched, self._api
            self._watched, self._api, self._is_closed = None, None, True
        if watched is not None:
            watched.close()
        if api is not None:
            api.close()

    def _probe(self) -> Probe:
        api = self._door()
        began = time.monotonic()
        told = api.get("/version")
        took_ms = (time.monotonic() - began) * 1000
        log.debug("kubernetes answered", extra={"cluster": self.cluster.id, "ms": took_ms})
        namespace = api.place.namespace
        lacking = rights.missing(api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", rights.asked(namespace)))
        notices: list[Notice] = []
        version = str(told.get("gitVersion"))
        if lacking:
            text = f"These rights are missing in name space {namespace}: {', '.join(lacking)}."
            space = ""
            if len(lacking) == rights.all_rights():
                text += " There is no right at all, so that nobody can tell whether that name space is there."
                space = rights.space_command(self._found_flavour(api).name, namespace)
            notices.append(Notice(text=text, command=rights.mending(namespace, _who(api), space)))
            return Probe(is_ready=False, version=version, notices=tuple(notices))
        if not self._has_space(api):
            command = rights.space_command(self._found_flavour(api).name, namespace)
            text = f"There is no name space {namespace} in this cluster (context {api.place.context})."
            return Probe(is_ready=False, version=version, notices=(Notice(text=text, command=command),))
        found = self.inventory().nodes
        if not found:
            text = f"Neither nodes nor a quota of name space {namespace} tell what there is: say it with --cpus and --memory."
            command = add_again(self.cluster, options.OPTIONS, namespace=namespace, cpus="64", memory="256")
            notices.append(Notice(text=text, command=command))
        elif not any(manifests.HOSTNAME in node.labels for node in found):
            text = "Nodes may not be read: the quota stands for all of them, and Kubernetes chooses the node."
            notices.append(Notice(text=text))
        if found:
            self._keep(api.place)
        notices += unnamed_queue(api, self.cluster, self._groups(api))
        facts = {"flavour": self._found_flavour(api).name, "context": api.place.context, "name space": namespace}
        drivers = nodes.drivers_of(found)
        facts |= {"driver": drivers} if drivers else {}
        return Probe(is_ready=bool(found), version=version, notices=tuple(notices), facts=facts)

    def _has_space(self, api: Api) -> bool:
        """Say whether our name space exists: it is asked to take an object that is not kept, which takes no further right."""
        nothing: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "mainspring-probe-"}}
        try:
            api.create(f"{self._space()}/configmaps", nothing, dryRun="All")
        except MissingError:
            return False
        except (CapacityError, LaunchError):  # a rule of the cluster's: it is there
            return True
        return True

    def _namespace(self) -> str:
        return self._door().place.namespace

    def _create(self, api: Api, request: LaunchRequest, name: str) -> None:
        config = options.for_run(self.cluster.config, request.overrides)
        config["pod_template"] = self._template()
        try:
            flavour = self._found_flavour(api)
            job = manifests.job(name, request, config, runner=self._ensure_runner(api), is_uid_given=flavour.is_uid_given)
            made = self._made(api, request, job, doors.ports_of(config.get("port")))
        except MissingError as wrong:  # what was to be made has no name space, or no Kubernetes to be in
            if "namespaces" not in str(wrong):
                raise stranger(api.place, str(wrong)) from wrong
            raise LaunchError(f"{wrong}.", hint=rights.space_command(self._found_flavour(api).name, self._namespace())) from wrong
        self._own(api, made)

    def _made(self, api: Api, request: LaunchRequest, job: Json, ports: Sequence[int]) -> Json:
        """Create the Secret, what leads to the ports, and the Job; where that is refused nothing is left of them."""
        name = str(cast("Mapping[str, object]", job["metadata"])["name"])
        secrets = f"{self._space()}/secrets"
        secret = manifests.secret(name, request, self._record(request))
        opened: tuple[str, ...] = ()
        try:
            opened = self._opened(api, name, manifests.labels(request), ports)
            try:
                api.create(secrets, secret)
            except ExistsError:
                api.patch(f"{secrets}/{name}", {"data": secret["data"]})
            try:
                made = api.create(self._jobs(), job)
            except ExistsError:
                made = api.get(f"{self._jobs()}/{name}")
            self._check_ours(made, request)
            return made
        except (LaunchError, CapacityError, MissingError):
            for path in (f"{secrets}/{name}", *opened):
                with contextlib.suppress(BackendError):  # the refusal is what is told
                    api.delete(path)
            raise

    def _opened(self, api: Api, name: str, marks: Mapping[str, str], ports: Sequence[int]) -> tuple[str, ...]:
        return doors.open_doors(api, name, marks, ports, has_routes=self._found_flavour(api).has_routes) if ports else ()

    def _check_ours(self, job: Json, request: LaunchRequest) -> None:
        """Raise LaunchError for a Job of somebody else's that has our name, UnreachableError for what is no Job."""
        told = cast("Mapping[str, Mapping[str, str]]", job.get("metadata"))
        if not isinstance(told, dict) or "uid" not in told:
            raise stranger(self._door().place, json.dumps(job))
        if not manifests.labels(request).items() <= told.get("labels", {}).items():
            where = f"Job {told['name']} of name space {self._namespace()}"
            raise LaunchError(f"{where} is in the way: it has the name of this run's, and is none of ours.")

    def _own(self, api: Api, job: Json) -> None:
        """Let what a Job needs go with it. Done again with each launch: the one before may have broken off."""
        told = cast("Mapping[str, Mapping[str, str]]", job["metadata"])
        name, ports = str(told["name"]), doors.ports_of(told.get("annotations", {}).get(doors.PORTS))
        paths = doors.paths(api, name, ports, has_routes=self._found_flavour(api).has_routes) if ports else ()
        for path in (f"{self._space()}/secrets/{name}", *paths):
            with contextlib.suppress(MissingError):
                api.patch(path, manifests.owned_by(job))

    def _readdress(self, api: Api, request: LaunchRequest, job: Json) -> None:
        """Tell a living runner where the server is now: the kubelet brings the Secret up to date within a minute or two."""
        self._own(api, job)
        told = cast("Mapping[str, Mapping[str, str]]", job["metadata"])
        if told.get("annotations", {}).get(manifests.SERVER) == request.server_url:
            return
        name = str(told["name"])
        secret = manifests.secret(name, request, self._record(request))
        with contextlib.suppress(MissingError):  # deleted since it was read: what is observed tells of it
            api.patch(f"{self._space()}/secrets/{name}", {"data": secret["data"]})
            api.patch(f"{self._jobs()}/{name}", {"metadata": {"annotations": {manifests.SERVER: request.server_url}}})

    def _record(self, request: LaunchRequest) -> dict[str, object]:
        return launch_record(
            request,
            f"{manifests.ATTEMPT_FOLDER}/cache",
            manifests.visible(request),
            cgroup=f"{manifests.ATTEMPT_FOLDER}/cgroup",
            engine_tells_end=True,
            exit_copy=manifests.TERMINATION_LOG,
            term_cause=str(Cause.PREEMPTED),
        )

    def _ensure_runner(self, api: Api) -> str:
        """Return the name of the ConfigMap with the runner, created at the first launch, and anew if somebody deleted it."""
        with self._lock:
            if self._runner is None:
                path = runner_zip(self.folder)
                self._runner = (f"mainspring-{path.stem}", path.read_bytes())
            name, data = self._runner
            if time.monotonic() - self._runner_at > RUNNER_S:
                with contextlib.suppress(ExistsError):
                    api.create(f"{self._space()}/configmaps", manifests.runner_map(name, data))
                self._runner_at = time.monotonic()
        return name

    def _template(self) -> dict[str, object]:
        path = str(self.cluster.config.get("template") or "")
        if not path:
            return {}
        import yaml  # type: ignore[import-untyped]  # lightkube brings it

        try:
            found = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as wrong:
            raise LaunchError(f"The pod template {path} cannot be read: {wrong}.") from wrong
        if not isinstance(found, dict):
            raise LaunchError(f"The pod template {path} is no object.", hint="It holds fields of a pod's spec, as nodeSelector.")
        return found

    def _pods(self, api: Api, key: pods.Key | None = None) -> dict[pods.Key, pods.Pod]:
        """Return our pods by replica; of several, the newest."""
        found: dict[pods.Key, pods.Pod] = {}
        if key is None and not self._is_closed:
            there = self._watch(api).pods()
        else:
            there, _ = listed(api, f"{self._space()}/pods", pods.Pod, labelSelector=_selector(self.installation, key))
        for pod in sorted(there, key=lambda one: str(one.metadata.creationTimestamp)):
            mark = pods.key_of(pod.metadata)
            if mark is not None:
                found[mark] = pod
        return found

    def _our_jobs(self, api: Api, key: pods.Key | None = None) -> dict[pods.Key, pods.Job]:
        there, _ = listed(api, self._jobs(), pods.Job, labelSelector=_selector(self.installation, key))
        marks = [(pods.key_of(job.metadata), job) for job in there]
        return {mark: job for mark, job in marks if mark is not None}

    def _watch(self, api: Api) -> Watch:
        with self._lock:
            if self._watched is None:
                self._watched = Watch(api, f"{self._space()}/pods", _selector(self.installation), partial(self._note, api))
            return self._watched

    def _note(self, api: Api, pod: pods.Pod) -> None:
        """Keep how a container ended as soon as it is told: a pod whose runner died is deleted by its Job once that was sent."""
        key = pods.key_of(pod.metadata)
        if key is not None:
            self._remember(key, pods.seen_pod(pod, api.now()))

    def _machines(self, api: Api) -> list[nodes.Machine]:
        return listed(api, "/api/v1/nodes", nodes.Machine)[0]

    def _holders(self, api: Api, path: str) -> list[nodes.Holder]:
        return listed(api, path, nodes.Holder, fieldSelector=ALIVE)[0]

    def _told_of(self, api: Api, jobs: Sequence[str]) -> dict[str, str]:
        """Return what Kubernetes last said of Jobs that have no pod: a quota is used up, a pod is not allowed."""
        try:
            events, _ = listed(api, f"{self._space()}/events", pods.Event, fieldSelector="involvedObject.kind=Job,type=Warning")
        except CredentialsError:
            return {}
        return {one.involvedObject.name: one.message for one in events if one.involvedObject.name in jobs}

    def _quotas(self, api: Api) -> list[Mapping[str, str]]:
        told = _standing(api, f"{self._space()}/resourcequotas")
        there = cast("list[dict[str, dict[str, dict[str, str]]]]", told.get("items") or [])
        return [one["spec"].get("hard", {}) for one in there if not {"scopes", "scopeSelector"} & set(one["spec"])]

    def _silent_nodes(self, api: Api) -> tuple[str, ...]:
        """Return the nodes that do not answer, as of a few seconds ago; none where nodes may not be read."""
        at, silent = self._silent
        if time.monotonic() - at > NODES_S:
            try:
                machines = self._machines(api)
                silent = tuple(one.metadata.name for one in machines if nodes.state_of(one) is NodeState.UNREACHABLE)
            except CredentialsError:
                silent = ()
            self._silent = (time.monotonic(), silent)
        return silent

    def _remember(self, key: pods.Key, seen: pods.Seen) -> None:
        """Keep how it ended: its pod may be gone when somebody asks. The first word stands, later ones are vaguer."""
        outcome = seen.outcome
        if outcome is not None and (
            seen.is_stuck or outcome.cause is not Cause.LAUNCH_FAILED or seen.state is ObservedState.GONE
        ):
            self._ends.setdefault(key, outcome)

    def _delete_pod(self, api: Api, pod: pods.Pod, grace_s: int) -> None:
        api.delete(f"{self._space()}/pods/{pod.metadata.name}", grace_s)

    def _groups(self, api: Api) -> dict[str, str]:
        """Return the API groups that the cluster has, each as it is asked for: `kueue.x-k8s.io/v1beta1`."""
        groups = cast("list[Mapping[str, object]]", _standing(api, "/apis").get("groups") or [])
        versions = {str(one["name"]): cast("Mapping[str, str]", one.get("preferredVersion") or {}) for one in groups}
        return {name: version.get("groupVersion", "") for name, version in versions.items()}

    def _found_flavour(self, api: Api) -> Flavour:
        if self._flavour is None:
            groups = self._groups(api)
            version = str(_standing(api, "/version").get("gitVersion"))
            try:
                labels = [one.metadata.labels for one in self._machines(api)]
            except CredentialsError:
                labels = []
            place = api.place
            self._flavour = find_flavour(place.url, place.context, groups, version, labels)
        return self._flavour

    def _door(self) -> Api:
        """Return the door; a kubeconfig that was written anew, as with fresh credentials, is read anew."""
        with self._lock:
            if self._api is not None and stamp_of(self._api.place.source) != self._stamp:
                if self._watched is not None:
                    self._watched.close()
                self._api = self._watched = None
            if self._api is None:
                place = find_place({**self.cluster.config, **self._kept()})
                self._stamp, self._api = stamp_of(place.source), Api(place)
            return self._api

    def _kept(self) -> dict[str, str]:
        """Return the kubeconfig and the context that were found when the cluster was registered, if they were.

        A person's current context changes; where runs are does not.
        """
        try:
            told = json.loads((self.folder / PLACE).read_text())
        except (OSError, ValueError):
            return {}
        return {key: told[key] for key in ("kubeconfig", "context")}

    def _keep(self, place: Place) -> None:
        if place.source and not (self.folder / PLACE).exists():
            (self.folder / PLACE).write_text(json.dumps({"kubeconfig": place.source, "context": place.context}))

    def _space(self) -> str:
        return f"/api/v1/namespaces/{self._door().place.namespace}"

    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self._door().place.namespace}/jobs"

    def _handle(self, attempt: str, replica: int) -> Handle:
        name = manifests.object_name(self.installation, attempt, replica)
        return Handle(attempt=AttemptId(attempt), replica=replica, data={"namespace": self._door().place.namespace, "job": name})


def _standing(api: Api, path: str, **query: str) -> Json:
    """Return what every Kubernetes has. Raises UnreachableError, also where there is none of it; CredentialsError."""
    try:
        return api.get(path, **query)
    except MissingError as wrong:
        raise stranger(api.place, str(wrong)) from wrong


def _who(api: Api) -> str:
    """Return who we are there, as `kubectl auth whoami` tells it; empty where that cannot be asked (before Kubernetes 1.28)."""
    asked: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        told = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", asked)
    except (MissingError, CapacityError, LaunchError, CredentialsError):
        return ""
    status = cast("Mapping[str, Mapping[str, str]]", told.get("status") or {})
    return str(status.get("userInfo", {}).get("username", ""))


def _selector(installation: str, key: pods.Key | None = None) -> str:
    ours = f"{manifests.INSTALLATION}={installation}"
    return ours if key is None else f"{ours},{manifests.ATTEMPT}={key[0]},{manifests.REPLICA}={key[1]}"


def _command(hint: str) -> str:
    return hint.rpartition(": ")[2]


ENGINE = Engine(create=create, help="A name space of a Kubernetes cluster, of any flavour.", options=options.OPTIONS)
