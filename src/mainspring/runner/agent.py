"""One attempt from claim to acknowledged end. Each step leaves the folder so that another runner can go on after a crash.

claim → first beat, work → code, inputs → `started` → user code → `ended.json` → outputs → `exit.json` → last beat → cleared
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import outputs, process, setup
from .beats import Link, boot_time, pause_of_gone
from .blobs import send
from .cache import DamagedError, NoRoomError
from .checkpoints import LIMIT_BYTES, Checkpoints
from .folder import Folder, append, claim, identity, reach, read_json, write_durably, write_whole
from .housekeeping import PATIENCE_S, House, python_behind
from .inside import Inside
from .watch import Stop, Watch
from .wire import AwayError, RefusedError, Wire, pause_after

if TYPE_CHECKING:  # most runs have no lock, some no code, and need none of it
    from .environments import Held
    from .trees import Tree

HELD = 75
MAX_REFUSALS = 5
DONE = ("succeeded", "cancelled")  # ends after which no attempt goes on
GONE = 410  # nobody knows the attempt: what it made is kept until somebody does


def main(root: str) -> int:
    """Run, or recover, the attempt in this folder."""
    folder = Folder(root)
    launch = read_json(folder.at("launch.json"))
    if launch is None:
        sys.stderr.write(f"{root} has no launch.json.\n")
        return 66
    held = claim(folder)
    if held is None:
        return HELD
    reach("after-S2")
    with open(folder.at("token")) as file:
        token = file.read().strip()
    keep_checkpoint(folder, launch)
    folder.make()
    write_whole(folder.at("runner.json"), identity(os.getpid()))
    process.adopt_orphans()
    return Agent(folder, launch, token).run()


def keep_checkpoint(folder: Folder, launch: dict[str, Any]) -> None:
    """Put the checkpoint folder where the run's next attempt on this node finds it: beside the cache, by run and replica."""
    name = f"{launch.get('run', '')}.{int(launch.get('replica', 0))}"
    cache = str(launch.get("cache_dir") or "")
    if cache and "/" not in name and not name.startswith("."):
        folder.checkpoint = os.path.join(cache, "checkpoints", name)


