"""What a snapshot keeps from the one before: it equals one read cold, and rows that did not move are the same objects."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from mainspring.core.policy import OrderPolicy, Policy
from mainspring.core.records import Cause, Desired, NodeState, Project
from mainspring.core.resources import Granted
from mainspring.core.shares import Share
from mainspring.core.snapshot import Decision, DecisionKind, Place, Plan
from mainspring.core.specs import Value, ValueKind
from mainspring.store.snapshot import Snapshots


class Player:
    """Does one random thing after the other to a store."""

    def __init__(self, world, dice: random.Random) -> None:
        self.world, self.store, self.dice = world, world.store, dice
        self.store.projects.add(Project(name="default", created_at=world.clock.now()))
        self.nodes = [world.node(cpu_milli=8000), world.node(cpu_milli=4000, gpus=2)]
        self.acts = [self.submit] * 3 + [self.start] * 3 + [self.end] * 2
        self.acts += [
            self.edit,
            self.want,
            self.turn_node,
            self.share,
            self.move_project,
            self.set_policy,
            self.book,
            self.nominate,
        ]

    def act(self) -> None:
        self.dice.choice(self.acts)()

    def submit(self) -> None:
        self.world.run(self.dice.choice("ab"), owner=self.dice.choice(["ada", "bob"]), priority=self.dice.choice([0, 0, 10]))

    def waiting(self):
        return self.dice.choice(found) if (found := self.store.snapshot(self.world.clock.now()).waiting) else None

    def start(self) -> None:
        if (run := self.waiting()) is not None:
            place = Place(replica=0, node=self.dice.choice(self.nodes).id, granted=Granted(cpu_milli=1000, memory_bytes=0))
            self.apply(Decision(run=run.id, kind=DecisionKind.START, version=run.version, places=(place,)))

    def nominate(self) -> None:
        if (run := self.waiting()) is not None:
            place = Place(replica=0, node=self.nodes[0].id, granted=Granted(cpu_milli=1000, memory_bytes=0))
            self.apply(Decision(run=run.id, kind=DecisionKind.NOMINATE, version=run.version, places=(place,)))

    def apply(self, decision: Decision) -> None:
        self.store.apply(Plan(fingerprint="", decisions=(decision,)), now=self.world.clock.now())

    def end(self) -> None:
        if going := self.store.attempts.open():
            attempt = self.dice.choice(going)
            if self.dice.random() < 0.3:
                self.store.attempts.ask_stop(attempt.id, Cause.PREEMPTED, stop_by=self.world.clock.now())
            elif self.dice.random() < 0.3:
                line = b'{"kind": "checkpoint", "manifest": "%s", "size_bytes": 1, "at": 1.0}\n' % (b"a" * 64)
                ends = self.store.attempts.append(attempt.id, 0, [], now=self.world.clock.now())
                self.store.attempts.append(attempt.id, 0, [("events", ends.get("events", 0), line)], now=self.world.clock.now())
            else:
                causes = [Cause.SUCCEEDED, Cause.NODE_LOST, Cause.LAUNCH_FAILED]
                self.world.end(attempt, self.dice.choice(causes), backoff_s=self.dice.choice([0, 60]))

    def edit(self) -> None:
        if (run := self.waiting()) is not None:
            self.store.runs.edit(run.id, priority=self.dice.randrange(20))

    def want(self) -> None:
        if (run := self.waiting()) is not None:
            self.store.runs.set_desired(run.id, Desired.PAUSED if not run.is_held else Desired.RUN)

    def turn_node(self) -> None:
        self.store.nodes.set_state(self.nodes[1].id, self.dice.choice([NodeState.READY, NodeState.DRAINING]))

    def share(self) -> None:
        known = {one.name: one for one in self.store.shares.all()}
        name = self.dice.choice(["lab", "lab/ada", "bob"])
        share = known.get(name, Share(name=name, version=0))
        self.store.shares.put(replace(share, weight=self.dice.choice([1.0, 2.0, 3.0])))

    def move_project(self) -> None:
        project = self.store.projects.get("default")
        self.store.projects.edit(replace(project, share=self.dice.choice(["", "lab"])))

    def set_policy(self) -> None:
        self.store.policies.set(Policy(order=OrderPolicy(history=self.dice.choice([0.0, 0.5]))), "", actor="ada")

    def book(self) -> None:
        self.store.usage.book(self.world.clock.now(), 604_800.0)


def _first(whole, each: int | None):
    """Return the first so many of each person's, counted one by one."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for run in whole.waiting:
        seen[run.project, run.owner] += 1
        if each is None or seen[run.project, run.owner] <= each:
            found.append(run)
    return tuple(found)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_equals_what_is_read_cold(world, seed: int) -> None:
    dice = random.Random(seed)
    player = Player(world, dice)
    for _ in range(60):
        player.act()
        world.clock.move(dice.choice([0.0, 0.3, 2.0]))
        each, now = dice.choice([None, 1, 3]), world.clock.now()
        cold = Snapshots(world.store._db).take(now, each=each)
        assert world.store.snapshot(now, each=each) == cold
        assert cold.waiting == _first(Snapshots(world.store._db).take(now), each)
        near = world.store.snapshot(now, each=each, age_s=1.0)
        calm = {"waiting": [], "shares": []}
        assert replace(near, **calm) == replace(cold, **calm)
        assert [replace(one, estimate_s=0) for one in near.waiting] == [replace(one, estimate_s=0) for one in cold.waiting]
    world.clock.move(1.0)
    now = world.clock.now()
    assert world.store.snapshot(now, age_s=1.0) == Snapshots(world.store._db).take(now)


