"""The thin path on PostgreSQL: the same server, another database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]


def test_runs_and_a_sweep_on_postgres(fresh: Site, postgres: Any, tmp_path: Any) -> None:
    database = postgres.new_database()
    flags = ("--cpus", "8", "--database-url", postgres.url(database))
    try:
        fresh.start(*flags)
        ref = fresh.python("print('on postgres')", name="thin")
        assert fresh.wait(ref)["state"] == "succeeded"
        assert fresh.log(ref) == b"on postgres\n"
        assert fresh.cli("show", "thin").code == 0
        long = fresh.python("import time; print('up', flush=True); time.sleep(600)", grace_s=0)
        fresh.running(long, b"up")
        assert fresh.cli("cancel", long).code == 0
        assert fresh.wait(long)["state"] == "cancelled"
        (tmp_path / "tune.py").write_text(
            "import mainspring as ms\n\n@ms.task\ndef tune(x=0.0):\n    ms.log_metric('score', -(x - 2) ** 2)\n    return x\n"
        )
        done = fresh.cli("sweep", "tune.py:tune", "-n", "4", "--maximize", "score", "x=uniform:0:4", cwd=tmp_path)
        assert done.code == 0, done
        runs = fresh.call("GET", "/runs?limit=100").json()["items"]
        assert (
            len([run for run in runs if (run["spec"].get("link") or {}).get("kind") == "sweep" and run["state"] == "succeeded"])
            == 4
        )
        assert fresh.stop() == 0
        fresh.start(*flags)
        assert fresh.run(ref)["state"] == "succeeded"
        assert not (fresh.home / "mainspring.db").exists()
        assert "Traceback" not in fresh.server_log()
    finally:
        fresh.close()
        postgres.drop_database(database)
