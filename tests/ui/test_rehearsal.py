"""The rehearsal page: the address is the policy, the sentence tells who wins and who loses."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.core.policy import OrderPolicy, Policy
from mainspring.core.rehearsals import Outlook, Rehearsal, Rehearsed
from mainspring.ui import rehearsal


def _under(**means: float) -> Rehearsed:
    by_share = {name: Outlook(runs=3, mean_s=mean, p50_s=mean, p90_s=mean) for name, mean in means.items()}
    mean = sum(means.values()) / len(means)
    return Rehearsed(policy=Policy(), all=Outlook(runs=3, mean_s=mean, p50_s=mean, p90_s=mean), by_share=by_share)


def test_the_address_changes_the_policy_in_force(full: Any) -> None:
    in_force = Policy(scorer="fgd", order=OrderPolicy(aging_s=3600))
    assert rehearsal.policy_of(full.view("/rehearsal"), in_force) == in_force
    view = full.view("/rehearsal", go="1", fair="1", half="12", mode="priority", min_run="2", reserved="3")
    found = rehearsal.policy_of(view, in_force)
    assert (found.scorer, found.order.is_fair, found.order.is_shortest_first) == ("fgd", True, False)
    assert (found.order.aging_s, found.order.half_life_s, found.preemption.mode) == (3600, 43_200, "priority")
    assert (found.preemption.min_run_s, found.backfill.reserved) == (120, 3)


@pytest.mark.parametrize("odd", ["x", "-1", "nan", "inf", "1e999"])
def test_what_is_no_number_changes_nothing(full: Any, odd: str) -> None:
    asked = full.view("/rehearsal", aging=odd, history=odd, reserved=odd, mode=odd, days=odd)
    assert rehearsal.policy_of(asked, Policy()) == Policy()
    assert rehearsal.days_of(asked) == 7


def test_the_sentence_names_who_wins_and_who_loses_most() -> None:
    found = Rehearsal(now=_under(ann=60, bob=600, cem=60), then=_under(ann=360, bob=120, cem=61), runs=9)
    assert rehearsal.sentence(found) == (
        "The mean wait would be 3 m 0 s instead of 4 m 0 s. bob wins most (8 m 0 s less). ann loses most (5 m 0 s more)."
    )
    same = Rehearsal(now=_under(ann=60), then=_under(ann=60.2), runs=3)
    assert rehearsal.sentence(same) == "The mean wait stays 1 m 0 s."
    assert "none" in rehearsal.by_share(same)


async def test_only_administrators_rehearse(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        user.http_client.headers["as"] = "bob"
        await user.open("/rehearsal?go=1")
        await user.should_see("rehearsed by administrators")
        await user.should_not_see("Half-life")
