"""Images: pulled in the background, told apart by digest, and looked into for a Python without running anything of theirs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from mainspring.backends.docker.door import Door
from mainspring.core.errors import BackendError, LaunchError
from mainspring.core.units import show_bytes

NEWEST, OLDEST = 16, 9  # minor versions of Python 3 that the runner works with
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/conda/bin", "/opt/venv/bin")
_VERSION = re.compile(r"python3\.(\d+)\Z")
TOLD_EACH_S = 5.0


@dataclass(slots=True)
class Pull:
    """One image on its way. `lines` are for the logs of the runs that wait; `error` why it did not come.

    `told` is how far it has come, renewed every few seconds: for people who look at a run meanwhile.
    """

    image: str
    lines: list[str] = field(default_factory=list)
    progress: str = ""
    told: str = ""
    error: BackendError | None = None
    is_over: bool = False
    waiting: list[Callable[[Pull], None]] = field(default_factory=list)


@dataclass(slots=True)
class Images:
    """The images of one engine. Thread safe; each image is pulled once at a time with each login.

    `login` is that of the cluster; a run may have one of its own.
    """

    door: Door
    login: Mapping[str, str] | None
    _pulls: dict[tuple[str, ...], Pull] = field(default_factory=dict)
    _pythons: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, image: str) -> Mapping[str, Any] | None:
        """Return the image if the engine has it."""
        return self.door.image(image)

    def pull(self, image: str, then: Callable[[Pull], None], login: Mapping[str, str] | None = None) -> Pull:
        """Pull an image in the background, and call `then` when that is over, well or not; returns at once."""
        login = login or self.login
        key = (image, *((login or {}).values()))
        with self._lock:
            pull = self._pulls.get(key)
            if pull is None:
                pull = self._pulls[key] = Pull(image)
                threading.Thread(target=self._work, args=(pull, key, login), daemon=True, name="pull").start()
            pull.waiting.append(then)
            return pull

    def python_of(self, image: Mapping[str, Any]) -> str:
        """Return the path of a Python of the image that the runner works with. Raises LaunchError.

        A container is created to look into it, never started, and removed.
        """
        key = str(image.get("Id", ""))
        if key not in self._pythons:
            name = f"mainspring-look-{key.removeprefix('sha256:')[:12]}-{threading.get_ident()}"
            self.door.remove(name)
            self.door.create(name, key, {"network_mode": "none"}, entrypoint=["/"], command=["-"])
            try:
                self._pythons[key] = self._look(name, image)
            finally:
                self.door.remove(name)
        return self._pythons[key]

    def _look(self, container: str, image: Mapping[str, Any]) -> str:
        for place in _places(image):
            told = self.door.stat(container, f"{place}/python3")
            if told is None:
                continue
            goal = str(told.get("linkTarget") or "")
            minor = _minor(PurePosixPath(goal).name)
            if minor is None or OLDEST <= minor <= NEWEST:  # a plain file does not tell its version; the runner does
                return f"{place}/python3"
            for number in range(NEWEST, OLDEST - 1, -1):
                if self.door.stat(container, f"{place}/python3.{number}") is not None:
                    return f"{place}/python3.{number}"
        raise LaunchError(
            f"Image {name_of(image)} has no Python 3.{OLDEST} or newer, which the runner needs.",
            hint="Name an image that has one (python:3.12-slim), or add it: RUN apt-get install -y python3 (apk add python3).",
        )

    def _work(self, pull: Pull, key: tuple[str, ...], login: Mapping[str, str] | None) -> None:
        began = time.monotonic()
        try:
            self._take(pull, began, login)
            took_s = time.monotonic() - began
            found = self.door.image(pull.image) or {}
            size = show_bytes(int(found.get("Size") or 0))
            pull.lines.append(f"Pulled image {pull.image} ({size}) in {took_s:.0f} s.")
        except BackendError as wrong:
            pull.error = wrong
        except Exception as wrong:  # a thread's top: whoever waits for the image is told
            pull.error = LaunchError(f"Image {pull.image} cannot be pulled: {type(wrong).__name__}: {wrong}")
        with self._lock:
            self._pulls.pop(key, None)
            pull.is_over = True
            waiting = list(pull.waiting)
        for then in waiting:
            then(pull)

    def _take(self, pull: Pull, began: float, login: Mapping[str, str] | None) -> None:
        layers: dict[str, tuple[int, int]] = {}
        told_at = began
        for told in self.door.pull(pull.image, login):
            detail = told.get("progressDetail") or {}
            if told.get("id") and detail.get("total"):
                layers[str(told["id"])] = (int(detail.get("current") or 0), int(detail["total"]))
            done, total = (sum(pair[which] for pair in layers.values()) for which in (0, 1))
            pull.progress = f"{show_bytes(done)} of {show_bytes(total)}" if total else str(told.get("status", ""))
            if time.monotonic() - told_at >= TOLD_EACH_S:
                told_at = time.monotonic()
                pull.told = f"{pull.progress} after {told_at - began:.0f} s"
                pull.lines.append(f"Pulling image {pull.image}: {pull.told}.")


def name_of(image: Mapping[str, Any]) -> str:
    """Return what people call an image."""
    tags = image.get("RepoTags") or image.get("RepoDigests") or [image.get("Id", "")]
    return str(tags[0])


def digest_of(image: Mapping[str, Any]) -> str:
    """Return the digest by which an image is found again: the registry's, else its own id."""
    told = image.get("RepoDigests") or []
    return str(told[0]) if told else str(image.get("Id", ""))


def _places(image: Mapping[str, Any]) -> list[str]:
    env = (image.get("Config") or {}).get("Env") or []
    path = next((str(word)[5:] for word in env if str(word).startswith("PATH=")), "")
    return list(dict.fromkeys([*(place.rstrip("/") for place in path.split(":") if place.startswith("/")), *_PLACES]))


def _minor(name: str) -> int | None:
    found = _VERSION.match(name)
    return int(found[1]) if found else None
