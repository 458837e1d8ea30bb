"""Kueue, where a cluster has it: the queues of our name space, and what is told to whoever has named none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from mainspring.backends.again import add_again
from mainspring.backends.kubernetes.api import Api, Json, MissingError
from mainspring.backends.kubernetes.options import OPTIONS
from mainspring.core.backend import Notice
from mainspring.core.errors import CredentialsError
from mainspring.core.records import Cluster

GROUP = "kueue.x-k8s.io"


def unnamed_queue(api: Api, cluster: Cluster, groups: Mapping[str, str]) -> tuple[Notice, ...]:
    """Return the notice of Kueue's queues where the cluster was added without one: its Jobs are none of Kueue's business then.

    `groups` are the API groups that there are, each with its version. Nothing is said where the name space has no queue.
    """
    if GROUP not in groups or cluster.config.get("queue"):
        return ()
    space = api.place.namespace
    try:
        told = api.get(f"/apis/{groups[GROUP]}/namespaces/{space}/localqueues")
    except MissingError:  # that version of Kueue has no such thing
        return ()
    except CredentialsError:
        text = f"Kueue is in this cluster, and we may not see whether name space {space} has a queue of it. If it has, name it."
        return (Notice(text=text, command=add_again(cluster, OPTIONS, queue="QUEUE")),)
    names = _names(told)
    if not names:
        return ()
    text = (
        f"Name space {space} has Kueue's queue {', '.join(names)}. Runs do not wait there, nor count there, unless it is named."
    )
    return (Notice(text=text, command=add_again(cluster, OPTIONS, queue=names[0])),)


def _names(told: Json) -> list[str]:
    listed = cast("Sequence[Mapping[str, Mapping[str, str]]]", told.get("items") or [])
    return [one["metadata"]["name"] for one in listed]
