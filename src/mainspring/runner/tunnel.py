"""The tunnel: streams into the attempt (a shell on a terminal, a command on pipes, a port), over one websocket dialled out.

A message is kind (1 byte), stream (4 bytes), payload; `core/tunnels.py` has the same table. Each side may have `WINDOW` bytes of
a stream on the way; CREDIT tells how many more may come. One thread does everything; closed after `IDLE_S` without a stream.
"""

from __future__ import annotations

import json
import os
import selectors
import struct
import threading
import time
from typing import Any

from . import peers
from .inside import Inside
from .members import BYTES, Member, Port, RefusedError, Shell
from .websocket import BrokenError, Carrier, offer
from .wire import AwayError, Wire
from .wire import RefusedError as NotWantedError

OPEN, OPENED, DATA, EXTRA, EOF, CREDIT, RESIZE, EXIT, CLOSE = range(1, 10)
WINDOW = 256 * 1024
PIECE = 64 * 1024 - 16
MAX_OUT = 256 * 1024  # beyond it nothing more is read: the server takes no faster
MAX_STREAMS = 256
IDLE_S = 60.0
SILENT_S = 75.0  # the server pings every 20 s
LINGER_S = 0.25
_HEAD = struct.Struct("!BI")


def serve(inside: Inside) -> None:
    """Dial, and carry streams until nobody needs them, the server goes away or the attempt is over."""
    launch = inside.launch
    headers, accept = offer()
    wire = Wire(str(launch["server_url"]), inside.token, inside.folder.at("launch.json"))
    try:
        path = f"/attempts/{launch['attempt']}/tunnel?replica={int(launch.get('replica', 0))}"
        connected, told, begun = wire.upgrade(path, headers)
    except (AwayError, NotWantedError):
        return  # it is wanted again as long as somebody waits
    if told.get("sec-websocket-accept") != accept:
        connected.close()
        return
    Tunnel(inside, Carrier(connected, begun)).run()


