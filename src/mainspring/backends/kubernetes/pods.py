"""What a pod's state means: whether the runner lives, what people are told meanwhile, how it ended. Pure.

Of each pod only the fields below are read: thousands are decoded at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from mainspring.backends.kubernetes.manifests import ATTEMPT, CONTAINER, NO_PYTHON, REPLICA
from mainspring.backends.launches import exit_record, json_object
from mainspring.core.backend import ObservedState
from mainspring.core.records import Cause, Outcome

WEDGED_S = 60.0  # a container that cannot be made for so long never will be: a wrong image, a missing secret
UNPLACED_S = 300.0  # a pod that finds no place for so long is planned again
LOST_S = 60.0  # a pod that should have ended so long ago is on a node that answers nobody
_WEDGED = (
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
)
_PREEMPTING = ("PreemptionByScheduler", "EvictionByEvictionAPI", "TerminationByKubelet", "PreemptionByKubeScheduler")
_TOO_MUCH = ("ephemeral local storage usage exceeds", "exceeds the limit")  # of its own: another try would end alike


class Ended(msgspec.Struct, frozen=True):
    """How a container ended."""

    exitCode: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""


class Waiting(msgspec.Struct, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerState(msgspec.Struct, frozen=True):
    """One of three."""

    waiting: Waiting | None = None
    running: dict[str, object] | None = None
    terminated: Ended | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    """A container as the kubelet tells of it."""

    name: str = ""
    restartCount: int = 0
    imageID: str = ""
    state: ContainerState = ContainerState()
    lastState: ContainerState = ContainerState()


class Condition(msgspec.Struct, frozen=True):
    """A condition of a pod, a node or a Job."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: datetime | None = None


class Metadata(msgspec.Struct, frozen=True):
    """Names and marks."""

    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    resourceVersion: str = ""
    creationTimestamp: datetime | None = None
    deletionTimestamp: datetime | None = None


class PodSpec(msgspec.Struct, frozen=True):
    """Where it is."""

    nodeName: str = ""


