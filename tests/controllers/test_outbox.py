"""People are told in order and at least once; a notifier that is away is tried again; the cursor survives."""

from __future__ import annotations

from dataclasses import replace

from mainspring.controllers.outbox import Outbox
from mainspring.core.actors import SYSTEM
from mainspring.core.errors import UnreachableError
from mainspring.core.objectives import Objective
from mainspring.core.records import Cause, Event
from mainspring.core.specs import RunSpec
from mainspring.services import gates, runs


class Heard:
    """Remembers what it was told; away for the first `misses` calls."""

    def __init__(self, misses: int = 0) -> None:
        self.told: list[str] = []
        self.misses = misses

    def notify(self, event: Event, sentence: str) -> None:
        del event
        if self.misses:
            self.misses -= 1
            raise UnreachableError("The chat does not answer.")
        self.told.append(sentence)


def test_people_hear_of_failures_and_verdicts_once_each_is_reached(house) -> None:
    ctx = replace(house.ctx, settings=house.ctx.settings.model_copy(update={"notifiers": {"chat": {}}}))
    run, _ = runs.submit(ctx, SYSTEM, RunSpec(command=("a",), name="mine"))
    house.plan()
    house.end(run, Cause.USER_ERROR)
    gates.judge(ctx, SYSTEM, Objective(name="goal", kpi="usd", at_least=5), {"usd": 1.0})
    heard = Heard(misses=1)
    outbox = Outbox(ctx, {"chat": heard})
    assert outbox.tick() == 30.0
    assert heard.told == []
    assert outbox.tick() is None
    assert heard.told[0].startswith("Run mine failed")
    assert "must be at least 5" in heard.told[1]
    assert Outbox(ctx, {"chat": heard}).tick() is None, "a new process goes on after the cursor"
    assert len(heard.told) == 2


def test_without_notifiers_nothing_is_read(house) -> None:
    runs.submit(house.ctx, SYSTEM, RunSpec(command=("a",)))
    assert Outbox(house.ctx).tick() is None
    assert house.ctx.store.cursor("outbox") == 0
