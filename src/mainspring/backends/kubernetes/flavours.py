"""Which Kubernetes it is: found by its API groups, the labels of its nodes, and the shape of its address. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

VANILLA = "Kubernetes"


class Flavour(NamedTuple):
    """A distribution. `is_uid_given`: it gives each name space a range of users, and refuses pods that name another.

    `has_routes`: it leads people from outside to a port by a Route.
    """

    name: str
    is_uid_given: bool = False
    has_routes: bool = False


def find_flavour(url: str, context: str, groups: Collection[str], version: str, labels: Sequence[Mapping[str, str]]) -> Flavour:
    """Return the flavour. `labels` are those of the nodes, none where they may not be read; `version` is as `v1.30.2+k3s1`."""
    if "security.openshift.io" in groups or "route.openshift.io" in groups:
        return Flavour("OpenShift", is_uid_given=True, has_routes="route.openshift.io" in groups)
    if urlsplit(url).path.startswith("/k8s/clusters/"):
        return Flavour("Rancher")
    keys = {key for one in labels for key in one}
    if any(key.startswith("microk8s.io/") for key in keys) or context == "microk8s":
        return Flavour("MicroK8s")
    if any(key.startswith("minikube.k8s.io/") for key in keys) or context == "minikube":
        return Flavour("Minikube")
    for mark, name in (("+k3s", "k3s"), ("+rke2", "RKE2"), ("-eks-", "EKS"), ("-gke.", "GKE")):
        if mark in version:
            return Flavour(name)
    return Flavour("AKS" if any(key.startswith("kubernetes.azure.com/") for key in keys) else VANILLA)