class PodStatus(msgspec.Struct, frozen=True):
    """How it is."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    containerStatuses: list[ContainerStatus] = []


class Pod(msgspec.Struct, frozen=True):
    """A pod of ours."""

    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class JobSpec(msgspec.Struct, frozen=True):
    """Whether it may have a pod."""

    suspend: bool = False


class JobStatus(msgspec.Struct, frozen=True):
    """How it is."""

    conditions: list[Condition] = []


class Job(msgspec.Struct, frozen=True):
    """A Job of ours."""

    metadata: Metadata = Metadata()
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()


class Event(msgspec.Struct, frozen=True):
    """What Kubernetes said of an object."""

    involvedObject: Metadata = Metadata()
    message: str = ""


class Seen(NamedTuple):
    """What is concluded about a replica. `outcome` is how it ended, as far as the engine knows; `is_stuck`: it will never run.

    `waiting`: why it has not begun, in Kubernetes' words.
    """

    state: ObservedState
    detail: str = ""
    outcome: Outcome | None = None
    is_stuck: bool = False
    waiting: str = ""


Key = tuple[str, int]


def key_of(metadata: Metadata) -> Key | None:
    """Return the attempt and the replica that an object is for."""
    attempt, replica = metadata.labels.get(ATTEMPT, ""), metadata.labels.get(REPLICA, "")
    return (attempt, int(replica)) if attempt and replica.isdecimal() else None


def seen_pod(pod: Pod, now: datetime, silent: Sequence[str] = ()) -> Seen:
    """Conclude from a pod. `silent` are the nodes that do not answer: what is on them may run on."""
    status = pod.status
    container = next((one for one in status.containerStatuses if one.name == CONTAINER), ContainerStatus())
    outcome = _outcome(pod, container)
    if status.phase in ("Succeeded", "Failed"):
        return Seen(ObservedState.GONE, status.message or status.reason or status.phase, outcome)
    if _is_unheard(pod, container, now, silent):
        return Seen(ObservedState.UNKNOWN, f"Node {pod.spec.nodeName} does not answer.", outcome)
    waiting = container.state.waiting
    if waiting is not None and waiting.reason in _WEDGED and not container.restartCount:
        detail = f"{waiting.reason}: {waiting.message}".rstrip(": ")
        is_stuck = _age_s(_since(pod, "PodScheduled"), now) > WEDGED_S
        failed = Outcome(cause=Cause.LAUNCH_FAILED, message=f"Its container cannot be made: {detail}"[:500])
        return Seen(ObservedState.RUNNING, detail, failed, is_stuck, detail)
    unplaced = next((one for one in status.conditions if one.type == "PodScheduled" and one.status == "False"), None)
    if unplaced is not None:
        is_stuck = unplaced.reason == "Unschedulable" and _age_s(unplaced.lastTransitionTime, now) > UNPLACED_S
        failed = Outcome(cause=Cause.LAUNCH_FAILED, message=f"The cluster found no place for it: {unplaced.message}"[:500])
        detail = f"{unplaced.reason}: {unplaced.message}"
        return Seen(ObservedState.RUNNING, detail, failed, is_stuck, detail)
    told = waiting.reason if waiting is not None else "Terminating" if pod.metadata.deletionTimestamp else status.phase
    detail = f"{told} on {pod.spec.nodeName}" if pod.spec.nodeName else told
    has_begun = container.restartCount or container.state.running is not None or pod.metadata.deletionTimestamp is not None
    return Seen(ObservedState.RUNNING, detail, outcome, waiting="" if has_begun else detail)


def is_being_made(pod: Pod) -> bool:
    """Say whether a pod has its node and its container is still being made there: its image pulled, its volumes mounted."""
    states = [one.state.waiting for one in pod.status.containerStatuses if one.name == CONTAINER]
    return any(waiting is not None and waiting.reason == "ContainerCreating" for waiting in states)


def seen_job(job: Job | None, now: datetime, told: str = "") -> Seen:
    """Conclude from a Job that has no pod, or from there being none. `told` is what Kubernetes says of it."""
    if job is None:
        return Seen(ObservedState.GONE, "There is no such Job.", Outcome(cause=Cause.NODE_LOST, message="Its Job was deleted."))
    over = next((one for one in job.status.conditions if one.type in ("Failed", "Complete") and one.status == "True"), None)
    if over is not None or job.metadata.deletionTimestamp is not None:
        lost = Outcome(cause=Cause.NODE_LOST, message="Its pod was deleted, or its node is gone.")
        return Seen(ObservedState.GONE, over.message or over.type if over is not None else "Its Job is being deleted.", lost)
    if job.spec.suspend:
        detail = "Suspended: it waits until its queue admits it."
        return Seen(ObservedState.RUNNING, detail, waiting=detail)
    failed = Outcome(cause=Cause.LAUNCH_FAILED, message=f"The cluster makes no pod for it: {told}"[:500])
    is_stuck = bool(told) and _age_s(job.metadata.creationTimestamp, now) > UNPLACED_S
    detail = told or "It has no pod yet."
    return Seen(ObservedState.RUNNING, detail, failed if is_stuck else None, is_stuck, detail)


def _outcome(pod: Pod, container: ContainerStatus) -> Outcome | None:
    """Return how the attempt ended: by its runner's last word, else by its container's end. None while it has not."""
    for state in (container.state, container.lastState):
        told = exit_record(json_object(state.terminated.message)) if state.terminated is not None else None
        if told is not None:
            return told.outcome
    taken = _taken(pod)
    if taken is not None:
        return taken
    ended = container.lastState.terminated or container.state.terminated
    if ended is None:
        if pod.status.phase != "Failed":
            return None
        why = pod.status.message or pod.status.reason
        return Outcome(cause=Cause.NODE_LOST, message=f"The cluster ended its pod: {why}"[:500])
    if ended.reason == "OOMKilled":
        return Outcome(cause=Cause.OUT_OF_MEMORY, exit_code=137, message="It used more memory than it was given.")
    if ended.exitCode == NO_PYTHON:
        return Outcome(cause=Cause.LAUNCH_FAILED, message=ended.message.strip()[:500] or "The image has no Python 3.9 or newer.")
    if ended.reason in ("StartError", "ContainerCannotRun") or ended.exitCode in (126, 127, 128):
        return Outcome(cause=Cause.LAUNCH_FAILED, message=f"The container did not start: {ended.message.strip()}"[:500])
    if ended.exitCode == 0:
        return None
    why = f"signal {ended.exitCode - 128}" if ended.exitCode > 128 else f"exit code {ended.exitCode}"
    return Outcome(cause=Cause.NODE_LOST, message=f"The runner died ({why}).")


def _taken(pod: Pod) -> Outcome | None:
    """Return why the cluster ended a pod that it has ended: evicted by the node, preempted, drained; None where it did not."""
    if pod.status.phase != "Failed":
        return None
    why = pod.status.message.strip() or pod.status.reason
    if pod.status.reason == "Evicted":
        if any(word in why for word in _TOO_MUCH):
            return Outcome(cause=Cause.USER_ERROR, message=f"It used more disk than it was given: {why}"[:500])
        return Outcome(cause=Cause.PREEMPTED, message=f"The node evicted its pod: {why}"[:500])
    target = next((one for one in pod.status.conditions if one.type == "DisruptionTarget" and one.status == "True"), None)
    if target is None or target.reason not in _PREEMPTING:
        return None
    return Outcome(cause=Cause.PREEMPTED, message=f"The cluster took its pod's place ({target.reason}): {target.message}"[:500])


def _is_unheard(pod: Pod, container: ContainerStatus, now: datetime, silent: Sequence[str]) -> bool:
    if pod.spec.nodeName and pod.spec.nodeName in silent:
        return True
    ends_at = pod.metadata.deletionTimestamp  # its grace is in it
    if ends_at is not None and pod.spec.nodeName and _age_s(ends_at, now) > LOST_S:
        return True
    # Nobody but the node controller says that a container without probes runs and is not ready.
    ready = next((one for one in pod.status.conditions if one.type == "Ready"), Condition(status="True"))
    return ready.status != "True" and container.state.running is not None and ends_at is None and not ready.reason


def _since(pod: Pod, kind: str) -> datetime | None:
    return next((one.lastTransitionTime for one in pod.status.conditions if one.type == kind), None)


def _age_s(since: datetime | None, now: datetime) -> float:
    return (now - since).total_seconds() if since is not None else 0.0


def states(
    pods: Mapping[Key, Pod],
    jobs: Mapping[Key, Job],
    key: Key,
    now: datetime,
    silent: Sequence[str] = (),
    told: Mapping[str, str] | None = None,
) -> Seen:
    """Conclude about one replica from all that was listed. `told` is what Kubernetes says of Jobs, by name."""
    pod, job = pods.get(key), jobs.get(key)
    if pod is not None:
        return seen_pod(pod, now, silent)
    return seen_job(job, now, (told or {}).get(job.metadata.name, "") if job is not None else "")