class Tunnel:
    """One connection and its streams. For one thread; only `ring` and the ends of children come from others."""

    def __init__(self, inside: Inside, carrier: Carrier) -> None:
        self._inside = inside
        self._carrier = carrier
        self._members: dict[int, Member] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._bell, self._rope = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._idle_since = self._heard_at = time.monotonic()
        self._watched: dict[int, int] = {}

    def run(self) -> None:
        """Carry until it is over."""
        self._inside.listen(self.ring)
        try:
            self._watch(self._bell, selectors.EVENT_READ, None)
            self._listen()  # the first words may have come with the answer
            while self._turn():
                pass
        except BrokenError:
            pass  # whoever was inside is told by the server, and may come again
        finally:
            self._inside.listen(None)
            for member in list(self._members.values()):
                self._forget(member)
            self._carrier.close()
            self._selector.close()
            with self._lock:  # who rings now finds either both or none
                os.close(self._bell)
                os.close(self._rope)
                self._rope = -1  # its number may be another file's by now

    def ring(self) -> None:
        """Wake the thread: something has happened that no descriptor tells. From any thread."""
        with self._lock:
            if self._rope >= 0:
                try:
                    os.write(self._rope, b"!")
                except BlockingIOError:
                    pass  # it rings already

    def _turn(self) -> bool:
        carrier = self._carrier
        sending = selectors.EVENT_WRITE if carrier.waiting else 0
        self._watch(carrier.fileno(), selectors.EVENT_READ | sending, carrier)
        for member in list(self._members.values()):
            self._watch_member(member)
        ready = self._selector.select(self._pause_s())
        now = time.monotonic()
        for key, events in ready:
            if key.data is carrier:
                if events & selectors.EVENT_READ:
                    self._heard_at = now
                    self._listen()
            elif key.data is None:
                os.read(self._bell, 4096)
        for member in list(self._members.values()):
            self._serve(member, now)
        if self._inside.is_over.is_set():
            self._dismiss()
            return False
        carrier.flush()
        if self._members:
            self._idle_since = now
        if now - self._heard_at > SILENT_S:
            raise BrokenError("the server is silent")
        return bool(self._members) or now - self._idle_since < IDLE_S

    def _pause_s(self) -> float:
        if any(member.is_lingering for member in self._members.values()):
            return LINGER_S / 4
        return IDLE_S / 4

    def _watch_member(self, member: Member) -> None:
        """Wait for what the member could do now."""
        may_read = member.credit > 0 and self._carrier.waiting < MAX_OUT
        wanted: dict[int, int] = {}
        for descriptor in member.reads:
            if may_read:
                wanted[descriptor] = selectors.EVENT_READ
        if member.write >= 0 and (member.waiting or member.is_connecting):
            wanted[member.write] = wanted.get(member.write, 0) | selectors.EVENT_WRITE
        for descriptor in {*member.reads, member.write} - {-1}:
            self._watch(descriptor, wanted.get(descriptor, 0), member)

    def _watch(self, descriptor: int, events: int, data: Any) -> None:
        before = self._watched.get(descriptor, 0)
        if events == before:
            return
        if not events:
            self._selector.unregister(descriptor)
            del self._watched[descriptor]
        else:
            (self._selector.modify if before else self._selector.register)(descriptor, events, data)
            self._watched[descriptor] = events

    def _listen(self) -> None:
        for message in self._carrier.receive():
            self._hear(message)

    def _hear(self, message: bytes) -> None:
        if len(message) < _HEAD.size:
            raise BrokenError("a message without a head")
        kind, number = _HEAD.unpack_from(message)
        payload = message[_HEAD.size :]
        member = self._members.get(number)
        if kind == OPEN:
            self._open(number, payload)
        elif member is None:
            return  # it has been closed meanwhile
        elif kind == DATA:
            member.waiting += payload
            if len(member.waiting) > WINDOW:
                raise BrokenError("more bytes than were asked for")
        elif kind == EOF:
            member.is_ending = True
        elif kind == CREDIT and len(payload) == 4:
            member.credit += int.from_bytes(payload, "big")
        elif kind == RESIZE and len(payload) == 4:
            member.resize(*struct.unpack("!HH", payload))
        elif kind == CLOSE:
            self._forget(member)

    def _open(self, number: int, payload: bytes) -> None:
        try:
            member = self._member(number, json.loads(payload))
        except RefusedError as refused:
            self._say_closed(number, str(refused), refused.reason)
            return
        except (ValueError, KeyError, TypeError) as wrong:
            raise BrokenError(f"an opening that cannot be read: {wrong!r}") from wrong
        except OSError as wrong:
            self._say_closed(number, f"It cannot be begun: {wrong.strerror or wrong}.", "failed")
            return
        member.credit = WINDOW
        member.unwatch = self._unwatch
        self._members[number] = member
        if not member.is_connecting:
            self._send(OPENED, number)

    def _member(self, number: int, asked: dict[str, Any]) -> Member:
        if number in self._members or len(self._members) >= MAX_STREAMS:
            raise RefusedError(f"{len(self._members)} streams are open.", "busy")
        if asked["what"] != "tcp":
            return Shell(number, self._inside, asked, self.ring)
        hosts = [asked["host"]] if asked.get("host") else ["127.0.0.1", "::1", peers.host_of(self._inside.launch)]
        return Port(number, [str(one) for one in hosts], int(asked["port"]))

    def _serve(self, member: Member, now: float) -> None:
        """Do what can be done for a member without waiting."""
        try:
            if member.is_connecting:
                if not member.has_connected():
                    return
                self._send(OPENED, member.number)
            taken = member.push()
            if taken:
                self._send(CREDIT, member.number, taken.to_bytes(4, "big"))
            is_drained = False
            while member.credit > 0 and self._carrier.waiting < MAX_OUT:
                got = member.pull(min(PIECE, member.credit))
                if got is None:
                    is_drained = True
                    break
                stream, data = got
                if data:
                    member.credit -= len(data)
                    self._send(DATA if stream == BYTES else EXTRA, member.number, data)
                elif member.is_port:
                    self._send(EOF, member.number)
        except RefusedError as refused:
            self._say_closed(member.number, str(refused), refused.reason)
            self._forget(member)
            return
        if member.code is not None and (not member.reads or (is_drained and now - member.ended_at >= LINGER_S)):
            self._send(EXIT, member.number, struct.pack("!i", member.code))
            self._forget(member)
        elif member.is_port and not member.reads and member.write < 0:
            self._say_closed(member.number, "", "")
            self._forget(member)

    def _dismiss(self) -> None:
        """Tell everybody that the attempt is over, within a second."""
        for member in list(self._members.values()):
            self._say_closed(member.number, "The run's code has ended.", "ended")
        until = time.monotonic() + 1.0
        while self._carrier.waiting and time.monotonic() < until:
            self._watch(self._carrier.fileno(), selectors.EVENT_WRITE, self._carrier)
            self._selector.select(0.1)
            self._carrier.flush()

    def _say_closed(self, number: int, sentence: str, reason: str) -> None:
        told = json.dumps({"message": sentence, "reason": reason}).encode() if reason else b""
        self._send(CLOSE, number, told)

    def _send(self, kind: int, number: int, payload: bytes = b"") -> None:
        self._carrier.send(_HEAD.pack(kind, number) + payload)

    def _unwatch(self, descriptor: int) -> None:
        self._watch(descriptor, 0, None)

    def _forget(self, member: Member) -> None:
        self._members.pop(member.number, None)
        member.close()
