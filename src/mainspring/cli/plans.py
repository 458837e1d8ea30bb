"""Plans on the command line: shown, saved for a bug report, made again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from mainspring import scheduler
from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json
from mainspring.cli.output import done, emit_json, say, short, table
from mainspring.core.codec import decode, encode
from mainspring.core.errors import ConflictError, SpecError, UsageError
from mainspring.core.moments import parse_moment
from mainspring.core.replays import PlanRecord
from mainspring.core.units import counted


def show(*, at: str = "", now: Annotated[bool, Flag] = False, save: Path | None = None, as_json: Json = False) -> None:
    """Show what was decided last, or at a time, or what would be decided now (administrators).

    Recorded are plans that start, stop, rent or give back something; one by which all only wait is made again with `--now`.

    Examples: `mainspring plan show`, `mainspring plan show --at "2h ago"`, `mainspring plan show --now --save plan.json`.

    Parameters
    ----------
    at
        The last recorded plan at this time, such as `14:05`, `2h ago` or 2026-03-01T09:00; local where no time zone is said.
    now
        The plan that would be made now, as number 0: why each run waits at this moment. Nothing is carried out.
    save
        Write the plan with its snapshot to this file: `mainspring plan replay FILE` makes it again anywhere.
    """
    if now and at:
        raise UsageError("A plan is made now, or was recorded at a time.", hint="Say one of --at and --now.")
    has_snapshot = save is not None
    found = connect().plans.fresh(has_snapshot=has_snapshot) if now else _recorded(at, has_snapshot=has_snapshot)
    if save is not None:
        _write(save, encode(found))
        saved = {"number": found.number, "saved": str(save)}
        done(saved, f"Plan {found.number} and its snapshot are in {save}.", as_json=as_json)
        return
    if as_json:
        emit_json(found)
        return
    say(f"Plan {found.number} of {found.at.astimezone():%Y-%m-%d %H:%M:%S}, fingerprint {found.plan.fingerprint[:16]}")
    rows = [
        (
            one.kind,
            short(one.run),
            one.rule,
            ", ".join(sorted({place.node for place in one.places})),
            f"for {short(one.beneficiary)}" if one.beneficiary else one.reason.sentence if one.reason else "",
        )
        for one in found.plan.decisions
    ]
    table(("decision", "run", "rule", "nodes", "reason"), rows, empty="It decided nothing.")


def replay(file: Path | None = None, /, *, at: str = "", as_json: Json = False) -> None:
    """Make a recorded plan again from its snapshot, and compare: equal to the byte, or an error.

    Examples: `mainspring plan replay plan.json`, `mainspring plan replay --at 14:05`.

    Parameters
    ----------
    file
        What `mainspring plan show --save FILE` wrote; without it the server's record.
    at
        The server's last plan at this time.
    """
    found = _read(file) if file is not None else _recorded(at, has_snapshot=True)
    if found.snapshot is None:
        raise SpecError("The record has no snapshot.", hint="mainspring plan show --save FILE")
    again = scheduler.plan(found.snapshot)
    is_same_world = again.fingerprint == found.plan.fingerprint
    is_same = encode(again) == encode(found.plan)
    if as_json:
        emit_json({"number": found.number, "same_snapshot": is_same_world, "same_plan": is_same, "plan": again})
    if not is_same_world:
        raise ConflictError("The snapshot is not the one that the plan was made from.", hint="The file was changed.")
    if not is_same:
        before, after = ({encode(one) for one in plan.decisions} for plan in (found.plan, again))
        raise ConflictError(
            f"The plan is another one: {counted(len(before ^ after), 'decision')} in one of them only.",
            hint="It was made by another version?",
        )
    if not as_json:
        say(f"Plan {found.number} is made again, byte for byte: {counted(len(again.decisions), 'decision')}.")


def _recorded(at: str, *, has_snapshot: bool) -> PlanRecord:
    moment = parse_moment(at, datetime.now(UTC), "--at") if at else None
    return connect().plans.recorded(moment, has_snapshot=has_snapshot)


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as wrong:
        raise UsageError(f"{file} cannot be written: {wrong.strerror}.", hint="Name another file behind --save.") from wrong


def _read(file: Path) -> PlanRecord:
    try:
        return decode(file.read_bytes(), PlanRecord)
    except OSError as wrong:
        raise UsageError(f"{file} cannot be read: {wrong}.", hint="mainspring plan show --save FILE") from wrong
    except SpecError as wrong:
        raise SpecError(f"{file} is no recorded plan, or is damaged: {wrong.message}", hint=wrong.hint) from wrong
