"""The rehearsal page: the address is the policy, the sentence tells who wins and who loses."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from nicegui import ui

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


def test_the_chart_has_two_bars_for_each_person_those_who_wait_longest_on_top() -> None:
    found = Rehearsal(now=_under(ann=60, bob=600, cem=90), then=_under(ann=360, bob=120, cem=90), runs=9)
    drawn = rehearsal.chart(found)
    assert drawn["yAxis"]["data"] == ["bob", "ann", "cem"]  # type: ignore[index]
    assert [(one["name"], one["data"]) for one in drawn["series"]] == [  # type: ignore[attr-defined]
        ("now", [10.0, 1.0, 1.5]),
        ("rehearsed", [2.0, 6.0, 1.5]),
    ]
    many = _under(**{f"p{n}": 60.0 + n for n in range(rehearsal.MAX_BARS + 5)})
    shown = rehearsal.chart(Rehearsal(now=many, then=many, runs=1))
    assert len(shown["yAxis"]["data"]) == rehearsal.MAX_BARS  # type: ignore[index]


def test_the_summary_sets_both_policies_side_by_side() -> None:
    then = replace(_under(ann=120), evictions=1200, lost=0.0123, jain=0.5, makespan_s=7200.0)
    rows = _cells(rehearsal.summary(Rehearsal(now=_under(ann=60), then=then, runs=3)))
    assert rows["Mean wait"] == ["1 m 0 s", "2 m 0 s"]
    assert rows["How fairly it was shared (Jain, 1 is best)"] == ["1.000", "0.500"]
    assert rows["Runs stopped for others"] == ["0", "1,200"]
    assert rows["GPU time worked twice"] == ["0.00%", "1.23%"]
    assert rows["Until all was done"] == ["0 s", "2 h 0 m"]
    assert "Rented machines" not in rows
    rented = Rehearsal(now=then, then=replace(then, cost_usd=1234.5), runs=3)
    assert _cells(rehearsal.summary(rented))["Rented machines"] == ["0.00 USD", "1,234.50 USD"]


def _cells(table: str) -> dict[str, list[str]]:
    """Return the cells of each row of a table by what stands first."""
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")]
    return {row[0]: row[1:] for row in rows if row}


async def test_a_rehearsal_shows_its_report_or_why_there_is_none(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        await user.open("/rehearsal?go=1&fair=1&shortest=1&days=1")
        for words in ("The mean wait", "replayed.", "Waits of each person", "Both policies", "Until all was done", "Who wins"):
            await user.should_see(words, retries=100)
        await user.should_see(ui.echart)
        full.house.clock.advance(3 * 86_400)
        await user.open("/rehearsal?go=1&days=1")
        await user.should_see("No run that would fit ended in the last 1 day.", retries=100)
        await user.should_see("Rehearse a longer time.")


async def test_only_administrators_rehearse(full: Any, simulated: Any) -> None:
    async with simulated() as user:
        user.http_client.headers["as"] = "bob"
        await user.open("/rehearsal?go=1")
        await user.should_see("rehearsed by administrators")
        await user.should_not_see("Half-life")
