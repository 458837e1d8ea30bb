"""The command that registers a cluster as it was asked for, with one thing otherwise. It names no engine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mainspring.core.backend import Option, OptionKind
from mainspring.core.records import Cluster


def add_again(cluster: Cluster, options: Sequence[Option], **otherwise: str) -> str:
    """Return `mainspring cluster add KIND TARGETS OPTIONS`, with `otherwise` in place of those options. Secrets are left out."""
    targets = cluster.config.get("targets")
    words = ["mainspring", "cluster", "add", cluster.backend, *(map(str, targets) if isinstance(targets, list | tuple) else [])]
    if cluster.name != cluster.backend:
        words += ["--name", cluster.name]
    for option in options:
        flag, value = f"--{option.name.replace('_', '-')}", otherwise.get(option.name, cluster.config.get(option.name))
        if not value or value == option.default or option.kind is OptionKind.SECRET:
            continue
        each = value if isinstance(value, list | tuple) else [value]
        words += [flag] if option.kind is OptionKind.FLAG else [f"{flag}={one}" for one in each]
    return shlex.join(words)
