"""What pages and commands show of shares is what the planner sees."""

from __future__ import annotations

from typing import Any

from mainspring import scheduler
from mainspring.core.policy import OrderPolicy, Policy
from mainspring.core.shares import Share, parse_amounts
from mainspring.core.snapshot import ShareState, Snapshot


def _scene(make_node: Any, make_waiting: Any, **others: Any) -> Snapshot:
    waiting = tuple(
        make_waiting(seq, gpu_milli=1000, owner=owner, share=share)
        for seq, (owner, share) in enumerate([("ann", "lab/ann")] * 6 + [("bob", "bob")] * 2, 1)
    )
    return Snapshot(now=waiting[0].submitted_at, nodes=(make_node("n", cpus=64, gpus=8),), waiting=waiting, **others)


def test_every_share_that_asks_stands_below_the_one_above_it(make_node: Any, make_waiting: Any) -> None:
    found = scheduler.standings(_scene(make_node, make_waiting))
    assert [(one.name, one.depth) for one in found] == [("", 0), ("bob", 1), ("lab", 1), ("lab/ann", 2)]
    assert {one.name: one.fair["gpu"] for one in found} == {"": 8000, "bob": 2000, "lab": 6000, "lab/ann": 6000}
    assert {one.name: one.asked["gpu"] for one in found} == {"": 8000, "bob": 2000, "lab": 6000, "lab/ann": 6000}
    assert all(not one.held for one in found)


def test_what_is_promised_and_limited_is_told(make_node: Any, make_waiting: Any) -> None:
    lab = ShareState(share=Share(name="lab", guarantee=parse_amounts("4gpu"), limit=parse_amounts("5gpu"), is_held=True))
    idle = ShareState(share=Share(name="idle", guarantee=parse_amounts("12gpu")))
    policy = Policy(order=OrderPolicy())
    found = {one.name: one for one in scheduler.standings(_scene(make_node, make_waiting, shares=(lab, idle), policy=policy))}
    assert found["lab"].limit == {"gpu": 5000}
    assert found["lab"].is_held
    assert found["lab/ann"].is_held
    assert found["lab"].guarantee["gpu"] + found["idle"].guarantee["gpu"] == 8000  # scaled: more was promised than there is
    assert "gpu" not in found["idle"].fair
