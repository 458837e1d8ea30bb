"""The objects that a replica is in Kubernetes: a Job of one pod, the Secret with what its runner is told. Pure.

The pod keeps to the restricted standard: any uid, no capability, nothing of the host's. When the runner dies its container is
started again in its place, in the same folder; with a back-off limit of 0 no other pod ever follows it, whatever deletes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import cast

from mainspring.backends.grants import thread_env
from mainspring.backends.kubernetes.api import Json
from mainspring.backends.kubernetes.doors import PORTS, ports_of
from mainspring.backends.kubernetes.options import GPU, METADATA, POD_FIELDS, selected, spread, tolerations, words
from mainspring.core.backend import LaunchRequest
from mainspring.core.errors import LaunchError

MARK = "mainspring/"  # before each label and annotation of ours
INSTALLATION, ATTEMPT, REPLICA, SERVER = f"{MARK}installation", f"{MARK}attempt", f"{MARK}replica", f"{MARK}server"
GPUS = f"{MARK}gpus"  # the devices of the plan that a pod holds: which they really are, the cluster decides
HOSTNAME = "kubernetes.io/hostname"  # nodes that were read carry it; what stands for a whole quota does not
QUEUE = "kueue.x-k8s.io/queue-name"
CONTAINER = "run"
TERMINATION_LOG = "/dev/termination-log"  # what is written there is in the pod's status afterwards
ROOT = "/mainspring"
ATTEMPT_FOLDER = f"{ROOT}/attempt"
UID = 1000
DRAIN_S = 600  # what a pod that is told to end has, at most, until the server has all of its log
NO_PYTHON = 69
NOTE_CHARS = 500  # of a run's name in an annotation, for people
# The newest Python that the image has starts the runner; the files that Kubernetes keeps up to date are linked into its folder.
BOOT = f"""umask 077
cd {ATTEMPT_FOLDER} || exit 66
for file in launch.json token; do ln -sf {ROOT}/launch/$file $file; done
[ -e cgroup ] || if [ -d /sys/fs/cgroup/memory ]; then ln -s /sys/fs/cgroup/memory cgroup; else ln -s /sys/fs/cgroup cgroup; fi
mkdir -p home
for python in "$MAINSPRING_PYTHON" python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3 python; do
    if [ -n "$python" ] && "$python" -S -E -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
        exec "$python" -S -E {ROOT}/runner/runner.zip {ATTEMPT_FOLDER}
    fi
done
why="The image has no Python 3.9 or newer: take one that has, or name it with --override python=PATH."
echo "$why" > {TERMINATION_LOG}
echo "$why"
exit {NO_PYTHON}
"""


def object_name(installation: str, attempt: str, replica: int) -> str:
    """Return the name of the replica's Job and Secret: readable, and its own among all installations."""
    clean = re.sub(r"[^a-z0-9]+", "-", attempt.lower()).strip("-")[:36].rstrip("-")
    digest = hashlib.sha256(f"{installation}/{attempt}".encode()).hexdigest()[:8]
    return f"ms-{clean}-{replica}-{digest}"


def secret(name: str, request: LaunchRequest, record: Mapping[str, object]) -> Json:
    """Return the Secret: `launch.json` and the token."""
    told = {"launch.json": json.dumps(record), "token": request.token}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(request)},
        "type": "Opaque",
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in told.items()},
    }


def runner_map(name: str, bundle: bytes) -> Json:
    """Return the ConfigMap with the runner's zip; one for all runs of this version."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "mainspring"}},
        "immutable": True,
        "binaryData": {"runner.zip": base64.b64encode(bundle).decode()},
    }


def owned_by(job: Mapping[str, object]) -> Json:
    """Return the patch by which an object is deleted together with its Job."""
    told = cast("Mapping[str, object]", job["metadata"])
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": told["name"], "uid": told["uid"]}
    return {"metadata": {"ownerReferences": [owner]}}


def labels(request: LaunchRequest) -> dict[str, str]:
    """Return by what the replica's objects are found again."""
    return {
        "app.kubernetes.io/managed-by": "mainspring",
        INSTALLATION: request.installation,
        ATTEMPT: request.attempt,
        REPLICA: str(request.replica),
    }


def job(name: str, request: LaunchRequest, config: Mapping[str, object], *, runner: str, is_uid_given: bool) -> Json:
    """Return the Job. `config` is the cluster's with the run's own options over it; `is_uid_given`: the cluster sets the uid."""
    marks = labels(request)
    notes = {f"{MARK}run": request.run, f"{MARK}name": request.name, f"{MARK}owner": request.owner}
    notes[GPUS] = ".".join(str(share.index) for share in request.granted.devices)
    notes[PORTS] = ",".join(map(str, ports_of(config.get("port"))))
    notes = {key: value.encode(errors="replace").decode()[:NOTE_CHARS] for key, value in notes.items() if value}
    queue = str(config.get("queue") or "")
    pod = _pod(name, request, config, runner, is_uid_given)
    template = config.get("pod_template")
    if isinstance(template, dict):
        pod = merged(pod, template)
    asked = spread(request.overrides)
    pod = merged(pod, {key: value for key, value in asked.items() if key in POD_FIELDS})
    more_asked = {key: asked[key] for key in sorted(METADATA) if key in asked}
    for key, value in more_asked.items():
        if not isinstance(value, dict):
            raise LaunchError(f"Kubernetes: {key} are names with values, and {str(value)[:40]!r} is none.")
    own: dict[str, object] = {"labels": marks, "annotations": notes}  # whatever a run asks: by these it is found, and counted
    more = merged(merged({"labels": dict(request.labels)}, more_asked), own)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**marks, **({QUEUE: queue} if queue else {})},
            "annotations": {**notes, SERVER: request.server_url},
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            **({"suspend": True} if queue else {}),
            "template": {"metadata": more, "spec": pod},
        },
    }


