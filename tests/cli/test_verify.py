"""A run is computed again, and what it returned is compared by content."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import os, pathlib
out = pathlib.Path(os.environ['MAINSPRING_OUT'])
(out / 'steady.txt').write_text('always')
(out / 'run.txt').write_text(os.environ['MAINSPRING_RUN'] if {varies} else 'fixed')
"""


@pytest.mark.parametrize("varies", [False, True])
def test_results_that_vary_are_found(cli, server, tmp_path, varies):
    script = tmp_path / "work" / "made.py"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(varies=varies))
    name = f"made-{varies}"
    assert cli("run", str(script), "--name", name, home=server).returncode == 0
    run = json.loads(cli("ps", "--json", "--text", name, home=server).stdout)[0]["id"]
    done = cli("verify", run, "--json", home=server)
    assert done.returncode == int(varies), done
    told = json.loads(done.stdout)
    assert told["same"] == {"run.txt": not varies, "steady.txt": True}
    assert told["again"] != run


def test_a_run_that_failed_has_nothing_to_compare(cli, server, tmp_path):
    script = tmp_path / "work" / "fails.py"
    script.parent.mkdir()
    script.write_text("raise SystemExit(3)")
    cli("run", str(script), "--name", "fails", home=server)
    done = cli("verify", "fails", home=server)
    assert done.returncode != 0
    assert "no results to compare" in done.stderr
