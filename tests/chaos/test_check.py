"""The check of the chaos tests sees what it is there for: a lease, a device or a CPU that is still held when all is over."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Installation

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]
FOREVER = "UPDATE attempts SET lease_owner = 'here:{pid}:ab', lease_until_s = 1 WHERE number = 1"  # ran out, was never given up
STRANGER = "UPDATE attempts SET lease_owner = 'here:0:ab', lease_until_s = 1e12 WHERE number = 1"
LEAD = "INSERT INTO leases (name, owner, until_s, fence) VALUES ('leader', 'here:0:ab', 1e12, 1)"
DEVICE = 'UPDATE nodes SET used_devices = \'[{{"index": 3, "milli": 500}}]\', version = version + 1'
CPU = "UPDATE nodes SET used_cpu_milli = 1000, version = version + 1"


@pytest.mark.parametrize(
    ("planted", "said"),
    [(FOREVER, "lease"), (STRANGER, "lease"), (LEAD, "lease"), (DEVICE, "a device is held"), (CPU, "an allocation leaked")],
    ids=["of-the-living", "of-the-dead", "the-lead", "device", "cpu"],
)
def test_what_is_held_when_all_is_over_is_seen(
    installation: Installation, poll, monkeypatch: pytest.MonkeyPatch, planted: str, said: str
) -> None:
    installation.start()
    for number in range(4):
        assert installation.submit(number)
    poll(lambda: all(run["state"] == "succeeded" for run in installation.runs()), 90, "the end of four runs")
    installation.check(4)
    assert installation.process is not None
    with contextlib.closing(sqlite3.connect(installation.home / "mainspring.db", timeout=30)) as rows, rows:
        assert rows.execute(planted.format(pid=installation.process.pid)).rowcount
    monkeypatch.setitem(type(installation).check.__globals__, "LEASE_S", -4.0)  # nobody gives it up: no need to wait
    with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
        installation.check(4)
