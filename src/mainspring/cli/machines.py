"""Rented machines on the command line."""

from __future__ import annotations

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json
from mainspring.cli.output import done, emit_json, table


def machine_ls(*, as_json: Json = False) -> None:
    """List rented machines, the newest first, with what they cost.

    Example: `mainspring machine ls`.
    """
    found = connect().machines.all()
    if as_json:
        emit_json(found)
        return
    rows = [
        (
            one.machine.id,
            one.machine.site,
            str(one.machine.state),
            one.machine.share,
            one.machine.run,
            f"{one.machine.asked_at.astimezone():%Y-%m-%d %H:%M}",
            f"{float(one.cost_usd):.2f} of {float(one.reserved_usd):.2f}",
            one.machine.message,
        )
        for one in found
    ]
    table(("id", "site", "state", "paid by", "for run", "asked at", "USD", ""), rows, empty="No machine was rented.")


def machine_give_back(machine: str, /, *, as_json: Json = False) -> None:
    """Let a rented machine end before its time (administrators).

    Example: `mainspring machine give-back MACHINE`.
    """
    gone = connect().machines.give_back(machine)
    done(gone, f"{gone.id} at {gone.site} is given back.", as_json=as_json)
