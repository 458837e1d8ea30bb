"""Why a run waits: a closed list of codes, each with one sentence for the user. Each has a page in the documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ReasonCode(StrEnum):
    """Primary reasons. A waiting run has exactly one, and it is true when re-checked."""

    NOT_PLANNED_YET = "not_planned_yet"  # submitted after the last plan
    PAUSED = "paused"  # its owner holds it
    BACKING_OFF = "backing_off"  # a failed launch is retried at `not_before`
    NO_CLUSTER = "no_cluster"  # no ready node is registered at all
    CANNOT_FIT = "cannot_fit"  # no node could hold it even if it were empty
    FOREIGN_WORK = "foreign_work"  # work that came past this queue holds, on shared nodes, what it needs
    NO_FREE_GPU = "no_free_gpu"
    NO_FREE_CPU = "no_free_cpu"
    NO_FREE_MEMORY = "no_free_memory"
    NO_FREE_DISK = "no_free_disk"
    FRAGMENTED = "fragmented"  # enough in total, no single node has it
    GANG_INCOMPLETE = "gang_incomplete"  # some replicas would fit, not all
    BEHIND = "behind"  # a run ahead takes the place first
    SHARE_HELD = "share_held"  # an admin holds its share, or one above it
    SHARE_LIMIT = "share_limit"  # its share, or one above it, may not hold so much more
    OVER_GUARANTEE = "over_guarantee"  # not preemptible, and beyond what its share can count on
    FAIR_SHARE = "fair_share"  # its share has its fair part of what is scarce; others are owed more
    RESERVED = "reserved"  # what is free is kept for a run ahead
    ADVANCE_RESERVATION = "advance_reservation"  # what is free is kept for a window of another share
    NOMINATED = "nominated"  # its places are being cleared by runs that stop for it
    BURSTING = "bursting"  # a machine was asked for it at a paid site
    BUDGET = "budget"  # a rented machine would be worth it, but for a budget
    TOPOLOGY = "topology"  # enough is free, but not on nodes that share the label asked for
    WAITING_FOR_ENGINE = "waiting_for_engine"  # it was placed, and its engine's own scheduler has not begun it yet
    NODE_UNREACHABLE = "node_unreachable"  # protocol P4
    QUARANTINED = "quarantined"  # nodes or devices that could hold it were taken out
    CLEANING_UP = "cleaning_up"  # the former attempt's end is not confirmed yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One primary reason: `code` for programs, `sentence` for people, `facts` to check it (JSON values)."""

    code: ReasonCode
    sentence: str
    facts: Mapping[str, object] = field(default_factory=dict)


NOT_PLANNED_YET = Reason(
    code=ReasonCode.NOT_PLANNED_YET, sentence="It came into the queue after the last plan; the next one is due now."
)
PAUSED = Reason(
    code=ReasonCode.PAUSED, sentence="Paused by its owner; `mainspring resume` lets it go on.", facts={"is_held": True}
)
