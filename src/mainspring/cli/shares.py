"""Shares on the command line: the tree with bars, its settings, the bill, advance reservations."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.text import Text

from mainspring.cli.connecting import connect
from mainspring.cli.options import Flag, Json
from mainspring.cli.output import done, emit_json, note, say, table
from mainspring.client.client import Client
from mainspring.core.errors import UsageError
from mainspring.core.moments import parse_moment
from mainspring.core.shares import Amounts, parse_amounts, parse_budget, show_amounts
from mainspring.core.standings import Standing

WIDTH = 20


def share(
    name: str = "",
    /,
    *,
    weight: float | None = None,
    guarantee: str | None = None,
    limit: str | None = None,
    budget: str | None = None,
    parent: str | None = None,
    hold: Annotated[bool, Flag] = False,
    release: Annotated[bool, Flag] = False,
    rm: Annotated[bool, Flag] = False,
    as_json: Json = False,
) -> None:
    """Show who holds what and who is owed what, or configure a share (administrators).

    Examples: `mainspring share`, `mainspring share team-a --guarantee 8gpu --weight 2 --limit 16gpu --parent research`,
    `mainspring share team-a/alice --limit 4gpu`, `mainspring share team-a --budget 500usd/month`.

    Parameters
    ----------
    name
        The share's path, or its last part.
    weight
        Its part of what nobody has guaranteed, among siblings that ask; default 1.
    guarantee
        What it can count on, such as `8gpu`, `4gpu:A100, 64cpu, 256GiB`; empty for nothing.
    limit
        What it may hold at most; empty for no limit.
    budget
        What its paid machines may cost in a calendar month, such as 500usd/month; empty for no bound of its own.
    parent
        Put it, with all below it, under another share; empty for the top.
    hold
        Start none of its waiting runs until it is released.
    release
        Let a held share go on.
    rm
        Forget what was configured.
    """
    client = connect()
    changes = (weight, guarantee, limit, budget, parent)
    is_change = hold or release or rm or any(one is not None for one in changes)
    if hold and release:
        raise UsageError("A share is held or released, not both.", hint="Say one of --hold and --release.")
    if is_change and not name:
        raise UsageError("Which share?", hint="mainspring share NAME --weight 2")
    if rm:
        client.shares.remove(name)
        done({"removed": name}, f"{name} is as if nobody had configured it.", as_json=as_json)
        return
    if not is_change:
        _show_tree(client, name, as_json)
        return
    made, notices = client.shares.change(
        name,
        weight=weight,
        guarantee=None if guarantee is None else parse_amounts(guarantee),
        limit=None if limit is None else parse_amounts(limit),
        budget_usd=None if budget is None else parse_budget(budget),
        is_held=True if hold else False if release else None,
        parent=parent,
    )
    if as_json:
        emit_json({"share": made, "notices": notices})
        return
    parts = [f"weight {made.weight:g}"]
    parts += [f"guarantee {show_amounts(made.guarantee)}"] if made.guarantee else []
    parts += [f"limit {show_amounts(made.limit)}"] if made.limit else []
    parts += [f"budget {made.budget_usd} usd/month"] if made.budget_usd else []
    parts += ["held"] if made.is_held else []
    say(f"{made.name}: {', '.join(parts)}.")
    for one in notices:
        note(f"notice: {one}")


def usage(
    *,
    by: Literal["share", "user", "project"] = "share",
    month: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    as_csv: Annotated[bool, Parameter(name="--csv", negative=())] = False,
    as_json: Json = False,
) -> None:
    """Tell what was used in a month: GPU hours, CPU hours, memory, and what paid machines cost.

    Examples: `mainspring usage --by share --month`, `mainspring usage --by user --month 2026-01 --csv`.

    Parameters
    ----------
    by
        share, user or project. A share counts what is below it too.
    month
        Such as 2026-01; default, and without a value, this month (UTC).
    as_csv
        Print CSV, for the bill.
    """
    if len(month) > 1:
        raise UsageError(f"--month has {len(month)} values.", hint="One month, such as --month 2026-01.")
    rows = connect().shares.usage(by=by, month=month[0] if month else "")
    if as_json:
        emit_json(rows)
        return
    names = (by, "gpu_hours", "cpu_hours", "memory_gib_hours", "cost_usd")
    lines = [(row.key, row.gpu_hours, row.cpu_hours, row.memory_gib_hours, row.cost_usd) for row in rows]
    if as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([names, *lines])
        return
    shown = [(key or "all", f"{gpu:.2f}", f"{cpu:.2f}", f"{memory:.2f}", cost) for key, gpu, cpu, memory, cost in lines]
    table((by, "GPU hours", "CPU hours", "GiB hours", "USD"), shown, empty="Nothing was used.")


def reservation_ls(*, as_json: Json = False) -> None:
    """List advance reservations.

    Example: `mainspring reservation ls`.
    """
    found = connect().shares.reservations()
    if as_json:
        emit_json(found)
        return
    rows = [
        (one.id, one.share, _moment(one.begins_at), _moment(one.ends_at), f"{one.replicas} x {one.resources.show()}")
        for one in found
    ]
    table(("id", "share", "from", "to", "what"), rows, empty="No reservations.")


def reservation_add(share: str, what: str, /, *, begin: str, end: str, as_json: Json = False) -> None:
    """Keep resources for a share in a window (administrators).

    Examples: `mainspring reservation add team-a 4gpu:A100 --begin 2026-03-01T09:00 --end 2026-03-01T18:00`,
    `mainspring reservation add team-a 4gpu --begin "tomorrow 9:00" --end "tomorrow 18:00"`.

    Parameters
    ----------
    what
        Whole GPUs, such as 4gpu or 4gpu:A100, or CPUs and memory of one machine, such as `16cpu, 64GiB`.
    begin
        When it begins, such as `14:05`, `tomorrow 9:00`, `in 30m`; local time where no time zone is said.
    end
        When it ends.
    """
    now = datetime.now(UTC)
    begins_at, ends_at = parse_moment(begin, now, "--begin"), parse_moment(end, now, "--end")
    made, notices = connect().shares.reserve(share, begins_at, ends_at, what)
    if as_json:
        emit_json({"reservation": made, "notices": notices})
        return
    say(f"{made.id}: {what} for {made.share} from {_moment(made.begins_at)} to {_moment(made.ends_at)}.")
    for one in notices:
        note(f"notice: {one}")


def reservation_rm(reservation: str, /, *, as_json: Json = False) -> None:
    """Give an advance reservation up (administrators).

    Example: `mainspring reservation rm RESERVATION`.
    """
    connect().shares.release(reservation)
    done({"given_up": reservation}, f"{reservation} is given up.", as_json=as_json)


def _show_tree(client: Client, name: str, as_json: bool) -> None:
    found = client.shares.standings(name)
    if as_json:
        emit_json(found)
        return
    if not found:
        note(f"Nobody holds, waits for or configured anything in {name!r}.")
        return
    unit = "gpu" if any(one.total.get("gpu") for one in found) else "cpu"
    rows = [_row(one, unit) for one in found]
    table(("share", unit.upper() + "s held", "", "fair", "guarantee", "limit", "asks for", "weight now"), rows)


def _row(one: Standing, unit: str) -> tuple[Text | str, ...]:
    held, fair, total = one.held.get(unit, 0), one.fair.get(unit, 0), one.total.get(unit, 0)
    label = "  " * one.depth + (one.name.rpartition("/")[2] or "all")
    if one.is_held:
        label += " (held)"
    owed = fair - held
    bar = Text("█" * _cells(held, total), style="blue")
    bar.append("░" * max(0, _cells(fair, total) - _cells(held, total)), style="yellow")
    return (
        label,
        f"{held / 1000:g}",
        bar,
        f"{fair / 1000:.3g}" + (f" (owed {owed / 1000:.3g})" if owed > 0 and one.depth else ""),
        _amounts(one.guarantee),
        show_amounts(one.limit),  # a limit of nothing is one
        _amounts(one.asked),
        f"{one.weight:.3g}" if one.depth else "",
    )


def _cells(amount: int, total: int) -> int:
    return min(WIDTH, round(WIDTH * amount / total)) if total else 0


def _amounts(amounts: Amounts) -> str:
    return show_amounts({name: amount for name, amount in amounts.items() if amount})


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
