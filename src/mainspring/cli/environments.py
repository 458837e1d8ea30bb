"""Environments on the command line: what a run ran with, what nodes keep, and what is to go."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json
from mainspring.cli.output import age, emit_json, facts, note, say, short, table
from mainspring.cli.submit import busy
from mainspring.core.environments import NodeEnvironment
from mainspring.core.errors import NotFoundError
from mainspring.core.records import Run, RunState
from mainspring.core.units import counted, show_bytes
from mainspring.sdk.resources import to_seconds

SHOWN = 12  # characters of a key
NOW_S = 120.0  # a run may have to wait for its turn: what it is there for comes with it


def ls(*, as_json: Json = False) -> None:
    """List the environments that nodes keep: for which lock, how large, last used when.

    Examples: `mainspring env ls`, `mainspring env ls --json`.
    """
    found = connect().environments.all()
    if as_json:
        emit_json(found)
        return
    _list(found, empty="No node has built an environment: mainspring run --environment lock SCRIPT")


def show(run: str, /, *, as_json: Json = False) -> None:
    """Show what a run ran with: its Python, its lock, the packages that were seen.

    Example: `mainspring env show RUN`.
    """
    found = connect().environments.of_run(run)
    if as_json:
        emit_json(found)
        return
    seen = found.captured
    facts(
        [
            ("run", short(found.run)),
            ("Python", f"{seen.implementation} {seen.python} on {seen.platform}" if seen else found.python or "not seen"),
            ("lock", found.digest[:SHOWN] if found.has_lock else "none: as it was there"),
        ]
    )
    rows = (
        [(one.name, one.version, one.origin or "", "editable" if one.is_editable else "") for one in seen.packages]
        if seen
        else []
    )
    table(("package", "version", "from", ""), rows, empty="Its packages were not seen.")
    if found.left_out:
        note(f"In no index, so that `env export` leaves them out: {', '.join(found.left_out)}")


def export(
    run: str, /, *, output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None, as_json: Json = False
) -> None:
    """Print the lock that builds a run's environment again; it may be edited, and named by `--environment`.

    Examples: `mainspring env export RUN -o requirements.txt`; at once: `mainspring run --environment from:RUN train.py`.

    Parameters
    ----------
    output
        Write it to this file.
    """
    found = connect().environments.of_run(run)
    if found.captured is None and not found.has_lock:
        raise NotFoundError(f"Nothing was seen of what run {run} ran with.", hint="mainspring env show RUN")
    head = "" if found.has_lock else f"# what run {found.run} ran with: Python {found.python}\n"
    if output is not None:
        output.write_text(head + found.lock, encoding="utf-8")
    if as_json:
        emit_json({"run": found.run, "python": found.python, "lock": head + found.lock, "left_out": found.left_out})
        return
    if output is None:
        sys.stdout.write(head + found.lock)
    else:
        note(f"{output} is written. Use it: mainspring run --environment {output} --python {found.python} SCRIPT")
    if found.left_out:
        note(f"Left out, as no index has them: {', '.join(found.left_out)}")


def prune(
    *key: str,
    older_than: str | None = None,
    keep: int = 0,
    node: str = "",
    now: Annotated[bool, Flag] = False,
    as_json: Json = False,
) -> int:
    """Let environments go: those named, else all that no run uses (administrators). The next run on the node removes them.

    Examples: `mainspring env prune --older-than 30d`, `mainspring env prune --keep 3 --now`, `mainspring env prune 3f2a91`.

    Parameters
    ----------
    older_than
        Only those that no run has used for so long, such as 30d.
    keep
        Not the last used ones, so many of each node.
    node
        Only on this node.
    now
        Submit a tiny run to each node for it, and wait until these are over; 1 when something is still there.
    """
    unused_s = to_seconds(older_than, "--older-than")
    client = connect()
    found = client.environments.prune(keys=key, unused_s=unused_s, keep=keep, node=node)
    unended: list[Run] = []
    left: list[NodeEnvironment] = []
    if now and found:
        with busy("A tiny run on each node removes them"):
            until = time.monotonic() + NOW_S
            ended = [client.runs.wait(run.id, max(0.0, until - time.monotonic())) for run in client.environments.remove_now()]
        unended = [run for run in ended if run.state is not RunState.SUCCEEDED]
        left = client.environments.left(found)
    if as_json:
        emit_json(found)
        return int(bool(left))
    _list(found, empty="There is nothing to remove.")
    if found:
        size = show_bytes(sum(one.size_bytes for one in found))
        still = f"{len(left)} still there on {', '.join(sorted({one.node for one in left}))}, for the next run there"
        when = "removed by the next run on their node" if not now else still if left else "removed"
        say(f"{counted(len(found), 'environment')}, {size}: {when}.")
    for run in unended:
        note(f"{run.name} ({short(run.id)}) is {run.state}: mainspring why {run.id}")
    return int(bool(left))


def _list(found: Iterable[NodeEnvironment], *, empty: str) -> None:
    rows = [
        (
            one.node,
            one.key[:SHOWN],
            one.python,
            one.lock[:SHOWN],
            show_bytes(one.size_bytes),
            age(one.used_at),
            str(one.uses),
            "in use" if one.is_in_use else "to go" if one.asked_to_go_at else "ready",
        )
        for one in found
    ]
    table(("node", "key", "python", "lock", "size", "used", "uses", "state"), rows, empty=empty)
