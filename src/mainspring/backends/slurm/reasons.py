"""Why Slurm lets a job wait, in its own word and a plain sentence; and what its last word for a job means. Pure."""

from __future__ import annotations

from mainspring.core.records import Cause, Outcome

# By the beginning of Slurm's word: the first that fits.
_MEANS = (
    ("Resources", "what it asks for is not free"),
    ("Priority", "jobs with a higher priority come first"),
    ("BeginTime", "it is not to begin before a certain time"),
    ("Dependency", "it depends on another job"),
    ("JobHeldAdmin", "an administrator of Slurm holds it"),
    ("JobHeldUser", "it is held: scontrol release JOB"),
    ("JobArrayTaskLimit", "the array's own limit of elements at once is reached"),
    ("QOSMax", "the quality of service allows no more: --qos, or wait"),
    ("QOSGrp", "the group's part of the quality of service is used up: --qos, or wait"),
    ("QOSMin", "it asks for less than the quality of service wants"),
    ("QOS", "the quality of service does not allow it: --qos"),
    ("AssocGrp", "the account's part is used up: --account, or wait"),
    ("AssocMax", "the account allows no more: --account, or wait"),
    ("Assoc", "the account's limit is reached: --account, or wait"),
    ("MaxCpuPerAccount", "the account allows no more CPUs"),
    ("InvalidAccount", "Slurm does not know the account: --account"),
    ("InvalidQOS", "Slurm does not know the quality of service: --qos"),
    ("PartitionTimeLimit", "it asks for longer than the partition allows: --time, or --timeout of the run"),
    ("PartitionNodeLimit", "it asks for more nodes than the partition allows: --partition"),
    ("PartitionConfig", "the partition's rules do not allow it: --partition"),
    ("PartitionDown", "the partition takes no jobs now"),
    ("PartitionInactive", "the partition takes no jobs now"),
    ("BadConstraints", "no node has what it asks for: --constraint"),
    ("ReqNodeNotAvail", "the node that was chosen is down, drained or reserved"),
    ("NodeDown", "the node that was chosen is down"),
    ("Reservation", "it waits for its reservation"),
    ("Licenses", "it waits for a licence"),
    ("launch failed requeued held", "it could not be begun, and Slurm holds it"),
    ("FrontEndDown", "Slurm's front end is down"),
    ("Cleaning", "Slurm cleans up after the job before"),
    ("Prolog", "Slurm's prolog runs"),
)
_PAUSED = ("SUSPENDED", "STOPPED")
_CAUSES = {
    "OUT_OF_MEMORY": (Cause.OUT_OF_MEMORY, "It used more memory than it was given."),
    "TIMEOUT": (Cause.TIMEOUT, "It reached the time limit that its job had in Slurm."),
    "DEADLINE": (Cause.TIMEOUT, "It reached the deadline that its job had in Slurm."),
    "PREEMPTED": (Cause.PREEMPTED, "Slurm took its node for a job that comes first."),
    "NODE_FAIL": (Cause.NODE_LOST, "Its node failed."),
    "BOOT_FAIL": (Cause.LAUNCH_FAILED, "Its node could not be booted."),
    "REVOKED": (Cause.NODE_LOST, "Another cluster of the federation took its job."),
}


def waiting(state: str, reason: str) -> str:
    """Return why a living job does not run: Slurm's word and what it means; empty when it runs."""
    if state in _PAUSED:
        return "Slurm has suspended its job"
    if state in ("REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"):
        return f"Slurm has put its job back into the queue ({reason or state})"
    if state not in ("PENDING", "RESV_DEL_HOLD", "CONFIGURING"):
        return ""
    meant = next((told for word, told in _MEANS if reason.startswith(word)), "")
    word = reason or state
    return f"Slurm says {word}: {meant}" if meant else f"Slurm says {word}"


def outcome_of(state: str) -> Outcome | None:
    """Return how an attempt ended whose runner could not tell, by Slurm's last word for its job; None: that tells nothing."""
    known = _CAUSES.get(state.partition(" ")[0])
    return (
        Outcome(cause=known[0], exit_code=137 if known[0] is Cause.OUT_OF_MEMORY else None, message=known[1]) if known else None
    )
