"""The link to the server: one thread that beats, one that holds a poll for commands."""

from __future__ import annotations

import binascii
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from .folder import Folder, read_json
from .spool import LINE_STREAMS, MAX_BEAT_BYTES, Stream
from .wire import AwayError, RefusedError, Wire, jitter, pause_after

BEAT_BYTES = 256 * 1024
FOLLOWED_S = 0.1
FLOWING_S = 1.0
LOOK_S = 0.25
HOLD_S = 20
GONE_PAUSE_S = 30.0
POLL_GAP_S = 0.2
LISTEN_AFTER_S = 0.5  # the first beats bring commands too: most short runs need no listener at all
SPOOL_LIMIT_BYTES = 1 << 30


def pause_of_gone(refused: RefusedError) -> float:
    """Return in how many seconds to ask again a server that does not know the attempt: when it says, else `GONE_PAUSE_S`."""
    return refused.pause_s or GONE_PAUSE_S


class Link:
    """What is told and what is heard. `on_command(kind, cause, deadline_s)` is called once for each number.

    `on_wanted()` is called whenever an answer says that somebody wants in: a state, as long as it lasts, and no command.
    """

    def __init__(
        self,
        folder: Folder,
        launch: dict[str, Any],
        token: str,
        on_command: Callable[[str, str, float], None],
        on_wanted: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._url = str(launch["server_url"])
        self._token = token
        self._attempt = str(launch["attempt"])
        self._replica = int(launch.get("replica", 0))
        self._on_command = on_command
        self._on_wanted = on_wanted
        self._limit = int(launch.get("spool_limit_bytes", SPOOL_LIMIT_BYTES))
        self._streams = [Stream(folder, name) for name in (*LINE_STREAMS, "log")]
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._done_no = 0
        self._beat_no = 0
        self._beat_in_s = 10.0
        self._is_followed = False
        self._is_synced = False  # the first answer tells where to resume
        self._was_full = False
        self._state = "starting"
        self._address = ""
        self._exit: dict[str, Any] | None = None
        self._is_over = False  # all streams are complete
        self._outputs: dict[str, Any] = {}
        self._away_s = 0.0  # that the server did not answer, all in all
        self._away_since: float | None = None
        self._away_before_s = 0.0  # user code ended
        self.heard_at = boot_time()
        self.is_gone = threading.Event()  # 410: nobody knows this attempt
        self.is_acknowledged = threading.Event()
        self.wants_outputs = threading.Event()  # the end was refused because blobs are missing

    def start(self) -> None:
        """Begin to beat and to listen."""
        threading.Thread(target=self._beat_for_ever, daemon=True, name="beat").start()
        threading.Thread(target=self._listen_for_ever, daemon=True, name="commands").start()

    def tell(self, state: str = "", address: str = "") -> None:
        """Report a change at once."""
        self._state = state or self._state
        self._address = address or self._address
        self._wake.set()

    def code_ended(self) -> None:
        """Count from now on for how long the server is away: so late it hears of the end."""
        self._away_before_s = self._away()

    def finish(self, outcome: dict[str, Any] | None, outputs: dict[str, Any]) -> None:
        """Report the end, once every byte of every stream is acknowledged; without an outcome, that is all."""
        for stream in self._streams:
            stream.seal()
        self._outputs = outputs
        self._exit = outcome
        self._is_over = True
        self._wake.set()

    def _beat_for_ever(self) -> None:
        wire = Wire(self._url, self._token, self._folder.at("launch.json"))
        failures = 0
        while not self.is_acknowledged.is_set():
            try:
                pause_s = self._beat(wire, is_late=failures > 0)
                failures = 0
                self._away_s, self._away_since = self._away(), None
            except AwayError as away:
                self._away_since = self._away_since or boot_time()
                failures += 1
                pause_s = pause_after(failures, away.pause_s)
            except RefusedError as refused:
                failures += 1
                pause_s = self._refused(refused, failures)
            except Exception as wrong:  # the loop's top: whatever is wrong with one beat must not end all later ones
                failures += 1
                pause_s = pause_after(failures)
                self._folder.event("beat_failed", message=repr(wrong)[:300])
            self._thin()
            self._wait(pause_s, is_urgent=failures == 0)

    def _refused(self, refused: RefusedError, failures: int) -> float:
        if refused.status == 410:
            was_gone = self.is_gone.is_set()
            self.is_gone.set()
            self._is_synced = False
            # the first time it is told at once what the server signed, in case it is to be adopted
            return pause_of_gone(refused) if was_gone else 0.5
        if refused.status == 409 and self._exit is not None:
            self.wants_outputs.set()
        self._is_synced = False  # ask again where to resume
        return pause_after(failures + 4)

    def _beat(self, wire: Wire, is_late: bool) -> float:
        """Send one beat; return how long to wait for the next."""
        chunks, is_more = self._chunks(MAX_BEAT_BYTES // 2 if is_late or self._was_full else BEAT_BYTES)
        self._beat_no += 1
        beat: dict[str, Any] = {
            "protocol": 1,
            "replica": self._replica,
            "no": self._beat_no,
            "state": self._state,
            "chunks": chunks,
            "address": self._address,
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
        if self.is_gone.is_set():
            beat["claim"] = (read_json(self._folder.at("claim.json")) or {}).get("claim", "")
        is_last = self._is_over and self._is_synced and not chunks and not is_more
        if is_last and self._exit is not None:
            beat.update(state="ended", exit=self._exit, outputs=self._outputs)
            late_s = self._away() - self._away_before_s
            if late_s > 0:
                beat["late_s"] = late_s
        sent_at = boot_time()
        answer = wire.ask("POST", f"/attempts/{self._attempt}/beat", beat)
        self.heard_at = sent_at  # the server counts from when it wrote the beat, and from nothing else
        self.is_gone.clear()
        was_synced = self._is_synced
        self._take(answer)
        if not was_synced:  # now it is known what is left to send: nothing, unless an earlier runner left a spool
            is_more = any(stream.size() > stream.acked for stream in self._streams)
        if is_last and (self._exit is None or answer.get("is_acknowledged")):
            self.is_acknowledged.set()
            return 0.0
        if self._is_over or is_more:
            self._was_full = is_more
            return jitter(0.01, 0.05) if is_late else 0.0  # paced, so that many runners may come back
        self._was_full = False
        if self._is_followed:
            return FOLLOWED_S
        return FLOWING_S if chunks else self._beat_in_s * jitter(0.8, 1.0)  # jitter

    def _away(self) -> float:
        return self._away_s + (0.0 if self._away_since is None else boot_time() - self._away_since)

    def _chunks(self, budget: int) -> tuple[list[dict[str, Any]], bool]:
        """Return what to send, small streams first, and whether there is more."""
        if not self._is_synced:
            return [], True
        chunks: list[dict[str, Any]] = []
        is_more = False
        for stream in self._streams:
            data = stream.read(stream.acked, budget) if budget > 0 else b""
            if data:
                budget -= len(data)
                chunks.append(
                    {"stream": stream.name, "offset": stream.acked, "data": binascii.b2a_base64(data, newline=False).decode()}
                )
            waiting = stream.size() > stream.acked + len(data)
            is_more = is_more or (waiting and (not stream.is_lines or budget <= 0 or self._is_over))
        return chunks, is_more

    def _take(self, answer: dict[str, Any]) -> None:
        ends = answer.get("ack") or {}
        for stream in self._streams:
            stream.acknowledge(int(ends.get(stream.name, 0)))
        self._is_synced = True
        self._beat_in_s = float(answer.get("beat_in_s", 10.0))
        self._is_followed = bool(answer.get("is_followed"))
        self._apply(answer.get("commands") or [])
        if answer.get("is_tunnel_wanted"):
            self._on_wanted()

    def _apply(self, commands: list[dict[str, Any]]) -> None:
        for command in sorted(commands, key=lambda one: int(one["no"])):
            with self._lock:
                if int(command["no"]) <= self._done_no:
                    continue
                self._done_no = int(command["no"])
            self._on_command(str(command["kind"]), str(command.get("cause", "")), float(command.get("deadline_s", 10.0)))

    def _thin(self) -> None:
        lost = self._streams[-1].thin(self._limit) if self._is_synced else 0
        if lost:
            self._folder.event("log_thinned", bytes=lost)

    def _wait(self, pause_s: float, is_urgent: bool) -> None:
        """Wait; while all is well, only until something is to be told (output: at most one beat a second)."""
        since = time.monotonic()
        until = since + pause_s
        while not self.is_acknowledged.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            is_woken = self._wake.wait(min(left, LOOK_S if is_urgent else left))
            if is_woken:
                self._wake.clear()
                if is_urgent:
                    return
            if not is_urgent:
                continue
            passed = time.monotonic() - since
            if self._is_followed and passed >= FOLLOWED_S:
                return
            if passed >= FLOWING_S and any(one.size() > one.acked for one in self._streams if one.name != "usage"):
                return

    def _listen_for_ever(self) -> None:
        self.is_acknowledged.wait(LISTEN_AFTER_S)
        wire = Wire(self._url, self._token, self._folder.at("launch.json"))
        failures = 0
        path = f"/attempts/{self._attempt}/commands?replica={self._replica}&hold_s={HOLD_S}&after="
        while not self.is_acknowledged.is_set():
            begun = time.monotonic()
            try:
                answer = wire.ask("GET", path + str(self._done_no), timeout_s=HOLD_S + 15.0)
                failures = 0
                self._apply(answer.get("commands") or [])
                if answer.get("is_tunnel_wanted"):
                    self._on_wanted()
                is_followed = bool(answer.get("is_followed"))
                if is_followed and not self._is_followed:
                    self._is_followed = True
                    self._wake.set()
                pause_s = max(0.0, POLL_GAP_S - (time.monotonic() - begun))  # an early answer must not become a busy loop
            except AwayError as away:
                failures += 1
                pause_s = pause_after(failures, away.pause_s)
            except RefusedError as refused:
                failures += 1
                pause_s = pause_of_gone(refused) if refused.status == 410 else pause_after(failures + 4)
            except Exception as wrong:  # the loop's top: a malformed answer must not end the way by which a stop comes
                failures += 1
                pause_s = pause_after(failures)
                self._folder.event("poll_failed", message=repr(wrong)[:300])
            self.is_acknowledged.wait(pause_s)


def boot_time() -> float:
    """Return seconds since start by a clock that counts suspend and is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
