"""Who may adopt, and whose word is believed: a claim that this installation signed for this very attempt, and no other."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from mainspring.core.actors import SYSTEM
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import Role
from mainspring.services import adoption, attempts, projects, shares
from mainspring.services.shares import ShareChange

LOST = AttemptId("att-lost")


@pytest.fixture
def claim(world) -> str:
    """What a runner of this installation shows whose attempt is known no longer."""
    run = world.submit(name="lost")
    attempt, _ = world.launch()
    return adoption.seal(world.ctx, world.ctx.store.runs.get(run["id"]), replace(attempt, id=LOST))


def beat(world, claim: str, attempt: str = LOST):
    token = attempts.make_token(world.ctx, attempt)  # the runner's own: what is judged here is the claim alone
    return world.client(token).post(f"/attempts/{attempt}/beat", json={"state": "running", "claim": claim})


def test_a_claim_that_was_signed_here_is_listed(world, claim):
    answer = beat(world, claim)
    assert (answer.status_code, answer.headers["Retry-After"]) == (410, "30"), "three quiet beats"
    (listed,) = world.client().get("/unadopted").json()
    assert (listed["attempt"], listed["claim"]) == (LOST, ""), "the claim itself is nobody's business"


@pytest.mark.parametrize("forge", ["signature", "body", "no_signature", "not_base64"])
def test_a_claim_that_was_not_signed_here_is_not_believed(world, claim, forge):
    body, _, mark = claim.partition(".")
    changed = base64.b64encode(base64.b64decode(body).replace(b"lost", b"mine")).decode()
    assert changed != body
    forged = {"signature": f"{body}.{'0' * len(mark)}", "body": f"{changed}.{mark}", "no_signature": body, "not_base64": "#.#"}
    answer = beat(world, forged[forge])
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "auth")
    assert world.client().get("/unadopted").json() == []


def test_the_claim_of_another_attempt_is_not_believed(world, claim):
    answer = beat(world, claim, "att-another")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "auth")
    assert world.client().get("/unadopted").json() == []


def test_only_an_attempts_own_runner_speaks_for_it(world, claim):
    for token in ("f" * 64, attempts.make_token(world.ctx, "att-another"), world.admin):
        answer = world.client(token).post(f"/attempts/{LOST}/beat", json={"state": "running", "claim": claim})
        assert answer.status_code in (401, 403)
    assert world.client().get("/unadopted").json() == []


@pytest.mark.parametrize("role", list(Role))
def test_only_admins_adopt_and_say_how_nodes_are(world, claim, role):
    beat(world, claim)
    member = world.client(world.token("mel", role))
    for answer in (
        member.get("/unadopted"),
        member.post(f"/unadopted/{LOST}/adopt"),
        member.post("/nodes/here/drain"),
        member.post("/nodes/here/resume"),
        member.post("/nodes/here/dead"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "access_denied")
    assert len(world.client().get("/unadopted").json()) == 1
    assert [node.state for node in world.ctx.store.nodes.all()] == ["ready"]


def test_what_is_adopted_counts_to_the_share_of_its_project(world):
    ctx = world.ctx
    shares.change(ctx, SYSTEM, "lab", ShareChange())
    projects.edit(ctx, SYSTEM, "default", share="lab")
    known = ctx.store.runs.get(world.submit(name="lost")["id"])
    attempt, _ = world.launch()
    lost = replace(known, id=RunId("run-lost"))
    assert beat(world, adoption.seal(ctx, lost, replace(attempt, id=LOST, run=lost.id))).status_code == 410
    assert world.client().post(f"/unadopted/{LOST}/adopt").status_code == 200
    held = {one.run: one.share for one in ctx.store.nodes.allocations_since(known.created_at)}
    assert held[lost.id] == held[known.id] == f"lab/{known.owner}"
