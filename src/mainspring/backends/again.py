"""The command that registers a cluster as it was asked for, with one thing otherwise. It names no engine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mainspring.core.backend import Notice, Option, OptionKind
from mainspring.core.cluster_config import COMMON
from mainspring.core.errors import BackendError
from mainspring.core.records import Cluster


def add_again(cluster: Cluster, options: Sequence[Option], **otherwise: str) -> str:
    """Return `mainspring cluster add KIND TARGETS OPTIONS`, with `otherwise` in place of those options. Secrets are left out."""
    targets = cluster.config.get("targets")
    words = ["mainspring", "cluster", "add", cluster.backend, *(map(str, targets) if isinstance(targets, list | tuple) else [])]
    if cluster.name != cluster.backend:
        words += ["--name", cluster.name]
    own = {option.name for option in options}
    for option in (*options, *(one for one in COMMON if one.name not in own)):
        flag, value = f"--{option.name.replace('_', '-')}", otherwise.get(option.name, cluster.config.get(option.name))
        if not value or value == option.default or option.kind is OptionKind.SECRET:
            continue
        each = value if isinstance(value, list | tuple) else [value]
        words += [flag] if option.kind is OptionKind.FLAG else [f"{flag}={one}" for one in each]
    return shlex.join(words)


def refusals(cluster: Cluster, options: Sequence[Option], wrong: BackendError) -> tuple[Notice, ...]:
    """Return what is told of an engine that cannot be asked; of a host key that nobody has accepted, the command that does so."""
    prints = wrong.details.get("fingerprints")
    if not isinstance(prints, list):
        return (Notice(text=wrong.message, command=wrong.hint),)
    text = "Compare the host key with what the host's administrator says, and accept it."
    command = add_again(cluster, options, host_key=",".join(map(str, prints)))
    return (Notice(text=wrong.message), Notice(text=text, command=command))
