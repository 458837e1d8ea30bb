"""A cluster from `cluster add` to `cluster rm` as people type it, against a real server and an engine with bad days."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mainspring.testing.flaky import Trouble, register, trouble

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
ADD = ("cluster", "add", "flaky", "--name", "far", "--gpus", "2", "--cpus", "2", "--pool", "lab")


@pytest.fixture
def lab(fresh: Site, tmp_path: Path) -> Site:
    register(tmp_path / "plugins")
    words = (str(tmp_path / "plugins"), os.environ.get("PYTHONPATH", ""))
    fresh.env = {**fresh.env, "PYTHONPATH": os.pathsep.join(word for word in words if word)}
    fresh.start("--cpus", "4")
    return fresh


def test_a_cluster_is_added_shown_checked_used_and_forgotten(lab: Site) -> None:
    kinds = lab.cli("cluster", "kinds")
    assert "flaky" in kinds.out, kinds
    assert "--password" in lab.cli("cluster", "kinds", "flaky").out
    added = lab.cli(*ADD, "--password", "-", data="hunter2\n")
    assert added.code == 0, added
    assert "far is registered with 1 node" in added.out
    assert "answered in" in added.out
    shown = lab.cli("cluster", "show", "far")
    assert [line for line in shown.out.splitlines() if "answered in" in line] == [
        line for line in added.out.splitlines() if "answered in" in line
    ], (added, shown)
    assert "2 gpu (declared)" in shown.out
    assert "lab" in shown.out
    told = lab.call("GET", "/clusters").text + lab.call("GET", "/events").text + lab.call("GET", "/clusters/far").text
    assert "hunter2" not in told + shown.out + lab.cli("cluster", "show", "far", "--json").out
    assert "(secret)" in told
    assert "hunter2" not in (lab.home / "mainspring.db").read_bytes().decode("latin1")
    before = lab.call("GET", "/clusters/far").json()["probe"]["latency_s"]
    assert before > 0
    checked = lab.cli("cluster", "check", "far", "--json")
    assert checked.code == 0, checked
    probe = json.loads(checked.out)["probe"]
    assert probe["latency_s"] not in (0, before), "each look is measured, and the last one is kept"
    assert json.loads(lab.cli("cluster", "show", "far", "--json").out)["probe"] == probe
    assert "succeeded" in checked.out
    node = lab.call("GET", "/clusters/far").json()["nodes"][0]["id"]
    run = lab.wait(lab.submit(["true"], resources={"cpu_milli": 100, "labels": {"cluster": "far"}}))
    assert run["state"] == "succeeded", run
    assert lab.attempts(run["id"])[0]["replicas"][0]["node"] == node
    refused = lab.cli("cluster", "add", "flaky", "--name", "far")
    assert refused.code == 5, refused
    assert lab.cli("cluster", "rm", "far", "-y").code == 0
    assert lab.cli("cluster", "show", "far").code == 4
    kinds_told = {one["kind"] for one in lab.call("GET", "/events").json()["items"]}
    assert {"cluster.added", "cluster.removed"} <= kinds_told


def test_what_is_typed_wrong_is_told_with_what_comes_nearest(lab: Site) -> None:
    done = lab.cli("cluster", "add", "flaky", "--gpu", "2")
    assert (done.code, "did you mean --gpus" in done.err) == (2, True), done
    done = lab.cli("cluster", "add", "flaky", "host1")
    assert (done.code, "takes no 'host1'" in done.err) == (2, True), done
    done = lab.cli("cluster", "add", "abacus")
    assert (done.code, "flaky" in done.err) == (4, True), done
    done = lab.cli("cluster", "add", "flaky", "--gpus")
    assert (done.code, "needs a value" in done.err) == (2, True), done
    done = lab.cli("cluster", "add", "local", "--name", "again")
    assert (done.code, "cluster already" in done.err) == (5, True), done
    done = lab.cli("cluster", "rm", "local", "-y")
    assert (done.code, "cannot be removed" in done.err) == (5, True), done


def test_what_cannot_work_is_refused_and_leaves_nothing(lab: Site) -> None:
    folder = lab.home / "clusters" / "far"
    trouble(folder, Trouble(is_unfit=True))
    unfit = lab.cli(*ADD)
    assert unfit.code == 6, unfit
    assert "install an-engine" in unfit.err
    trouble(folder, Trouble(is_cut=True))
    away = lab.cli(*ADD)
    assert (away.code, "does not answer" in away.err) == (1, True), away
    assert [one["cluster"]["name"] for one in lab.call("GET", "/clusters").json()] == ["local"]
    trouble(folder)
    assert lab.cli(*ADD).code == 0
    trouble(folder, Trouble(is_cut=True))
    assert "does not answer" in lab.cli("cluster", "check", "far").err


def test_who_may_not_is_refused(lab: Site) -> None:
    assert lab.cli("user", "add", "eve").code == 0
    made = json.loads(lab.cli("token", "add", "t", "--user", "eve", "--json").out)
    headers = {"Authorization": f"Bearer {made['token']}"}
    for method, path, body in (
        ("POST", "/clusters", {"backend": "flaky"}),
        ("DELETE", "/clusters/local", None),
        ("POST", "/clusters/local/probe", None),
        ("POST", "/clusters/local/check", None),
    ):
        assert lab.call(method, path, headers=headers, json=body).status_code == 403, path
    asked = lab.call("POST", "/clusters/local/probe").json()
    assert lab.call("GET", f"/operations/{asked['id']}", headers=headers).status_code == 404
