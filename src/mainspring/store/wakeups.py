"""Wake-ups between processes that share one PostgreSQL: NOTIFY in the transaction, a thread that listens.

A wake-up is a hint. One that is lost costs a pause, never a result: the loops look at the rows anyway.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Engine

from mainspring.core.codec import decode_any, encode
from mainspring.core.errors import SpecError
from mainspring.store.driver import tell_driver, tell_later

logger = logging.getLogger(__name__)
_CHANNEL = "mainspring"
_AGAIN_S = 2.0
_LOOK_S = 30.0  # an answer from the server in this time, or the connection is found dead
_MAX_PAYLOAD = 7_000  # PostgreSQL takes 8,000 bytes
# what may have happened while nobody listened
_EVERYTHING = frozenset({"runs", "attempts", "events", "nodes", "endpoints", "sweeps", "pipelines"})


class Wakeups:
    """Tells other processes what was touched here, and hears what was touched there."""

    def __init__(self, engine: Engine, wake: Callable[[set[str]], None]) -> None:
        self._engine, self._wake = engine, wake
        self._me = uuid.uuid4().hex
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, conn: Connection, topics: Iterable[str]) -> None:
        """Announce `topics` to the other processes when the transaction of `conn` commits; now where it is in none."""
        payload = encode([self._me, *sorted(topics)]).decode()
        if len(payload) > _MAX_PAYLOAD:
            payload = encode([self._me, *sorted(_EVERYTHING)]).decode()
        tell = tell_later if conn.in_transaction() else tell_driver
        tell(conn, "SELECT pg_notify(%s, %s)", (_CHANNEL, payload))

    def listen(self) -> None:
        """Begin to hear. Idempotent; blocks until nothing is missed any more, a few seconds at most."""
        if self._thread is None:
            is_hearing = threading.Event()
            self._thread = threading.Thread(target=self._loop, args=(is_hearing,), name="store-wakeups", daemon=True)
            self._thread.start()
            is_hearing.wait(5.0)

    def close(self) -> None:
        """Stop hearing. Idempotent."""
        self._is_over.set()
        if self._thread is not None and self._thread.is_alive():
            try:
                with self._engine.connect() as conn:
                    self.tell(conn, ())  # ends the wait of the thread
            except Exception:  # the server is gone, and the thread with it
                logger.info("nobody left to tell of the end", exc_info=True)
            self._thread.join(5.0)

    def _loop(self, is_hearing: threading.Event) -> None:
        while not self._is_over.is_set():
            try:
                self._hear(is_hearing)
            except Exception:  # top of a loop: the server was restarted, the network went: try again
                logger.warning("wake-ups are interrupted", exc_info=True)
                self._is_over.wait(_AGAIN_S)

    def _hear(self, is_hearing: threading.Event) -> None:
        with self._engine.connect() as conn:
            driver: Any = conn.connection.driver_connection
            driver.execute(f"LISTEN {_CHANNEL}")  # in no transaction, from the driver on
            if is_hearing.is_set():
                self._wake(set(_EVERYTHING))  # heard before, deaf since: anything may have happened
            is_hearing.set()
            while not self._is_over.is_set():
                for note in driver.notifies(timeout=_LOOK_S):
                    self._heard(str(note.payload))
                    if self._is_over.is_set():
                        return
                driver.execute("SELECT 1")

    def _heard(self, payload: str) -> None:
        try:
            sender, *topics = decode_any(payload)
        except (SpecError, ValueError, TypeError):
            return  # somebody else's word on our channel
        if sender != self._me and topics:
            self._wake({str(topic) for topic in topics})