def test_rows_that_did_not_move_are_the_same_objects(world) -> None:
    node, other = world.node(), world.node()
    first, second, third = (world.run() for _ in range(3))
    world.start(first, node)
    before = world.store.snapshot(world.clock.now())
    world.clock.move(5)
    world.store.runs.edit(second.id, priority=3)
    world.store.nodes.set_state(other.id, NodeState.DRAINING)
    after = world.store.snapshot(world.clock.now())
    assert after.placed[0] is before.placed[0]
    was = {one.id: one for one in (*before.waiting, *before.nodes)}
    assert {one.id for one in (*after.waiting, *after.nodes) if one is was[one.id]} == {third.id, node.id}
    assert {one.id for one in (*after.waiting, *after.nodes) if one is not was[one.id]} == {second.id, other.id}


def test_who_was_served_last_is_never_old(world) -> None:
    node, runs = world.node(), [world.run(owner=owner) for owner in ("ada", "bob", "ada")]
    world.start(runs[0], node)
    world.store.snapshot(world.clock.now(), age_s=60)
    for run in runs[1:]:
        world.clock.move(1)
        world.start(run, node)
        states = world.store.snapshot(world.clock.now(), age_s=60).shares
        assert {one.share.name: one.served_at for one in states}[run.owner] == world.clock.now()


def test_a_run_is_told_on_which_nodes_its_data_set_was_read_lately(world) -> None:
    near, far = world.node(), world.node()
    images, labels = (Value(kind=ValueKind.DATASET, digest=one * 64, size_bytes=1 << 30) for one in "ab")
    for node, args in ((near, {"x": images, "y": labels}), (far, {"x": images}), (far, {})):
        world.end(world.start(world.run(args=args), node))
    world.end(world.start(world.run(args={"x": labels}), far), Cause.LAUNCH_FAILED)  # it may have read nothing
    wanted = [{"x": images}, {"x": images, "y": labels}, {}, {"x": replace(images, digest="c" * 64)}]
    waiting = [world.run(args=args).id for args in wanted]
    found = {one.id: one.data_on for one in world.store.snapshot(world.clock.now()).waiting}
    assert [found[id] for id in waiting] == [tuple(sorted((near.id, far.id))), (near.id,), (), ()]
