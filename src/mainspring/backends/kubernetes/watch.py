"""Our pods as they change: listed once, then followed by a watch that goes on where it was cut, else listed anew.

The thread begins with the first question and ends when nobody has asked for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from mainspring.backends.kubernetes.api import Api, MissingError, StaleError, decoded
from mainspring.backends.kubernetes.listing import listed
from mainspring.backends.kubernetes.pods import Metadata, Pod
from mainspring.core.errors import BackendError, UnreachableError

log = logging.getLogger(__name__)
WATCH_S = 30  # the server ends a watch after that, and it is begun again: a dead connection is found out
FRESH_S = WATCH_S + 15.0
IDLE_S = 120.0
SHORT_S = 1.0  # a watch that ends before that without a word is no watch: what answers there cannot do it
PAUSES_S = (0.2, 1.0, 5.0)
GONE = 410


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Marked(msgspec.Struct):
    metadata: Metadata = Metadata()


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


@dataclass(slots=True)
class Watch:
    """Pods of one selector. `changed` is called with each pod that is listed or changed, in the watch's thread. Thread safe."""

    api: Api
    path: str
    selector: str
    changed: Callable[[Pod], None]
    _pods: dict[str, Pod] = field(default_factory=dict)
    _version: str = ""
    _heard_at: float = 0.0
    _asked_at: float = 0.0
    _is_synced: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def pods(self) -> list[Pod]:
        """Return the pods as they are now. Raises UnreachableError, CredentialsError."""
        with self._lock:
            self._asked_at = time.monotonic()
            if self._is_synced and self._asked_at - self._heard_at < FRESH_S:
                return list(self._pods.values())
        found, version = self._list()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._keep(found, version)
                self._thread = threading.Thread(target=self._follow, daemon=True, name="kubernetes-watch")
                self._thread.start()
        return found

    def close(self) -> None:
        """Let the thread end with the watch that it is at; another is begun by the next question."""
        self._asked_at = -IDLE_S

    def _list(self) -> tuple[list[Pod], str]:
        found, version = listed(self.api, self.path, Pod, labelSelector=self.selector)
        for pod in found:
            self.changed(pod)
        return found, version

    def _keep(self, found: list[Pod], version: str) -> None:
        """Begin with these. Only who follows the changes may: it may have heard later ones than another's list has."""
        self._pods = {pod.metadata.name: pod for pod in found}
        self._version = version
        self._heard_at = time.monotonic()

    def _follow(self) -> None:
        failures = 0
        while time.monotonic() - self._asked_at < IDLE_S:
            try:
                self._hear()
                failures = 0
                continue
            except StaleError:
                self._version = ""
            except (BackendError, MissingError) as wrong:
                log.info("watch broke off", extra={"error": str(wrong)})
            except Exception:  # the thread's top: without it every question is answered by a list
                log.exception("watch failed")
            self._is_synced = False
            time.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1
        self._is_synced = False

    def _hear(self) -> None:
        """Follow the changes until the server ends the watch."""
        if not self._version:
            found, version = self._list()
            with self._lock:
                self._keep(found, version)
        query = {"labelSelector": self.selector, "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        with self.api.watch(self.path, resourceVersion=self._version, **query) as lines:
            began = time.monotonic()
            self._is_synced = True
            self._heard_at = began
            count = 0
            for count, line in enumerate(lines, 1):  # noqa: B007 (counted to the end)
                self._take(decoded(self.api.place, line, _Event))
            if not count and time.monotonic() - began < SHORT_S:
                raise UnreachableError("The watch was ended at once.")
            self._heard_at = time.monotonic()

    def _take(self, event: _Event) -> None:
        if event.type == "ERROR":
            status = decoded(self.api.place, bytes(event.object), _Status)
            raise StaleError(status.message) if status.code == GONE else UnreachableError(status.message)
        if event.type == "BOOKMARK":
            version = decoded(self.api.place, bytes(event.object), _Marked).metadata.resourceVersion
        else:
            pod = decoded(self.api.place, bytes(event.object), Pod)
            version = pod.metadata.resourceVersion
            if event.type != "DELETED":
                self.changed(pod)
            with self._lock:
                if event.type == "DELETED":
                    self._pods.pop(pod.metadata.name, None)
                else:
                    self._pods[pod.metadata.name] = pod
        with self._lock:
            self._version = version
            self._heard_at = time.monotonic()
