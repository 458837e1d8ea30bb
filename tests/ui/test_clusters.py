"""The fleet page: what is known of a cluster, who may act on it, and what its check tells of each node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nicegui import ui
from nicegui.testing import User

from mainspring.core.actors import Actor
from mainspring.core.backend import Notice, Probe
from mainspring.core.codec import to_plain
from mainspring.core.errors import ClusterRefusedError, ConflictError
from mainspring.core.queries import RunFilter
from mainspring.core.records import Cause, Outcome, Role, RunState
from mainspring.services import attempts, clusters, runs
from mainspring.ui import cluster_acts, cluster_facts
from mainspring.ui import clusters as clusters_page

LOOK_S = 0.01
NASTY = "<img src=x onerror=alert(1)>"
EVE = Actor(name="eve", roles={"default": Role.VIEWER})


def test_everybody_sees_what_engines_told_and_administrators_may_act(full: Any) -> None:
    offered = clusters_page.engines(full.view("/clusters"))
    for words in (
        "lab",
        "ssh, 0 nodes",
        "1 notice",
        "gpu01, gpu02",
        "550.54",
        "312 GiB",
        "87 ms",
        "gpu02: the driver does not answer.",
    ):
        assert words in offered
    assert 'data-copy="ssh gpu02 sudo modprobe nvidia"' in offered
    assert "Its engine has not been looked at yet." in offered, "local"
    acts = [
        f'data-act="cluster.{act}" data-arg="{name}"' for act, name in (("check", "lab"), ("check", "local"), ("forget", "lab"))
    ]
    assert all(one in offered for one in (*acts, 'data-act="cluster.add"'))
    assert 'data-arg="local"' not in offered.replace(acts[1], ""), "the machine of the server is not forgotten"
    full.actor = EVE
    seen = clusters_page.engines(full.view("/clusters"))
    assert "550.54" in seen
    assert "data-act" not in seen


def test_gpus_that_are_out_are_offered_to_be_put_back(full: Any) -> None:
    node = clusters.drain(full.ctx, full.actor, "one", device=1)
    assert 'data-act="resume" data-arg="local.one 1"' in clusters_page.buttons(node)
    assert 'data-arg="local.one"' in clusters_page.buttons(node), "the rest takes runs"


def test_a_refusal_tells_what_was_found_and_what_mends_it_once() -> None:
    notices = (Notice(text="No sinfo.", command="apt install slurm"), Notice(text=NASTY))
    probe = Probe(is_ready=False, version="1", notices=notices, facts={"free_disk": "3 GiB"})
    wrong = ClusterRefusedError("Cluster 'x' cannot be used: No sinfo.", hint="Mend it: ...", details=to_plain({"probe": probe}))
    shown = cluster_facts.refused(wrong)
    assert shown.count("No sinfo.") == 1
    assert 'data-copy="apt install slurm"' in shown
    assert "<dt>Free disk</dt><dd>3 GiB</dd>" in shown
    assert NASTY not in shown
    assert "Give another name." in cluster_facts.refused(ConflictError("It is taken.", hint="Give another name."))


async def test_a_check_shows_how_each_node_did_or_why_it_cannot_be_done(
    full: Any, simulated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_acts, "LOOK_S", LOOK_S)
    async with simulated() as user:
        await user.open("/clusters")
        checking = await _checking(user, full)
        node = await asyncio.to_thread(full.ctx.store.nodes.get, "local.one")
        notices = (Notice(text="No cgroup.", command="mend me"),)
        probe = Probe(is_ready=True, version="Linux 6", notices=notices, latency_s=0.0123)
        await _answer(full, {"cluster": "local", "probe": probe, "nodes": [node], "latency_s": 0.0123})
        for words in ("12 ms", "No cgroup.", "mend me", "Linux 6"):
            await user.should_see(words, retries=100)
        tiny = await _tiny(full)
        await asyncio.to_thread(_run, full, tiny, b"one 3.11.4\n")
        await user.should_see("one 3.11.4", retries=100)
        await checking
        checking = await _checking(user, full)
        await _answer(full, {"cluster": "local", "probe": probe, "nodes": [node], "latency_s": 0.0123})
        tiny = await _tiny(full)
        await asyncio.to_thread(_refuse, full, tiny, "No space left on device.")
        await checking
        await user.should_see("No space left on device.")
        assert (await asyncio.to_thread(full.ctx.store.runs.get, tiny)).state is RunState.CANCELLED
        checking = await _checking(user, full)
        full.house.clock.advance(cluster_acts.ANSWER_S + 1)
        await checking
        await user.should_see("local has not answered for 120 s.")
        with user:
            cluster_acts.handlers(full.view("/clusters"))["cluster.forget"]("local")
        user.find(kind=ui.button, content="Forget").click()
        await user.should_see("The machine of the server cannot be removed.")


async def _checking(user: User, full: Any) -> asyncio.Task[None]:
    """Press `Check` of the cluster `local`; return when its engine was asked."""

    async def press() -> None:
        with user:
            await cluster_acts.handlers(full.view("/clusters"))["cluster.check"]("local")  # type: ignore[misc]

    task = asyncio.create_task(press())
    while not await asyncio.to_thread(full.ctx.store.operations.pending):
        await asyncio.sleep(0.01)
    return task


async def _answer(full: Any, result: dict[str, object]) -> None:
    """Answer as the controller would."""
    (asked,) = await asyncio.to_thread(full.ctx.store.operations.pending)
    now = full.ctx.clock.now()
    await asyncio.to_thread(lambda: full.ctx.store.operations.end(asked.id, now=now, result=to_plain(result)))


async def _tiny(full: Any) -> str:
    """Return the tiny run that waits, once there is one."""
    wanted = RunFilter(project="default", states=("queued",), tag="cluster-check")
    while True:
        found = (await asyncio.to_thread(runs.page, full.ctx, full.actor, wanted)).items
        if found:
            return str(found[0].id)
        await asyncio.sleep(0.01)


def _run(full: Any, run: str, log: bytes) -> None:
    full.house.plan()
    full.house.begin(full.house.attempt_of(run))
    full.write(run, "log", log)
    full.house.end(run)


def _refuse(full: Any, run: str, why: str) -> None:
    full.house.plan()
    attempts.finish(full.ctx, full.house.attempt_of(run), 0, Outcome(cause=Cause.LAUNCH_FAILED, message=why), {})
