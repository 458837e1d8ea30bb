"""The fork server of this machine's runners, seen from the server: begun when it is needed, begun anew when it has died."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

UNKNOWN = -1000  # no exit status: the fork server died first
ANSWER_S = 10.0
_MAX_ANSWER = 65536


@dataclass(slots=True)
class Child:
    """A runner that was forked: `status` is its exit status once it has ended."""

    pid: int
    status: int | None = None


@dataclass(slots=True)
class Forks:
    """Asks for runners and hears of their ends. `command`, `folder` and `env` are the fork server's own. Thread safe."""

    command: list[str]
    folder: Path
    env: dict[str, str]
    _process: subprocess.Popen[bytes] | None = None
    _door: socket.socket | None = None
    _living: dict[int, Child] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, place: Path, env: Mapping[str, str], groups: Sequence[Path]) -> Child:
        """Fork the runner of the folder `place` into control groups, with an environment of its own. Raises OSError."""
        asked = {"place": str(place), "env": dict(env), "groups": [str(group) for group in groups]}
        request = json.dumps(asked).encode()
        with self._lock:
            try:
                return self._ask(request)
            except ConnectionError:  # it was killed; a runner that it forked for us meanwhile holds the folder's lock
                return self._ask(request)

    def has_ended(self, child: Child) -> bool:
        """Say whether `child` has ended; then its `status` is known."""
        if child.status is None and self._door is not None:
            with self._lock:
                self._hear(is_patient=False)
        return child.status is not None

    def _ask(self, request: bytes) -> Child:
        door = self._door or self._start()
        try:
            door.send(request)
        except OSError as wrong:
            self._bury()
            raise ConnectionError("The fork server has ended.") from wrong
        answer = self._hear(is_patient=True)
        if "pid" not in answer:
            raise OSError(str(answer.get("error") or "The fork server gave no runner."))
        child = self._living[int(answer["pid"])] = Child(int(answer["pid"]))
        return child

    def _hear(self, *, is_patient: bool) -> dict[str, int | str]:
        """Take what was told of ends; wait for the answer to a request if that is wanted. Raises ConnectionError."""
        while self._door is not None:
            self._door.settimeout(ANSWER_S if is_patient else 0.0)
            try:
                data = self._door.recv(_MAX_ANSWER)
            except BlockingIOError:
                return {}
            except OSError:  # it hangs, or is gone
                data = b""
            if not data:
                self._bury()
                break
            told: dict[str, int | str] = json.loads(data)
            if "ended" not in told:
                return told
            ended = self._living.pop(int(told["ended"]), None)
            if ended is not None:
                ended.status = int(told["status"])
        if is_patient:
            raise ConnectionError("The fork server has ended.")
        return {}

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, (self.folder / "fork-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=theirs.fileno(), stdout=log, stderr=log, cwd=self.folder, env=self.env, start_new_session=True
            )
        ours.settimeout(ANSWER_S)
        self._door = ours
        return ours

    def _bury(self) -> None:
        """End what is left of the fork server; its runners live on, and of theirs nobody tells the status."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for child in self._living.values():
            child.status = UNKNOWN
        self._living.clear()
