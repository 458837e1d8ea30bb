"""Shares, policies, the bill and rights over priorities: who may do what, and what is said about nonsense."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mainspring.core.actors import SYSTEM, Actor
from mainspring.core.errors import AccessDeniedError, ConflictError, NotFoundError, SpecError, UsageError
from mainspring.core.policy_file import parse_policy, show_policy, with_value
from mainspring.core.records import Cause, Role
from mainspring.core.resources import Resources
from mainspring.core.shares import parse_amounts, show_amounts
from mainspring.core.snapshot import OVERDUE, Decision, DecisionKind, Plan
from mainspring.core.specs import RunSpec
from mainspring.services import policies, projects, runs, shares, standings, usage
from mainspring.services.shares import NewReservation, ShareChange
from mainspring.services.usage import By

ALICE = Actor(name="alice", roles={"default": Role.EDITOR})
SPEC = RunSpec(command=("python", "train.py"), resources=Resources(cpu_milli=1000, gpu_milli=1000))


def test_only_administrators_configure(house):
    for act in (
        lambda: shares.change(house.ctx, ALICE, "lab", ShareChange(weight=2)),
        lambda: shares.remove(house.ctx, ALICE, "lab"),
        lambda: policies.change(house.ctx, ALICE, ""),
        lambda: projects.edit(house.ctx, replace(ALICE, roles={"default": Role.OWNER}), "default", share="lab"),
    ):
        with pytest.raises(AccessDeniedError):
            act()
    assert (shares.all(house.ctx, ALICE), policies.current(house.ctx, ALICE).number) == ([], 0)


def test_a_share_is_found_by_its_last_part_and_moved_with_what_is_below(house):
    ctx = house.ctx
    shares.change(ctx, SYSTEM, "research", ShareChange(weight=3))
    made = shares.change(ctx, SYSTEM, "team-a", ShareChange(parent="research", guarantee={"gpu": 1000})).share
    assert (made.name, shares.get(ctx, ALICE, "team-a")) == ("research/team-a", made)
    assert shares.change(ctx, SYSTEM, "team-a/alice", ShareChange(limit={"gpu": 1000})).share.name == "research/team-a/alice"
    shares.remove(ctx, SYSTEM, "team-a/alice")
    with pytest.raises(ConflictError, match="cycle"):
        shares.change(ctx, SYSTEM, "research", ShareChange(parent="research/team-a"))
    shares.change(ctx, SYSTEM, "research", ShareChange(parent="org"))
    assert [one.name for one in shares.all(ctx, ALICE)] == ["org/research", "org/research/team-a"]
    kept = shares.change(ctx, SYSTEM, "team-a", ShareChange(is_held=True)).share
    assert (kept.name, kept.guarantee, kept.is_held) == ("org/research/team-a", {"gpu": 1000}, True)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (ShareChange(weight=-1), "weight"),
        (ShareChange(weight=float("nan")), "weight"),
        (ShareChange(guarantee={"bananas": 1}), "guarantee"),
        (ShareChange(limit={"gpu": -1}), "limit"),
        (ShareChange(guarantee={"gpu": 2000}, limit={"gpu": 1000}), "limit"),
        (ShareChange(budget_usd="-3"), "budget_usd"),
    ],
)
def test_nonsense_is_refused_by_the_field(house, change, path):
    with pytest.raises(SpecError) as wrong:
        shares.change(house.ctx, SYSTEM, "lab", change)
    assert wrong.value.details["path"] == path
    assert shares.all(house.ctx, ALICE) == []


def test_too_much_promised_and_unknown_models_are_noticed_not_refused(house):
    shares.change(house.ctx, SYSTEM, "one", ShareChange(guarantee={"gpu": 1000}))
    changed = shares.change(house.ctx, SYSTEM, "two", ShareChange(guarantee={"gpu": 2000, "gpu:h900": 1000}))
    assert len(changed.notices) == 2
    assert "h900" in changed.notices[0]
    assert "3gpu" in changed.notices[1]


def test_runs_of_a_project_count_to_its_share(house):
    ctx = house.ctx
    shares.change(ctx, SYSTEM, "lab", ShareChange(limit={"gpu": 1000}))
    projects.edit(ctx, SYSTEM, "default", share="lab")
    for _ in range(2):
        runs.submit(ctx, ALICE, SPEC)
    assert len(house.plan()) == 1
    told = {one.name: one for one in standings.standings(ctx, ALICE)}
    assert (told["lab"].held["gpu"], told["lab/alice"].asked["gpu"]) == (1000, 1000)
    waiting = ctx.store.runs.waiting()
    assert len(waiting) == 1
    with pytest.raises(ConflictError, match="default"):
        shares.remove(ctx, SYSTEM, "lab")


def test_a_held_share_starts_nothing(house):
    shares.change(house.ctx, SYSTEM, "alice", ShareChange(is_held=True))
    run, _ = runs.submit(house.ctx, ALICE, SPEC)
    assert house.plan() == []
    assert house.ctx.store.runs.get(run.id).reason.code == "share_held"
    shares.change(house.ctx, SYSTEM, "alice", ShareChange(is_held=False))
    assert house.plan() == [run.id]


def test_the_bill_adds_up_at_every_level(house):
    ctx = house.ctx
    shares.change(ctx, SYSTEM, "lab", ShareChange())
    projects.edit(ctx, SYSTEM, "default", share="lab")
    run, _ = runs.submit(ctx, ALICE, SPEC)
    house.plan()
    house.clock.advance(1800)
    hours = {row.key: row.gpu_hours for row in usage.usage(ctx, ALICE)}
    assert hours == {"": 0.5, "lab": 0.5, "lab/alice": 0.5}
    house.end(run)
    house.clock.advance(1800)
    for by, key in ((By.USER, "alice"), (By.PROJECT, "default")):
        assert [(row.key, row.gpu_hours) for row in usage.usage(ctx, ALICE, by=by)] == [(key, 0.5)]
    assert usage.usage(ctx, Actor(name="eve"), by=By.PROJECT) == []
    for month in ("1999", "2026-13", "x", "2026-1"):
        with pytest.raises(UsageError):
            usage.usage(ctx, ALICE, month=month)


def test_priorities_above_normal_are_a_right(house):
    ctx = house.ctx
    with pytest.raises(AccessDeniedError, match="priority 5"):
        runs.submit(ctx, ALICE, replace(SPEC, priority=5))
    low, _ = runs.submit(ctx, ALICE, replace(SPEC, priority=-5))
    assert runs.edit(ctx, ALICE, low.id, priority=0).priority == 0
    with pytest.raises(AccessDeniedError):
        runs.edit(ctx, ALICE, low.id, priority=1)
    projects.edit(ctx, SYSTEM, "default", priority_role=Role.EDITOR)
    assert runs.submit(ctx, ALICE, replace(SPEC, priority=5))[0].priority == 5


@pytest.mark.parametrize(
    ("text", "line", "path", "said"),
    [
        ("[order]\nhalf_life = 3\n", 2, "order.half_life", "half_life_s"),
        ("\n[ordr]\n", 2, "ordr", "order"),
        ("[order]\n\nhistory = 7\n", 3, "order.history", "between 0 and 1"),
        ('[backfill]\ndepth = "x"\n', 2, "backfill.depth", "a whole number"),
        ("[backfill]\ndepth = 2.5\n", 2, "backfill.depth", "a whole number"),
        ("[backfill]\n\ndepth = true\n", 3, "backfill.depth", "depth = 1000"),
        ('[order]\naging_s = "6h"\n', 2, "order.aging_s", "a number"),
        ("[order]\nis_fair = 1\n", 2, "order.is_fair", "true or false"),
        ("[order]\nis_fair = [true]\n", 2, "order.is_fair", "true or false"),
        ('[burst]\nmode = "nofit"\n', 2, "burst.mode", "no_fit, never. Do you mean 'no_fit'?"),
        ("[burst]\nmode = 3\n", 2, "burst.mode", "one of all_allocated, no_fit, never"),
        ('[preemption]\nmode = "prioritty"\n', 2, "preemption.mode", "do you mean 'priority'?"),
        ('scorer = "nobody"\n', 1, "scorer", "nobody"),
        ("[order\n", 1, "", "TOML"),
        ("half_life_s = 5\n", 1, "half_life_s", "order.half_life_s"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_line_and_stops_nothing(house, text, line, path, said):
    good = policies.change(house.ctx, SYSTEM, "[order]\nhistory = 0.5\n")
    with pytest.raises(SpecError) as wrong:
        policies.change(house.ctx, SYSTEM, text)
    assert (wrong.value.details["line"], wrong.value.details["path"]) == (line, path)
    assert said in str(wrong.value)
    assert policies.current(house.ctx, ALICE) == good
    assert house.ctx.store.snapshot(house.clock.now()).policy.order.history == 0.5


def test_one_key_of_a_policy_is_changed_and_the_rest_stays():
    written = "# ours\nscorer = 'fgd'\n\n[order]\nhistory = 0.5  # agreed\n"
    changed = with_value(written, "order.aging_s", "60")
    assert parse_policy(changed) == parse_policy(written + "aging_s = 60\n")
    changed = with_value(with_value(changed, "burst.mode", "never"), "max_starts", "7")
    found = parse_policy(with_value(changed, "order.history", "0.1"))
    assert (found.order.history, found.order.aging_s, found.burst.mode, found.max_starts) == (0.1, 60.0, "never", 7)
    assert found.scorer == "fgd"
    assert "# ours" in changed
    assert parse_policy(with_value("", "scorer", "best_fit")).scorer == "best_fit"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("order.histroy", "1", "'history'"),
        ("history", "1", "'order.history'"),
        ("order", "1", "order.history"),
        ("order.history.more", "1", "no key"),
        ("order.history", "much", 'order.history is "much", and must be a number'),
        ("order.is_fair", "yes", "true or false"),
        ("burst.mode", "nevr", "'never'"),
        ("max_starts", "1.5", "a whole number"),
    ],
)
def test_a_wrong_key_or_value_is_named_without_a_file(key, value, said):
    with pytest.raises(SpecError) as wrong:
        with_value("[order]\nhistory = 0.5\n", key, value)
    assert said in str(wrong.value)
    assert "Line" not in str(wrong.value)
    assert "JSON" not in str(wrong.value)


def test_a_policy_is_shown_as_it_is_read(house):
    text = policies.current(house.ctx, ALICE).text
    assert show_policy(parse_policy(text)) == text
    assert parse_policy("[preemption]\nmin_run_s = 60\n").preemption.min_run_s == 60.0


def test_a_share_that_is_not_there_cannot_be_forgotten(house):
    with pytest.raises(NotFoundError) as wrong:
        shares.remove(house.ctx, SYSTEM, "nothere")
    assert "--weight" not in wrong.value.hint
    assert "mainspring share" in wrong.value.hint


def test_windows_that_make_no_sense_are_refused(house):
    now = house.clock.now()
    good = NewReservation(share="lab", begins_at=now, ends_at=now + timedelta(hours=1))
    for bad in (
        replace(good, ends_at=now),
        replace(good, ends_at=(now + timedelta(hours=1)).replace(tzinfo=None)),
        replace(good, replicas=0),
        replace(good, share="no name!"),
    ):
        with pytest.raises(SpecError):
            shares.reserve(house.ctx, SYSTEM, bad)
    made = shares.reserve(house.ctx, SYSTEM, good).reservation
    assert shares.reservations(house.ctx, ALICE) == [made]
    shares.release(house.ctx, SYSTEM, made.id)
    with pytest.raises(NotFoundError):
        shares.release(house.ctx, SYSTEM, made.id)


def test_a_window_above_the_fleet_is_kept_and_noticed(house):
    now = house.clock.now()
    one_gpu = NewReservation(
        share="lab", begins_at=now, ends_at=now + timedelta(hours=1), resources=Resources(cpu_milli=100, gpu_milli=1000)
    )
    later = replace(one_gpu, begins_at=one_gpu.ends_at, ends_at=now + timedelta(hours=2))
    for fits in (replace(one_gpu, replicas=2), replace(later, replicas=2)):
        assert shares.reserve(house.ctx, SYSTEM, fits).notices == ()
    (both,) = shares.reserve(house.ctx, SYSTEM, one_gpu).notices
    assert "3gpu" in both
    assert "the fleet has 2gpu" in both
    (unknown,) = shares.reserve(
        house.ctx, SYSTEM, replace(one_gpu, resources=Resources(gpu_milli=1000, gpu_models=("h900",)))
    ).notices
    assert "h900" in unknown
    (large,) = shares.reserve(house.ctx, SYSTEM, replace(one_gpu, resources=Resources(cpu_milli=10**6))).notices
    assert "8 CPUs" in large
    assert len(shares.reservations(house.ctx, ALICE)) == 5


def test_amounts_are_read_as_they_are_shown():
    amounts = {"gpu:a100": 4000, "gpu": 500, "cpu": 64_000, "memory": 3 << 30}
    assert parse_amounts(show_amounts(amounts)) == amounts


@pytest.mark.parametrize("text", ["3foo", "gpu", "-1gpu", "4gpu:", "8gpu, 2gpu", "4cpu:a100"])
def test_amounts_of_unknown_units_are_named(text):
    with pytest.raises(SpecError, match=r"no amount|second time"):
        parse_amounts(text)


def test_a_run_that_was_stopped_for_another_says_for_whom(house):
    ctx = house.ctx
    first = [runs.submit(ctx, ALICE, SPEC)[0] for _ in range(2)]
    assert house.plan() == [run.id for run in first]
    for run in first:
        house.begin(house.attempt_of(run))
    house.clock.advance(3600)
    bob = Actor(name="bob", roles={"default": Role.EDITOR})
    wants, _ = runs.submit(ctx, bob, replace(SPEC, name="urgent"))
    assert house.plan() == []
    (victim,) = [run for run in first if house.attempt_of(run).stop_for]
    told = runs.why(ctx, ALICE, victim.id)
    assert (told["stopped_for"]["run"], told["stopped_for"]["owner"]) == (wants.id, "bob")
    assert "urgent of bob" in told["sentence"]
    assert ctx.store.runs.get(wants.id).reason.code == "nominated"
    assert house.plan() == []  # nobody else is stopped, the place is kept
    house.end(victim, Cause.PREEMPTED)
    assert house.plan() == [wants.id]
    assert "urgent of bob" in runs.why(ctx, ALICE, victim.id)["sentence"]


def test_a_run_that_was_overdue_at_a_paid_site_says_so(house):
    ctx = house.ctx
    run, _ = runs.submit(ctx, ALICE, SPEC)
    house.plan()
    house.begin(house.attempt_of(run))
    version = ctx.store.runs.get(run.id).version
    leaves = Decision(run=run.id, kind=DecisionKind.EVICT, version=version, beneficiary=run.id, rule=OVERDUE)
    ctx.store.apply(Plan(fingerprint="", decisions=(leaves,)), now=ctx.clock.now())
    house.end(run, Cause.PREEMPTED)
    told = runs.why(ctx, ALICE, run.id)
    assert told["sentence"].endswith("It outlived what was reserved for it at a paid site, and goes on at home.")
    assert told["stopped_for"] is None


def test_a_run_of_a_project_that_one_is_not_in_is_not_named(house):
    ctx = house.ctx
    projects.add(ctx, SYSTEM, "closed")
    insider = Actor(name="bob", roles={"closed": Role.EDITOR})
    first = [runs.submit(ctx, ALICE, SPEC)[0] for _ in range(2)]
    assert house.plan() == [run.id for run in first]
    for run in first:
        house.begin(house.attempt_of(run))
    house.clock.advance(3600)
    runs.submit(ctx, insider, replace(SPEC, name="hush", project="closed"))
    house.plan()
    (victim,) = [run for run in first if house.attempt_of(run).stop_for]
    told = runs.why(ctx, ALICE, victim.id)
    assert told["stopped_for"] == {"run": "", "name": "", "owner": "bob"}
    assert "Its place was needed by a run of bob." in told["sentence"]
    seen = runs.why(ctx, SYSTEM, victim.id)
    assert seen["stopped_for"]["name"] == "hush"
