"""Checkpoints reach the server while user code goes on: complete ones, only what changed, and what cannot be kept is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.runner import checkpoints
from mainspring.runner.blobs import pack_manifest
from mainspring.runner.folder import Folder

LIMIT_S = 60.0  # only to end what hangs
PRELUDE = """import os, time, pathlib
folder, spool = pathlib.Path(os.environ['MAINSPRING_CHECKPOINT']), pathlib.Path(os.environ['MAINSPRING_SPOOL'])
def until(name):
    while not os.path.exists(os.path.join({go!r}, name)): time.sleep(0.01)
def rename(name, text):
    (folder / (name + '.new')).write_text(text); (folder / (name + '.new')).rename(folder / name)
def mark(): (spool / 'checkpoint_complete').touch(); time.sleep(0.01)
"""


class Trainer:
    """A runner whose user code goes on when it is told to, and what the server has of its checkpoints."""

    def __init__(self, site: Any, server: Any, go: Path, until: Any) -> None:
        self.site, self.server, self.go, self._until = site, server, go, until
        go.mkdir(exist_ok=True)

    def start(self, code: str, work: dict[str, Any] | None = None, **more: Any) -> Any:
        """Start user code: `until(name)` waits for `let(name)`, `rename` and `mark` are the two ways to complete one."""
        self.site.python_code(PRELUDE.format(go=str(self.go)) + code, **more)
        self.server.work.update(work or {})
        return self.site.start()

    def let(self, name: str) -> None:
        (self.go / name).touch()

    @property
    def told(self) -> list[dict[str, Any]]:
        return [one for one in self.server.lines("events") if one["kind"].startswith("checkpoint")]

    def files(self, number: int = -1) -> dict[str, bytes]:
        """Return the files of a checkpoint that the server was told of."""
        manifest = json.loads(self.server.blobs[self.told[number]["manifest"]])
        return {one["path"]: self.server.blobs[one["digest"]] for one in manifest["files"]}

    def wait(self, count: int) -> None:
        self._until(lambda: len(self.told) >= count, f"{count} checkpoints")


@pytest.fixture
def trainer(site: Any, server: Any, tmp_path: Path, until: Any) -> Trainer:
    return Trainer(site, server, tmp_path / "go", until)


def test_what_is_renamed_in_is_taken_and_what_is_being_written_is_not(trainer: Trainer) -> None:
    runner = trainer.start("(folder / 'half.bin').write_text('ha'); rename('model.bin', 'one'); until('end')")
    trainer.wait(1)
    assert trainer.files() == {"model.bin": b"one"}
    assert trainer.told[0]["size_bytes"] == 3
    assert trainer.server.exit is None
    trainer.let("end")
    assert runner.wait(LIMIT_S) == 0


def test_a_folder_is_renamed_in_as_a_whole(trainer: Trainer) -> None:
    trainer.start(
        "new = folder / 'tmp'; (new / 'deep').mkdir(parents=True)\n"
        "(new / 'deep/a').write_text('a'); (new / 'b').write_text('b')\n"
        "new.rename(folder / 'epoch-1'); until('end')"
    )
    trainer.wait(1)
    assert trainer.files() == {"epoch-1/b": b"b", "epoch-1/deep/a": b"a"}
    trainer.let("end")


def test_a_mark_declares_everything_and_only_what_changed_is_sent(trainer: Trainer) -> None:
    trainer.start(
        "(folder / 'big').write_text('B' * 200_000); (folder / 'step').write_text('1'); mark(); until('again')\n"
        "(folder / 'step').write_text('2'); mark(); until('end')"
    )
    trainer.wait(1)
    assert trainer.files()["step"] == b"1"
    trainer.server.sent.clear()
    trainer.let("again")
    trainer.wait(2)
    assert trainer.files() == {"big": b"B" * 200_000, "step": b"2"}
    assert len(trainer.server.sent) == 2  # the step and the manifest
    trainer.let("end")


def test_what_is_marked_before_the_last_one_is_put_away_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.make()
    place, mark = Path(folder.checkpoint), Path(folder.in_spool(checkpoints.COMPLETE))
    (place / "big").write_text("B")
    (place / "step").write_text("1")

    def go_on() -> None:  # once the first is told: user code is quicker than the removal of what was linked aside
        if (place / "step").read_text() == "1":
            (place / "step").write_text("2")
            mark.touch()
            clock = tmp_path / "clock"
            clock.touch()
            while clock.stat().st_ctime_ns <= mark.stat().st_mtime_ns:  # the file system's clock ticks every 4 ms
                clock.touch()

    nothing: Any = SimpleNamespace(tell=go_on)
    monkeypatch.setattr(checkpoints.blobs, "send", lambda wire, wanted: None)
    monkeypatch.setattr(checkpoints.blobs, "send_bytes", lambda wire, digest, data: None)
    taker = checkpoints.Checkpoints(folder, nothing, nothing, limit_bytes=1 << 30, is_restored=False)
    mark.touch()
    taker.look()
    taker.look()
    told = [json.loads(line) for line in Path(folder.in_spool("events")).read_text().splitlines()]
    assert [one["kind"] for one in told] == ["checkpoint", "checkpoint"], told


def test_what_is_written_after_the_mark_makes_it_void(trainer: Trainer) -> None:
    runner = trainer.start(
        "(folder / 'a').write_text('1'); old = folder.parent / 'old'; old.touch(); os.utime(old, (1, 1))\n"
        "old.rename(spool / 'checkpoint_complete'); until('end')"
    )
    trainer.wait(1)
    assert [one["kind"] for one in trainer.told] == ["checkpoint_failed"]
    assert trainer.told[0]["code"] == "changed"
    trainer.let("end")
    assert runner.wait(LIMIT_S) == 0
    assert b"[mainspring] A checkpoint was not kept (checkpoint_changed): a was written while" in trainer.server.log


def test_a_renamed_file_that_is_written_on_is_left_out(trainer: Trainer) -> None:
    trainer.start(
        "rename('a', '1'); until('again')\nwith open(folder / 'a', 'a') as file: file.write('2'); file.flush()\n"
        "rename('b', '1'); until('end')"
    )
    trainer.wait(1)
    trainer.let("again")
    trainer.wait(2)
    assert trainer.files() == {"b": b"1"}
    trainer.let("end")


def test_one_that_is_too_large_is_said_and_the_run_goes_on(trainer: Trainer) -> None:
    code = "rename('a', 'x' * 100); rename('a', 'y' * 100); until('end'); print('went on')"
    runner = trainer.start(code, work={"limits": {"checkpoint_bytes": 10}})
    trainer.wait(1)
    trainer.let("end")
    assert runner.wait(LIMIT_S) == 0
    assert trainer.server.log.count(b"(checkpoint_too_large)") == 1
    assert trainer.server.log.endswith(b"went on\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_one_that_cannot_be_read_is_said(trainer: Trainer) -> None:
    trainer.start("(folder / 'a').touch(0); mark(); until('end')")
    trainer.wait(1)
    assert trainer.told[0]["code"] == "unreadable"
    trainer.let("end")


def test_a_server_that_is_away_gets_it_later(trainer: Trainer, until: Any) -> None:
    runner = trainer.start("until('begin'); rename('a', '1'); until('end'); raise SystemExit(3)")
    until(lambda: "running" in trainer.server.states, "the start")
    trainer.server.status = 503
    trainer.let("begin")
    trainer.let("end")
    until(lambda: (trainer.site.root / "ended.json").exists(), "the end of user code")
    assert trainer.told == []
    trainer.server.status = 200
    assert runner.wait(LIMIT_S) == 0
    assert trainer.files() == {"a": b"1"}
    assert trainer.server.exit["exit_code"] == 3


def test_what_is_saved_on_a_stop_counts(trainer: Trainer, until: Any) -> None:
    runner = trainer.start(
        "import signal, sys\n"
        "def save(*_): (folder / 'a').write_text('last'); mark(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save); until('never')",
    )
    until(lambda: "running" in trainer.server.states, "the start")
    trainer.server.commands = [{"no": 1, "kind": "stop", "cause": "preempted", "deadline_s": 10}]
    assert runner.wait(LIMIT_S) == 0
    assert trainer.files() == {"a": b"last"}
    assert trainer.server.exit["cause"] == "preempted"


def test_a_mark_survives_the_death_of_the_runner(trainer: Trainer, until: Any) -> None:
    runner = trainer.start("until('begin'); (folder / 'a').write_text('1'); mark(); until('never')")
    until(lambda: "running" in trainer.server.states, "the start")
    runner.kill()
    runner.wait()
    trainer.let("begin")
    until(lambda: list((trainer.site.root / "spool").glob("checkpoint_complete")), "the mark")
    assert trainer.site.run() == 0
    assert trainer.server.exit["cause"] == "node_lost"
    assert "a" in trainer.files()


def test_another_node_goes_on_from_the_newest(trainer: Trainer, site: Any) -> None:
    code = (
        "print(os.environ.get('MAINSPRING_RESUME'), sorted((p.name, p.read_text()) for p in folder.iterdir()))\n"
        "if 'MAINSPRING_RESUME' in os.environ: raise SystemExit(0)\n"
        "rename('a', '7'); until('kept'); (folder / 'b').write_text('half'); os._exit(3)"
    )
    runner = trainer.start(code)
    trainer.wait(1)
    trainer.let("kept")
    assert runner.wait(LIMIT_S) == 0
    checkpoint = trainer.told[0]["manifest"]
    for cache in ("cache", "elsewhere"):
        site.next(cache)
        site.server.work["checkpoint"] = checkpoint
        assert site.run() == 0
        assert site.server.log == b"1 [('a', '7')]\n"
        site.root.rename(site.root.parent / f"done-{cache}")
        site.root = site.root.parent / f"done-{cache}"


def test_what_was_restored_counts_with_what_is_added(trainer: Trainer, site: Any) -> None:
    entries = [{"path": "deep/a", "digest": site.server.put(b"1"), "size": 1, "mode": 0o644}]
    restored = site.server.put(pack_manifest(entries))
    trainer.start("rename('b', '2'); until('end')", work={"checkpoint": restored, "number": 2})
    trainer.wait(1)
    assert trainer.files() == {"deep/a": b"1", "b": b"2"}
    trainer.let("end")


def test_the_shim_writes_in_place_only_while_nothing_is_read(trainer: Trainer) -> None:
    runner = trainer.start(
        "import mainspring as ms\nassert ms.checkpoint_dir == str(folder) and not ms.is_resumed()\n"
        "try:\n    with ms.writing_checkpoint() as here: (here / 'a').write_text('half'); 1 / 0\nexcept ZeroDivisionError: pass\n"
        "with ms.writing_checkpoint() as here:\n"
        "    (here / 'a').write_text('on'); rename('b', 'x'); time.sleep(0.5); (here / 'a').write_text('one')\n"
        "until('end')",
        environment={"interpreter": ""},
    )
    trainer.wait(1)
    assert trainer.files(0) == {"a": b"one", "b": b"x"}
    trainer.let("end")
    assert runner.wait(LIMIT_S) == 0


def test_one_is_asked_for_by_the_server(trainer: Trainer, until: Any) -> None:
    runner = trainer.start(
        "import mainspring as ms\nprint(ms.should_checkpoint())\nwhile not ms.should_checkpoint(): time.sleep(0.01)\n"
        "(folder / 'a').write_text('1'); ms.checkpoint(); print(ms.should_checkpoint())"
    )
    until(lambda: trainer.server.log == b"False\n", "the start")
    trainer.server.commands = [{"no": 1, "kind": "checkpoint"}]
    assert runner.wait(LIMIT_S) == 0
    assert trainer.server.log == b"False\nFalse\n"


def test_a_mark_that_was_set_while_the_writer_held_the_lock_is_taken(trainer: Trainer) -> None:
    trainer.start(
        "import fcntl; (spool / 'usage').touch()  # nothing else appears there that would wake the runner\n"
        "lock = open(spool / 'checkpoint.lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "(folder / 'a').write_text('1'); mark(); time.sleep(0.4); lock.close(); until('end')"
    )
    trainer.wait(1)
    assert trainer.files() == {"a": b"1"}
    trainer.let("end")


def test_who_always_writes_again_before_a_quarter_second_is_over_is_taken_too(trainer: Trainer) -> None:
    """The word is said while the lock is held: who looked only then, and at the next word, saw the lock held for ever."""
    runner = trainer.start(
        "import fcntl\nlock = open(spool / 'checkpoint.lock', 'w')\n"
        "for step in range(60):\n"
        "    fcntl.flock(lock, fcntl.LOCK_EX); (folder / 'a').write_text(str(step))\n"
        "    (spool / 'draft').touch(); (spool / 'draft').rename(spool / 'checkpoint_complete'); time.sleep(0.03)\n"
        "    fcntl.flock(lock, fcntl.LOCK_UN); time.sleep(0.08)"
    )
    trainer.wait(3)
    assert {one["kind"] for one in trainer.told} == {"checkpoint"}, trainer.told
    assert runner.wait(30) == 0