def merged(target: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """Return `target` with `patch` merged in: None removes, lists of named things are merged by name, others replaced.

    As a merge patch (RFC 7386), but for containers, volumes and the like, of which a person names only what is to differ.
    """
    found = dict(target)
    for key, value in patch.items():
        there = found.get(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = merged(there if isinstance(there, dict) else {}, value)
        elif isinstance(there, list) and _is_named(there) and _is_named(value):
            by_name = {one["name"]: one for one in there}
            for one in cast("list[dict[str, object]]", value):
                by_name[one["name"]] = merged(by_name.get(one["name"], {}), one)
            found[key] = list(by_name.values())
        else:
            found[key] = value
    return found


def _pod(name: str, request: LaunchRequest, config: Mapping[str, object], runner: str, is_uid_given: bool) -> dict[str, object]:
    uid = str(config.get("uid") or "")
    if uid and not uid.isdecimal():
        raise LaunchError(f"Kubernetes: {uid[:40]!r} is no uid.", hint="--override kubernetes.uid=1000")
    user = {} if is_uid_given and not uid else {"runAsUser": int(uid or UID), "runAsGroup": 0}
    optional: dict[str, object] = {
        "priorityClassName": config.get("priority_class"),
        "runtimeClassName": config.get("runtime_class"),
        "imagePullSecrets": [{"name": one} for one in words(config, "pull_secret")],
        "nodeSelector": selected(config),
        "affinity": _pinned(request),
    }
    return {
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DRAIN_S,
        "securityContext": {"runAsNonRoot": True, **user, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": tolerations(config),
        "containers": [_container(request, config)],
        "volumes": [
            {"name": "attempt", "emptyDir": {}},
            {"name": "launch", "secret": {"secretName": name, "defaultMode": 0o444}},
            {"name": "runner", "configMap": {"name": runner, "defaultMode": 0o444}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},  # 64 MiB otherwise: data loaders need more
        ],
        **{key: value for key, value in optional.items() if value},
    }


def _container(request: LaunchRequest, config: Mapping[str, object]) -> dict[str, object]:
    env = {
        "MAINSPRING_INSTALLATION": request.installation,
        "MAINSPRING_ATTEMPT": request.attempt,
        "MAINSPRING_REPLICA": str(request.replica),
        "MAINSPRING_PYTHON": str(config.get("python") or ""),
        "HOME": f"{ATTEMPT_FOLDER}/home",
    }
    return {
        "name": CONTAINER,
        "image": request.image or str(config.get("image") or ""),
        "command": ["/bin/sh", "-c", BOOT],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": _resources(request, str(config.get("gpu_resource") or GPU)),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "attempt", "mountPath": ATTEMPT_FOLDER},
            {"name": "launch", "mountPath": f"{ROOT}/launch", "readOnly": True},
            {"name": "runner", "mountPath": f"{ROOT}/runner", "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  (a place in the container)
        ],
    }


def visible(request: LaunchRequest) -> dict[str, str]:
    """Return what user code sees of threads and devices. Which GPUs, the cluster decides: a container's own count from 0."""
    count = len(request.granted.devices)
    none = {} if count else {"NVIDIA_VISIBLE_DEVICES": "void"}  # else some images show all of the node's
    return {**thread_env(request.granted), "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count))), **none}


def _resources(request: LaunchRequest, gpu: str) -> dict[str, object]:
    granted = request.granted
    limits: dict[str, str] = {"cpu": f"{granted.cpu_milli}m"}
    memory = granted.memory_bytes or _part_of_quota(request)
    if memory:
        limits["memory"] = str(memory)
    if granted.disk_bytes:
        limits["ephemeral-storage"] = str(granted.disk_bytes)
    if granted.devices:
        limits[gpu] = str(len(granted.devices))
    return {"requests": dict(limits), "limits": limits}


def _part_of_quota(request: LaunchRequest) -> int:
    """Return the memory of a replica that names none where a quota stands for the nodes: it takes no pod without a limit."""
    node = request.node
    return 0 if HOSTNAME in node.labels else node.memory_bytes * request.granted.cpu_milli // max(1, node.cpu_milli)


def _pinned(request: LaunchRequest) -> dict[str, object] | None:
    """Return the affinity to the node that the plan chose, if it was a node. The cluster's scheduler still has the last word."""
    if HOSTNAME not in request.node.labels:
        return None
    here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [request.node.name]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}}


def _is_named(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in value)
