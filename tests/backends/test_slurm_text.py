"""What is read in what Slurm's commands print, and concluded from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mainspring.backends.slurm.backend import _observation
from mainspring.backends.slurm.reasons import outcome_of, waiting
from mainspring.backends.slurm.text import Job, gpu_models, has_features, held_by, last_word, parse_jobs, state_of
from mainspring.core.backend import Handle, ObservedState
from mainspring.core.ids import AttemptId
from mainspring.core.records import Cause, NodeState


class TestText:
    @pytest.mark.parametrize(
        ("state", "reason", "words"),
        [
            ("RUNNING", "", ""),
            ("COMPLETING", "", ""),
            ("PENDING", "QOSMaxJobsPerUserLimit", "allows no more"),
            ("PENDING", "AssocGrpGRES", "the account's part is used up"),
            ("PENDING", "PartitionTimeLimit", "longer than the partition allows"),
            ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", "down, drained or reserved"),
            ("PENDING", "SomethingNew", "Slurm says SomethingNew"),
            ("SUSPENDED", "", "suspended"),
            ("REQUEUE_HOLD", "JobHeldAdmin", "back into the queue"),
        ],
    )
    def test_reasons_of_slurm_are_told_with_what_they_mean(self, state: str, reason: str, words: str) -> None:
        told = waiting(state, reason)
        assert (words in told, bool(told)) == (True, bool(words))

    def test_the_last_word_for_a_job_is_a_cause(self) -> None:
        causes = {"OUT_OF_MEMORY": Cause.OUT_OF_MEMORY, "TIMEOUT": Cause.TIMEOUT, "PREEMPTED": Cause.PREEMPTED}
        assert {state: getattr(outcome_of(state), "cause", None) for state in causes} == causes
        assert outcome_of("FAILED") is outcome_of("COMPLETED") is None

    @pytest.mark.parametrize(
        ("constraint", "is_so"),
        [("", True), ("a", True), ("c", False), ("a&b", True), ("a&c", False), ("c|b", True), ("[c*2]", True), ("c*2", True)],
    )
    def test_constraints_that_can_be_judged_are(self, constraint: str, is_so: bool) -> None:
        assert has_features({"ActiveFeatures": "a,b"}, constraint) is is_so

    def test_the_first_answer_that_tells_a_state_counts(self) -> None:
        assert last_word("", "CANCELLED by 0\n") == "CANCELLED"
        assert last_word("\n", "OUT_OF_MEMORY\n") == "OUT_OF_MEMORY"
        assert last_word("", "") == ""

    def test_jobs_are_read_whatever_their_name(self) -> None:
        line = "17|PENDING||n2|4|2G|gres:gpu:h100:2|1767323045|gpus=0.3|Resources|a|b|c"
        (job,) = parse_jobs(f"garbage\n{line}\n")
        assert (job.name, job.gpus, job.memory_bytes, held_by(job)) == ("a|b|c", 2, 2 << 30, [0, 3])
        assert (job.lives(), job.runs(), job.reason) == (True, False, "Resources")
        assert job.starts_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("word", "models"),
        [
            ("gpu:h100:4(S:0-1)", [("h100", 4)]),
            ("gpu:2", [("gpu", 2)]),
            ("gpu:a100:2(IDX:0,2),gpu:l4:1,mps:100", [("a100", 2), ("l4", 1)]),
            ("gres/gpu=2", [("gpu", 2)]),
            ("(null)", []),
            ("", []),
        ],
    )
    def test_gres_lists(self, word: str, models: list[tuple[str, int]]) -> None:
        assert gpu_models(word) == models

    @pytest.mark.parametrize(
        ("word", "state"),
        [
            ("IDLE", NodeState.READY),
            ("MIXED", NodeState.READY),
            ("ALLOCATED+DRAIN", NodeState.DRAINING),
            ("IDLE*", NodeState.UNREACHABLE),
            ("DOWN*+NOT_RESPONDING", NodeState.UNREACHABLE),
        ],
    )
    def test_states_of_nodes(self, word: str, state: NodeState) -> None:
        assert state_of(word) is state

    def test_a_job_lost_with_its_node_may_run_on(self) -> None:
        handle = Handle(attempt=AttemptId("a"), replica=0, data={"node": "n1"})
        lost = Job(id="1", name="x", state="NODE_FAIL", node="n1")
        moved = replace(lost, node="n2")  # an element of an array: Slurm chose its node
        assert _observation(handle, moved, {"n1": NodeState.READY, "n2": NodeState.UNREACHABLE}).state is ObservedState.UNKNOWN
        for job, node, expected in (
            (lost, NodeState.UNREACHABLE, ObservedState.UNKNOWN),
            (lost, NodeState.READY, ObservedState.GONE),
            (None, NodeState.UNREACHABLE, ObservedState.UNKNOWN),
            (None, NodeState.READY, ObservedState.GONE),
        ):
            assert _observation(handle, job, {"n1": node}).state is expected
