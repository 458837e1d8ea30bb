"""What condemns a node or a device, what does not, and the way back. Pure; each rule of the module's docstring has a test."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mainspring.core.health import (
    Rules,
    after_probe,
    changes,
    condemned,
    drained,
    due_probe,
    judged,
    next_look,
    probed,
    resumed,
    why_closed,
)
from mainspring.core.ids import AttemptId, RunId
from mainspring.core.records import (
    ClosureCause,
    ClosureState,
    LaunchFailure,
    Node,
    NodeState,
    Symptom,
    SymptomKind,
)
from mainspring.core.resources import Device
from mainspring.core.symptoms import of_gpus

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RULES = Rules(launch_failures=3, lone_launch_failures=5, retry_s=600, retry_max_s=3600)
NODE = Node(id="n", cluster="c", name="n", cpu_milli=8000, memory_bytes=1, devices=(Device(index=0), Device(index=3)), boot="b1")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def failed(number: int, node: str = "n", kind: str = "k", *, run: str = "", begun: bool = False) -> LaunchFailure:
    return LaunchFailure(
        attempt=AttemptId(f"a{node}{number}"),
        replica=0,
        node=node,
        run=RunId(run or f"r{number}"),
        kind=kind,
        at=later(number),
        message="No such file.",
        begun_at=later(number + 1) if begun else None,
    )


def test_three_runs_that_began_elsewhere_condemn_the_node() -> None:
    three = [failed(number, begun=True) for number in range(3)]
    assert condemned("n", three[:2], RULES) == ""
    told = condemned("n", three, RULES)
    assert told.startswith("3 runs in a row could not be launched here, and 3 runs began elsewhere."), told
    assert told.endswith("The last one: No such file.")
    assert condemned("other", three, RULES) == ""


def test_one_run_that_fails_over_and_over_condemns_nothing() -> None:
    assert condemned("n", [failed(number, run="r", begun=True) for number in range(20)], RULES) == ""


def test_a_sweep_with_a_wrong_image_condemns_nothing() -> None:
    every = [failed(number, node) for number in range(50) for node in ("n", "other")]
    assert condemned("n", every, RULES) == condemned("other", every, RULES) == ""
    assert condemned("n", [failed(number) for number in range(50)], RULES) == "", "nor where there is no other node"


def test_many_kinds_that_fail_on_the_only_node_condemn_it() -> None:
    every = [failed(number, kind=f"k{number}") for number in range(5)]
    assert condemned("n", every[:4], RULES) == ""
    assert "they are of 5 different kinds" in condemned("n", every, RULES)
    assert condemned("n", [*every, *(failed(9, "other", f"k{one}") for one in range(5))], RULES) == "", "they fail everywhere"


def test_a_quarantine_says_why_and_is_tried_after_a_while() -> None:
    failures = [failed(number, begun=True) for number in range(3)]
    sick = judged(NODE, failures, RULES, NOW)
    assert sick.state is NodeState.QUARANTINED
    assert changes(NODE, sick)[0][0] == "node.quarantined"
    assert judged(sick, failures, RULES, later(1)) is sick, "nothing more is told while it lasts"
    assert "It is tried again at 01 Jan 12:10 UTC." in why_closed(sick)[0]
    assert due_probe(sick, later(599)) is None
    closure = due_probe(sick, later(600))
    assert closure is not None
    trying = probed(sick, "run_1")
    assert trying.state is NodeState.QUARANTINED
    assert due_probe(trying, later(700)) is None
    well = after_probe(trying, has_begun=True, rules=RULES, now=later(700))
    assert (well.state, due_probe(well, later(9999))) == (NodeState.READY, None)
    assert [kind for kind, _ in changes(trying, well)] == ["node.ready"]


def test_each_probe_that_fails_doubles_the_pause_up_to_the_most() -> None:
    node, now, pauses = judged(NODE, [failed(number, begun=True) for number in range(3)], RULES, NOW), NOW, []
    for _ in range(4):
        retry_at = node.closures[0].retry_at
        assert retry_at is not None
        pauses.append((retry_at - now).total_seconds())
        now = retry_at
        node = after_probe(probed(node, "r"), has_begun=False, rules=RULES, now=now)
    assert pauses == [600, 1200, 2400, 3600]
    assert node.state is NodeState.QUARANTINED


def test_a_node_that_relapses_soon_stays_longer_and_later_is_forgiven() -> None:
    failures = [failed(number, begun=True) for number in range(3)]
    well = after_probe(judged(NODE, failures, RULES, NOW), has_begun=True, rules=RULES, now=later(600))
    again = judged(well, failures, RULES, later(700))
    assert again.closures[0].retry_at == later(700 + 1200)
    forgotten = judged(well, [], RULES, later(10_000))
    assert forgotten.closures == ()


@pytest.mark.parametrize("code", [13, 31, 43, 45])
def test_what_user_code_does_wrong_takes_no_gpu_out(code: int) -> None:
    node = replace(NODE, symptoms=(Symptom(kind=SymptomKind.XID, device=3, code=code, mark=5),))
    assert judged(node, [], RULES, NOW) is node


def test_an_xid_takes_its_gpu_out_until_the_machine_was_booted() -> None:
    node = replace(NODE, symptoms=(Symptom(kind=SymptomKind.XID, device=3, code=79, mark=5, detail="fell off the bus"),))
    sick = judged(node, [], RULES, NOW)
    assert (sick.state, sick.out()) == (NodeState.READY, frozenset({3}))
    assert why_closed(sick)[0].startswith("device 3: quarantined: the driver told of XID 79")
    gone = replace(sick, symptoms=())
    assert judged(gone, [], RULES, later(60)).out() == {3}, "a line that left the log mends nothing"
    assert judged(replace(gone, boot="b2"), [], RULES, later(60)).out() == frozenset()
    assert judged(replace(sick, boot="b2"), [], RULES, later(60)).out() == {3}, "it is told again after the boot"


def test_ecc_errors_take_a_gpu_out_until_it_was_reset() -> None:
    sick = judged(replace(NODE, symptoms=(Symptom(kind=SymptomKind.ECC, device=0, mark=2),)), [], RULES, NOW)
    assert sick.out() == {0}
    assert "2 uncorrected ECC errors" in why_closed(sick)[0]
    well = judged(replace(sick, symptoms=()), [], RULES, later(60))
    assert well.out() == frozenset()
    back = judged(replace(well, symptoms=(Symptom(kind=SymptomKind.ECC, device=0, mark=1),)), [], RULES, later(120))
    assert back.out() == {0}, "its counter began anew, so one error is a new one"


def test_what_an_operator_forgave_takes_nothing_out_again() -> None:
    sick = judged(replace(NODE, symptoms=(Symptom(kind=SymptomKind.ECC, device=0, mark=2),)), [], RULES, NOW)
    well = resumed(sick, now=later(5), device=0)
    assert well.out() == frozenset()
    assert judged(well, [], RULES, later(10)) is well
    assert judged(well, [], RULES, later(10**6)).out() == frozenset(), "as long as it is told"
    worse = replace(well, symptoms=(Symptom(kind=SymptomKind.ECC, device=0, mark=3),))
    assert judged(worse, [], RULES, later(20)).out() == {0}


def test_a_full_disk_closes_the_node_until_there_is_room() -> None:
    full = replace(NODE, symptoms=(Symptom(kind=SymptomKind.DISK, detail="only 3 MiB are free."),))
    sick = judged(full, [], RULES, NOW)
    assert sick.state is NodeState.QUARANTINED
    well = judged(replace(sick, symptoms=()), [], RULES, later(60))
    assert well.state is NodeState.READY
    assert judged(replace(well, symptoms=full.symptoms), [], RULES, later(120)).state is NodeState.QUARANTINED
    forgiven = resumed(sick, now=later(60))
    assert judged(forgiven, [], RULES, later(120)).state is NodeState.READY, "an operator said so"


def test_what_comes_and_goes_is_told_ever_more_seldom() -> None:
    node, told = NODE, 0
    for minute in range(24 * 60):
        symptoms = (Symptom(kind=SymptomKind.DISK, detail="full"),) if minute % 2 else ()
        new = judged(replace(node, symptoms=symptoms), [], RULES, later(60 * minute))
        told += len(changes(node, new))
        node = new
    assert 20 < told < 70, "a day of it, each minute, with a pause of an hour at most"


def test_an_operator_drains_and_resumes_a_node_and_a_device() -> None:
    shut = drained(NODE, by="ada", now=NOW, reason="new disks", ends_at=later(60))
    assert shut.state is NodeState.DRAINING
    assert why_closed(shut) == [
        "drained by ada: new disks; what still runs is stopped at 01 Jan 12:01 UTC (since 01 Jan 12:00 UTC)"
    ]
    out = drained(shut, by="bob", now=later(1), device=3)
    assert (out.state, out.out()) == (NodeState.DRAINING, frozenset({3}))
    back = resumed(out, now=later(2))
    assert (back.state, back.out()) == (NodeState.READY, frozenset({3}))
    assert resumed(back, now=later(3), device=3).closures == ()
    assert next_look([shut], NOW, 50) == 10
    assert next_look([back], NOW, 50) is None


def test_a_drained_node_that_is_found_ill_stays_so_after_the_drain() -> None:
    failures = [failed(number, begun=True) for number in range(3)]
    both = judged(drained(NODE, by="ada", now=NOW), failures, RULES, NOW)
    assert both.state is NodeState.DRAINING
    assert after_probe(both, has_begun=True, rules=RULES, now=NOW).state is NodeState.DRAINING
    assert judged(replace(NODE, state=NodeState.DEAD), failures, RULES, NOW).state is NodeState.DEAD


def test_drivers_words_are_read() -> None:
    table = "0, 00000000:3B:00.0, 0\n1, 00000000:AF:00.0, [N/A]\n2, 00000001:5E:00.0, 4\nNo devices were found\n"
    kernel = (
        "[  100.5] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.\n"
        "[90.000001] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, first\n"
        "[123456.789012] host kernel: NVRM: Xid (PCI:0000:af:00): 31, pid=7, name=python, Ch 00000008\n"
        "[1.0] NVRM: Xid (PCI:0000:ff:00): 79, another machine's\n[x] NVRM: Xid nonsense\n"
    )
    found = of_gpus(table, kernel)
    assert [(one.kind, one.device, one.code, one.mark) for one in found] == [
        (SymptomKind.ECC, 2, 0, 4),
        (SymptomKind.XID, 0, 79, 100_500_000),
        (SymptomKind.XID, 1, 31, 123_456_789_012),
    ]
    assert of_gpus("", kernel) == ()


# --- whatever happens ---------------------------------------------------------------------------------------------------

_symptoms = st.lists(
    st.builds(
        Symptom,
        kind=st.sampled_from(list(SymptomKind)),
        device=st.sampled_from([-1, 0, 3, 9]),
        mark=st.integers(0, 4),
        code=st.sampled_from([0, 13, 79]),
    ),
    max_size=3,
).map(tuple)
_steps = st.lists(
    st.tuples(
        st.sampled_from(["look", "fail", "drain", "drain3", "resume", "resume3", "probe", "probe_bad", "boot"]),
        _symptoms,
        st.integers(1, 4000),
    ),
    max_size=25,
)


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(steps=_steps)
@example(
    steps=[("look", (Symptom(kind=SymptomKind.XID, device=0, code=79),), 1), ("look", (), 1), ("boot", (), 1), ("resume", (), 1)]
)
def test_whatever_happens_a_resume_opens_and_nothing_is_judged_twice(steps: list[tuple[str, Any, int]]) -> None:
    node, now = NODE, NOW
    for number, (what, symptoms, pause) in enumerate(steps):
        now += timedelta(seconds=pause)
        failures = [failed(number * 3 + one, begun=True) for one in range(3)] if what == "fail" else []
        before = node
        match what:
            case "look" | "fail":
                node = judged(replace(node, symptoms=symptoms), failures, RULES, now)
                assert judged(node, failures, RULES, now) is node, "the same facts say nothing more"
            case "drain" | "drain3":
                node = drained(node, by="ada", now=now, device=3 if what == "drain3" else -1)
                assert node.state is NodeState.DRAINING or 3 in node.out()
            case "resume" | "resume3":
                device = 3 if what == "resume3" else -1
                node = resumed(node, now=now, device=device)
                assert device not in {one.device for one in node.closures if one.state is not ClosureState.LIFTED}
                later = judged(node, [], RULES, now)  # a reboot since may have let another device back
                assert later.out() <= node.out(), "what was told is forgiven"
                assert what == "resume3" or (node.state, judged(node, [], RULES, now).state) == (NodeState.READY, NodeState.READY)
            case "probe" | "probe_bad":
                node = after_probe(probed(node, "r"), has_begun=what == "probe", rules=RULES, now=now)
            case _:
                node = replace(node, boot=f"b{number}")
        names = [(one.cause, one.device) for one in node.closures]
        assert len(set(names)) == len(names)
        is_shut = any(one.device == -1 and one.state is not ClosureState.LIFTED for one in node.closures)
        assert (node.state is not NodeState.READY) == is_shut
        assert (node.state is NodeState.DRAINING) == any(
            one.cause is ClosureCause.OPERATOR and one.device == -1 for one in node.closures
        )
        if before.closures == node.closures:
            assert not changes(before, node)