class Agent:
    """The attempt that this process is for."""

    def __init__(self, folder: Folder, launch: dict[str, Any], token: str) -> None:
        self._folder = folder
        self._launch = launch
        self._cgroup = str(launch.get("cgroup") or "")
        self._stop = Stop(folder)
        self._inside = Inside(folder, launch, token)
        self._link = Link(folder, launch, token, self._obey, self._inside.want)
        self._token = token
        self._wire = Wire(str(launch["server_url"]), token, folder.at("launch.json"))
        self._checkpoints: Checkpoints | None = None
        self._held: Held | None = None
        self._tree: Tree | None = None

    def run(self) -> int:
        """Do the attempt, or report the end of one that was begun before; return the exit status."""
        grace_s = float(self._launch.get("grace_s", 10.0))
        term_cause = str(self._launch.get("term_cause") or "cancelled")
        signal.signal(signal.SIGTERM, partial(self._on_signal, term_cause, grace_s))
        for name, cause in dict(self._launch.get("signals") or {}).items():  # by which its engine tells why it has to end
            signal.signal(signal.Signals[name], partial(self._on_signal, str(cause), grace_s))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        folder = self._folder
        done = read_json(folder.exit)
        if done is not None and done.get("is_final"):
            return 0
        if done is None and os.path.exists(folder.started):
            process.end_leftovers(folder, self._cgroup)
        self._link.start()
        if done is None:
            ended = read_json(folder.ended)
            if ended is None and os.path.exists(folder.started) and self._launch.get("engine_tells_end"):
                return self._drain()
            if ended is None:
                ended = self._lost() if os.path.exists(folder.started) else self._do()
                write_durably(folder.ended, ended)
            done = self._settle(ended)
        return self._report(done)

    def _on_signal(self, cause: str, grace_s: float, *_: Any) -> None:
        self._stop.ask(cause, grace_s)

    def _do(self) -> dict[str, Any]:
        """Get the work and carry it out; return {outcome, is_task}."""
        try:
            path = f"/attempts/{self._launch['attempt']}/work?replica={int(self._launch.get('replica', 0))}"
            work: dict[str, Any] = {}
            is_known = self._patiently(lambda: work.update(self._wire.ask("GET", path)))
        except RefusedError as refused:
            cause = "superseded" if refused.status == 409 else "launch_failed"
            return {"outcome": _outcome(cause, None, f"The server gave no work: {refused}")}
        if not is_known:
            return {"outcome": self._stopped(None)}
        write_whole(self._folder.at("claim.json"), {"claim": work.get("claim", "")})
        is_task = work["spec"].get("kind") == "task"
        return {"outcome": self._carry_out(work), "is_task": is_task}

    def _carry_out(self, work: dict[str, Any]) -> dict[str, Any]:
        folder = self._folder
        cache = str(self._launch.get("cache_dir") or folder.at("cache"))
        try:
            if not self._patiently(lambda: setup.lay_out(folder, self._wire, cache, work)):
                return self._stopped(None)
            self._tree = work.get("tree")
            cwd = setup.working_folder(folder, work)
            if not self._furnish(work, cache, cwd):
                return self._stopped(None)
            if not self._meet(work):
                return self._stopped(None)
            env = setup.environment(folder, self._launch, work, cwd)
            if self._held is not None:
                work["spec"]["environment"]["interpreter"] = self._held.enter(env)
            command = setup.command_line(folder, work, env, cwd)
        except setup.CannotStartError as wrong:
            folder.say(str(wrong))
            return _outcome("user_error", wrong.code, str(wrong))
        except (DamagedError, NoRoomError, setup.NotReadyError, RefusedError, OSError) as wrong:
            folder.say(f"The attempt cannot be set up: {wrong}")
            return _outcome("launch_failed", None, f"The attempt cannot be set up: {wrong}")
        limit_s = float(work["spec"].get("disconnect_limit_s") or 0.0)
        if limit_s and boot_time() - self._link.heard_at >= limit_s:
            self._stop.ask("node_lost", 0.0)  # the server may count on it by now that nothing runs here
        if self._stop.cause:
            return self._stopped(None)
        self._checkpoints = self._take_checkpoints(work)
        before = process.killed_for_memory(self._cgroup) if self._cgroup else None
        try:
            pid = process.begin(folder, command, cwd, env)
        except BrokenPipeError:
            sentence = "Its process was killed before user code began."
            folder.say(sentence)
            return _outcome("launch_failed", None, sentence)
        except OSError as wrong:
            sentence = f"{command[0]} cannot be started: {wrong.strerror or wrong}."
            folder.say(sentence)
            return _outcome("user_error", 126, sentence)
        self._inside.begin(env, cwd)
        house = self._keep_house(work, cache, command, env)
        visible = env.get("CUDA_VISIBLE_DEVICES")
        env.clear()
        code = self._attend(pid, work, house, visible)
        after = process.killed_for_memory(self._cgroup) if self._cgroup else None
        if code != 0 and after is not None and after > (before or 0) and not self._stop.cause:
            folder.say("The run was ended because it used more memory than it was given.")
            return _outcome("out_of_memory", 137, "It used more memory than it was given.")
        return self._stopped(code) if self._stop.cause else _ended(code)

    def _furnish(self, work: dict[str, Any], cache: str, cwd: str) -> bool:
        """Make the environment of the run's lock ready, if it has one, and hold it; return whether that came before a stop."""
        folder = self._folder
        if not (work["spec"].get("environment") or {}).get("lock"):
            setup.tell_of_lock(folder, work["spec"], cwd)
            return True
        from . import environments

        if not self._patiently(lambda: setup.lay_out_lock(folder, self._wire, cache, work)):
            return False

        def wheels() -> str | None:
            found: list[str] = []
            is_done = self._patiently(lambda: found.append(setup.lay_out_wheels(folder, self._wire, cache, work)))
            return found[-1] if is_done else None

        env = setup.environment(folder, self._launch, work, cwd)
        self._held = environments.furnish(folder, work["spec"], cache, env, wheels, lambda: bool(self._stop.cause))
        return self._held is not None

    def _meet(self, work: dict[str, Any]) -> bool:
        """Wait until every member of the gang has told where it is; return whether that came before a stop."""
        if int(work.get("world_size", 1)) < 2 or work["spec"].get("kind") == "serving":
            return True
        from . import peers

        mine = int(self._launch.get("replica", 0))
        self._link.tell(address=peers.my_address(self._launch))
        path = f"/attempts/{self._launch['attempt']}/peers?replica={mine}"
        told: dict[str, Any] = {}
        while self._patiently(lambda: told.update(self._wire.ask("GET", path))):
            found = {int(index): str(address) for index, address in told["addresses"].items() if address}
            if len(found) >= int(work["world_size"]):
                order = sorted(found)
                devices = str((self._launch.get("env") or {}).get("CUDA_VISIBLE_DEVICES") or "")
                work["gang"] = peers.variables(order.index(mine), [found[index] for index in order], devices)
                return True
            time.sleep(0.1)
        return False

    def _keep_house(self, work: dict[str, Any], cache: str, command: list[str], env: dict[str, str]) -> House:
        wire = Wire(str(self._launch["server_url"]), self._token, self._folder.at("launch.json"))
        python = python_behind(command, work["spec"], env, self._folder.work)
        house = House(self._folder, wire, cache, work, python)
        house.start()
        return house

    def _attend(self, pid: int, work: dict[str, Any], house: House, visible: str | None) -> int:
        """Wait for user code; end what it leaves behind."""
        self._stop.guard(pid)
        self._link.tell("running")
        if self._checkpoints is not None:
            self._checkpoints.start()
        watch = Watch(self._folder, self._link, self._stop, work["spec"], pid, visible)
        watch.start()
        code = process.wait_for(pid, self._inside.reaped)
        self._link.code_ended()
        watch.is_over.set()
        house.is_told.wait(PATIENCE_S)
        self._stop.guard(0)
        self._inside.end()
        while process.has_children():
            process.kill_all()
            time.sleep(0.005)  # killed children become zombies a moment later
        return code

    def _lost(self) -> dict[str, Any]:
        message = "The runner died; what user code still did was ended."
        self._folder.say(message)
        return {"outcome": _outcome("node_lost", None, message)}

    def _drain(self) -> int:
        """Send what is left of an attempt whose end the engine tells: it knows why the runner died, and this one does not."""
        self._keep_last("node_lost")
        self._link.finish(None, {})
        self._link.is_acknowledged.wait()
        return 0

    def _settle(self, ended: dict[str, Any]) -> dict[str, Any]:
        """Send the outputs (S5), then write the exit record (S6)."""
        outcome = ended["outcome"]
        self._keep_last(str(outcome["cause"]))
        values: dict[str, Any] = {}
        if outcome["cause"] != "node_lost":
            try:
                values, files = outputs.gather(self._folder, bool(ended.get("is_task")))
                if files:
                    self._patiently(lambda: send(self._wire, files), is_stoppable=False)
            except (RefusedError, OSError, ValueError, KeyError) as wrong:
                values = {}
                sentence = f"The outputs could not be kept: {wrong}"
                self._folder.say(sentence)
                if outcome["cause"] == "succeeded":
                    outcome = _outcome("user_error", outcome["exit_code"], sentence)
        done = {"outcome": outcome, "outputs": values, "is_final": False}
        reach("before-S6")
        write_durably(self._folder.exit, done)
        self._tell_engine(done)
        reach("after-S6")
        return done

    def _tell_engine(self, done: dict[str, Any]) -> None:
        """Leave the outcome where the engine shows it, if it has such a place: the folder may be out of reach afterwards."""
        path = str(self._launch.get("exit_copy") or "")
        if path:
            append(path, json.dumps({"outcome": done["outcome"]}).encode())

    def _take_checkpoints(self, work: dict[str, Any]) -> Checkpoints | None:
        wire = Wire(str(self._launch["server_url"]), self._token, self._folder.at("launch.json"))
        limit = int((work.get("limits") or {}).get("checkpoint_bytes", LIMIT_BYTES))
        try:
            return Checkpoints(self._folder, wire, self._link, limit_bytes=limit, is_restored=bool(work.get("checkpoint")))
        except OSError as wrong:
            self._folder.say(f"Checkpoints are not kept on the server: {wrong}")
            return None

    def _keep_last(self, cause: str) -> None:
        """Take what user code completed before it ended, unless nobody will go on from it."""
        is_useful = cause not in DONE
        taking = self._checkpoints
        if taking is None and is_useful:  # another runner attended user code, and died
            taking = self._take_checkpoints({})
        if taking is None:
            return
        taking.finish(is_useful=is_useful)
        try:
            if is_useful:
                self._patiently(taking.look, is_stoppable=False)
        except OSError as wrong:
            self._folder.say(f"The last checkpoint was not kept: {wrong}")

    def _report(self, done: dict[str, Any]) -> int:
        """Tell the end until it is acknowledged, then clear the large folders (S7)."""
        self._inside.close()
        if self._tree is not None:
            self._tree.lift()
        self._link.finish(done["outcome"], done.get("outputs") or {})
        while not self._link.is_acknowledged.wait(0.5):
            if self._link.is_gone.is_set() and not os.path.exists(self._folder.started):
                return 1  # nobody knows the attempt, and there is nothing to keep for when somebody does
            if self._link.wants_outputs.is_set():
                self._link.wants_outputs.clear()
                self._send_again()
        write_durably(self._folder.exit, {**done, "is_final": True})
        reach("before-S7")
        import shutil  # nothing waits for this any more

        useless = [self._folder.work, self._folder.inputs, self._folder.at("cache")]
        if done["outcome"]["cause"] == "succeeded":
            useless.append(self._folder.checkpoint)
        for path in useless:
            shutil.rmtree(path, ignore_errors=True)
        if self._tree is not None:
            self._tree.give()
        return 0

    def _send_again(self) -> None:
        """Send outputs that the server no longer has (it was restored, or swept them before the end was told)."""
        try:
            _, files = outputs.gather(self._folder, os.path.exists(self._folder.at("task.json")))
            send(self._wire, files)
        except (AwayError, RefusedError, OSError, ValueError, KeyError) as wrong:
            self._folder.event("outputs_failed", message=str(wrong)[:300])

    def _obey(self, kind: str, cause: str, deadline_s: float) -> None:
        if kind == "stop":
            self._stop.ask(cause or "cancelled", deadline_s)
            self._link.tell("stopping")
        elif kind == "checkpoint":
            with open(self._folder.in_spool("checkpoint_requested"), "w"):
                pass

    def _patiently(self, act: Callable[[], None], is_stoppable: bool = True) -> bool:
        """Try until the server is there; return whether it was done before a stop came. Raises RefusedError."""
        failures = 0
        while not (is_stoppable and self._stop.cause):
            try:
                act()
                return True
            except AwayError as away:
                failures += 1
                pause_s = pause_after(failures, away.pause_s)
            except RefusedError as refused:
                failures += 1
                if is_stoppable or (failures >= MAX_REFUSALS and refused.status != GONE):
                    raise
                pause_s = pause_of_gone(refused) if refused.status == GONE else pause_after(failures)
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not (is_stoppable and self._stop.cause):
                time.sleep(0.05)
        return False

    def _stopped(self, code: int | None) -> dict[str, Any]:
        told = {
            "timeout": "It ran longer than its limit.",
            "node_lost": "The server was away for longer than the limit of this run.",
        }
        return _outcome(self._stop.cause, code, told.get(self._stop.cause, "It was stopped."))


def _ended(code: int) -> dict[str, Any]:
    if code == 0:
        return _outcome("succeeded", 0, "")
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return _outcome("user_error", code, f"It was ended by {name}.")
    return _outcome("user_error", code, f"It ended with exit code {code}.")


def _outcome(cause: str, code: int | None, message: str) -> dict[str, Any]:
    return {"cause": cause, "exit_code": code, "message": message[:2000]}
