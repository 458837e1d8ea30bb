"""What `mainspring cluster add kubernetes` takes, and what one run may ask otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from mainspring.core.backend import Option, OptionKind
from mainspring.core.errors import LaunchError

GPU = "nvidia.com/gpu"
OPTIONS = (
    Option(
        name="context", help="The context of the kubeconfig. Default: the current one, or the cluster that the server runs in."
    ),
    Option(name="namespace", help="Where runs go. Default: the context's."),
    Option(name="kubeconfig", help="The kubeconfig. Default: as for kubectl.", kind=OptionKind.PATH),
    Option(name="image", help="The image of runs that name none; it needs Python 3.9 or newer.", default="python:3.11-slim"),
    Option(name="node_selector", help="Use nodes with this label only: disk=ssd.", kind=OptionKind.LIST),
    Option(name="tolerate", help="Use nodes with this taint too: team=ml:NoSchedule, or its key alone.", kind=OptionKind.LIST),
    Option(name="queue", help="Kueue's local queue: runs are submitted suspended, and start when it admits them."),
    Option(name="priority_class", help="The priority class of pods."),
    Option(name="runtime_class", help="The runtime class of pods: nvidia."),
    Option(name="pull_secret", help="The secret with which images are pulled.", kind=OptionKind.LIST),
    Option(name="gpu_resource", help="What the cluster calls a GPU: amd.com/gpu, nvidia.com/mig-1g.10gb.", default=GPU),
    Option(name="template", help="A file (JSON or YAML) whose fields are merged into each pod's spec.", kind=OptionKind.PATH),
    Option(name="uid", help="The user that runs are, where the image or the cluster names none.", kind=OptionKind.NUMBER),
    Option(name="python", help="The Python in the image that starts runners. Default: the newest that is found."),
    Option(name="cpus", help="CPUs in all, where neither nodes nor a quota may be read.", kind=OptionKind.NUMBER),
    Option(name="memory", help="GiB of memory in all, where neither nodes nor a quota may be read.", kind=OptionKind.NUMBER),
    Option(name="gpus", help="GPUs in all, where neither nodes nor a quota may be read.", kind=OptionKind.NUMBER),
    Option(name="pool", help="The pool that its nodes belong to. Default: the cluster's name."),
)
OF_A_RUN = frozenset(
    {"node_selector", "tolerate", "queue", "priority_class", "runtime_class", "pull_secret", "uid", "python", "port"}
)
# fmt: off
POD_FIELDS = frozenset(
    {"activeDeadlineSeconds", "affinity", "containers", "dnsConfig", "dnsPolicy", "enableServiceLinks", "hostAliases",
     "hostIPC", "hostNetwork", "hostPID", "hostUsers", "hostname", "imagePullSecrets", "initContainers", "nodeName",
     "nodeSelector", "os", "overhead", "preemptionPolicy", "priority", "priorityClassName", "resourceClaims", "resources",
     "runtimeClassName", "schedulerName", "securityContext", "serviceAccountName", "setHostnameAsFQDN",
     "shareProcessNamespace", "subdomain", "terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints",
     "volumes"}
)
# fmt: on
METADATA = frozenset({"labels", "annotations"})
_KEYED = METADATA | {"nodeSelector"}  # what follows the point is one key, which may have points itself


def for_run(config: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the options of one run: the cluster's, and its own over them. Raises LaunchError for one that there is not.

    Besides the options, a run may give any field of a pod's spec, and `labels` and `annotations`.
    """
    known = OF_A_RUN | POD_FIELDS | METADATA
    for name in spread(overrides):
        if name not in known:
            near = get_close_matches(name, sorted(known), 1)
            meant = (
                f" Did you mean {near[0]!r}?"
                if near
                else f" Known: {', '.join(sorted(OF_A_RUN))}, and the fields of a pod's spec."
            )
            raise LaunchError(f"Kubernetes has no option {name[:60]!r} for a run.{meant}")
    return {**config, **{name: value for name, value in overrides.items() if name in OF_A_RUN}}


def spread(overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the overrides with `securityContext.runAsUser` as an object in an object."""
    found: dict[str, object] = {}
    for name, value in overrides.items():
        head, point, rest = name.partition(".")
        keys = [rest] if head in _KEYED and point else rest.split(".") if point else []
        inner = value
        for key in reversed(keys):
            inner = {key: inner}
        there = found.get(head)
        found[head] = {**there, **inner} if isinstance(there, dict) and isinstance(inner, dict) else inner
    return found


def words(config: Mapping[str, object], name: str) -> list[str]:
    """Return an option of several texts; one text stands for itself."""
    told = config.get(name)
    if isinstance(told, str):
        return [told] if told else []
    return [str(one) for one in told] if isinstance(told, list | tuple) else []


def selected(config: Mapping[str, object]) -> dict[str, str]:
    """Return the labels that a node must have."""
    return dict(_pair(word) for word in words(config, "node_selector"))


def tolerations(config: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the taints that pods do not mind. That of GPU nodes is among them: where a run goes, the plan has decided."""
    found: list[dict[str, object]] = [{"key": str(config.get("gpu_resource") or GPU), "operator": "Exists"}]
    for word in words(config, "tolerate"):
        told, _, effect = word.partition(":")
        key, sign, value = told.partition("=")
        one: dict[str, object] = {"key": key, "operator": "Equal" if sign else "Exists"}
        found.append({**one, **({"value": value} if sign else {}), **({"effect": effect} if effect else {})})
    return found


def is_tolerated(taint: Mapping[str, object], tolerated: list[dict[str, object]]) -> bool:
    """Say whether a pod with these tolerations may be placed beside the taint."""
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(
        one["key"] == taint.get("key")
        and (one["operator"] == "Exists" or one.get("value") == (taint.get("value") or ""))
        and one.get("effect", taint.get("effect")) == taint.get("effect")
        for one in tolerated
    )


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value
