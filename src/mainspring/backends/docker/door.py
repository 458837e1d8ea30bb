"""The one place where Docker's library is called: it is loaded when it is needed, and its errors become ours."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from mainspring.backends.docker.road import Road
from mainspring.core.errors import BackendError, CredentialsError, LaunchError, UnreachableError

ANSWER_S = 10.0  # for each thing that is waited for: a connection, the next bytes
WHOLE_S = 60.0  # for a whole answer: one that comes in drops would hold its cluster's lane for good
PULL_S = 3600.0
MAX_FILE_BYTES = 4 << 20
_LATER = (408, 425, 429)  # HTTP's words for another time
_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
_SCHEMES = ("unix", "http+unix", "npipe", "tcp", "http", "https", "ssh")
# podman's 500 for what is a 409 of Docker: it ended before it could be killed
_NOT_RUNNING = ("can only kill running containers", "container state improper: ")
_LETTING = {
    "docker": "sudo usermod -aG docker $USER, then log in again, and: mainspring down; mainspring up",
    "podman": "systemctl --user enable --now podman.socket, which is that user's own: leave --host out",
}
_PLAINLY = {
    "FileNotFoundError": "there is no such socket.",
    "Connection refused": "nobody listens there.",
    "timed out": f"it took longer than {ANSWER_S:g} s.",
}


class MissingLibraryError(UnreachableError):
    """Docker's library is not installed beside the server."""


class AbsentError(LaunchError):
    """The engine has no such container, image or file."""


class TakenError(LaunchError):
    """A container of that name is there already, or is in a state that does not allow this."""


class UnsettledError(UnreachableError):
    """The engine answers, and cannot do this just now: a container is on its way into another state."""


@dataclass(slots=True)
class Door:
    """A connection to one engine, made at the first call. Thread safe."""

    host: str
    program: str  # docker or podman
    road: Road | None = None  # to an engine behind ssh://
    wrong: str = ""  # why `host` leads nowhere
    _client: Any = None
    _leads_to: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_fast(self) -> bool:
        """Say whether the engine is spoken to by a socket, which can be handed a container's input."""
        return self.is_here or self.road is not None

    @property
    def is_here(self) -> bool:
        """Say whether the engine is on this machine."""
        return urlsplit(self.host).scheme in ("unix", "http+unix", "npipe")

    def info(self) -> Mapping[str, Any]:
        """Return what the engine tells of itself."""
        with self._calls() as api:
            return _told(api.info(), "Name")

    def version(self) -> str:
        """Return the engine's version."""
        with self._calls() as api:
            return str(_told(api.version(), "Version")["Version"])

    def containers(self, label: str) -> list[Mapping[str, Any]]:
        """Return every container with a label, also those that have ended."""
        with self._calls() as api:
            return [_told(one) for one in _rows(api.containers(all=True, filters={"label": label}))]

    def inspect(self, name: str) -> Mapping[str, Any] | None:
        """Return a container as it is; None when there is none of that name."""
        try:
            with self._calls() as api:
                return _told(api.inspect_container(name), "Image", "State.Status")
        except AbsentError:
            return None

    def image(self, name: str) -> Mapping[str, Any] | None:
        """Return an image that the engine has; None otherwise."""
        try:
            with self._calls() as api:
                return _told(api.inspect_image(name), "Id")
        except AbsentError:
            return None

    def has_network(self, name: str) -> bool:
        """Say whether the engine has a network of that name."""
        with self._calls() as api:
            return any(_told(one).get("Name") == name for one in _rows(api.networks(names=[name])))

    def create(self, name: str, image: str, host: Mapping[str, Any], **config: Any) -> None:
        """Create a container. Raises TakenError when there is one of that name."""
        with self._calls() as api:
            api.create_container(image, name=name, host_config=api.create_host_config(**host), **config)

    def start(self, name: str) -> None:
        """Start a container; one that runs goes on."""
        with self._calls() as api:
            api.start(name)

    def feed(self, name: str, data: bytes) -> None:
        """Start a container that reads its standard input to the end, and give it `data`; kill it if it takes only a part."""
        with self._calls() as api:
            pipe = api.attach_socket(name, params={"stdin": 1, "stream": 1})
            try:
                api.start(name)
                line = getattr(pipe, "_sock", pipe)
                line.settimeout(ANSWER_S)
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
            except OSError as wrong:  # podman: what an earlier end left was still being cleaned up
                with contextlib.suppress(BackendError):
                    self.kill(name, "SIGKILL")
                raise UnsettledError(f"{name} did not take what it is to do: {_short(str(wrong))}") from wrong
            finally:
                pipe.close()

    def kill(self, name: str, signal: str) -> None:
        """Send a signal to a container; silent when it does not run."""
        with contextlib.suppress(AbsentError, TakenError), self._calls() as api:
            api.kill(name, signal=signal)

    def remove(self, name: str) -> None:
        """Remove a container with what it wrote; silent when there is none."""
        with contextlib.suppress(AbsentError, TakenError), self._calls() as api:
            api.remove_container(name, force=True, v=True)

    def put(self, name: str, archive: bytes) -> None:
        """Unpack a tar file at the root of a container."""
        with self._calls() as api:
            api.put_archive(name, "/", archive)

    def stat(self, name: str, path: str) -> Mapping[str, Any] | None:
        """Return what a path of a container is (`name`, `mode`, `linkTarget`); None when there is none."""
        try:
            with self._calls() as api:
                stream, told = api.get_archive(name, path)
                stream.close()
                return _told(told)
        except AbsentError:
            return None

    def read(self, name: str, path: str) -> bytes | None:
        """Return a small file of a container; None when there is none, or no container."""
        for pause_s in (*_PAUSES_S, 0.0):
            try:
                with self._calls() as api:
                    stream, told = api.get_archive(name, path)
                    if int(_told(told).get("size", 0)) > MAX_FILE_BYTES:
                        stream.close()
                        return None
                    data = b"".join(stream)
                    if data:
                        return _unpack(data)
            except AbsentError:
                return None
            time.sleep(pause_s)  # podman has promised the file, while it took the container's layers down
        raise self._unreachable(f"It gives nothing of {path} in {name}.")

    def pull(self, image: str, login: Mapping[str, str] | None) -> Iterator[Mapping[str, Any]]:
        """Yield the engine's own words while it pulls an image. Raises LaunchError when it cannot."""
        repository, tag = _split(image)
        api = self._connect()
        with self._translated(f"Image {image} cannot be pulled: "):
            for told in api.pull(repository, tag=tag, stream=True, decode=True, auth_config=dict(login) if login else None):
                if told.get("error"):
                    raise _no_image(f"Image {image} cannot be pulled: ", str(told["error"]))
                yield told

    @contextlib.contextmanager
    def _calls(self) -> Iterator[Any]:
        api = self._connect()
        with self._translated():
            yield api

    def close(self) -> None:
        """Let go of the connection."""
        if self.road is not None:
            self.road.close()

    def _connect(self) -> Any:
        if self.wrong or urlsplit(self.host).scheme not in _SCHEMES:
            raise LaunchError(
                self.wrong or f"--host {self.host[:80]!r} names no engine.",
                hint="unix:///PATH, ssh://USER@HOST or tcp://HOST:PORT",
            )
        here = f"unix://{self.road.open()}" if self.road is not None else self.host
        with self._lock:
            if self._client is None or self._leads_to != here:
                self._leads_to = here
                try:
                    library = import_module("docker")
                except ImportError as missing:
                    raise MissingLibraryError(
                        "Docker's library is not installed beside the server.", hint='pip install "mainspring[docker]"'
                    ) from missing
                with self._translated():
                    self._client = _limited(library)(base_url=here, timeout=ANSWER_S, version="auto", max_pool_size=32)
            return self._client

    @contextlib.contextmanager
    def _translated(self, of_image: str = "") -> Iterator[None]:
        """Turn whatever the library raises into the four errors of the contract; `of_image`: the engine asks a registry."""
        errors = import_module("docker.errors")
        try:
            yield
        except BackendError:
            raise
        except errors.APIError as wrong:
            if of_image:
                raise _no_image(of_image, _said(wrong)) from wrong
            if wrong.status_code == 404:
                raise AbsentError(_said(wrong)) from wrong
            if wrong.status_code == 409 or any(words in _said(wrong) for words in _NOT_RUNNING):
                raise TakenError(_said(wrong)) from wrong
            if wrong.status_code in (401, 403):
                raise CredentialsError(f"The engine at {self.host} refuses us: {_said(wrong)}") from wrong
            if wrong.status_code in _LATER or ((wrong.status_code or 0) >= 500 and "OCI" not in _said(wrong)):
                raise UnsettledError(f"{self.program} at {self.host} cannot do this now: {_said(wrong)}") from wrong
            raise LaunchError(_said(wrong)) from wrong
        except (errors.DockerException, OSError, import_module("requests").RequestException) as wrong:
            text = str(wrong)
            if "Permission denied" in text or "PermissionError" in text:
                raise CredentialsError(f"The server's user may not speak to {self.host}.", hint=_LETTING[self.program]) from wrong
            raise self._unreachable(text) from wrong
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError, HTTPException, tarfile.TarError) as wrong:
            # a proxy before it, or half an answer: what the library makes of that is anything
            text = f"{self.program} at {self.host} answers with something else than it should: {_short(str(wrong))}"
            raise UnreachableError(text, hint=f"Ask it by hand: {self._by_hand()}") from wrong

    def _by_hand(self) -> str:
        return f"{'DOCKER_HOST=' + self.host + ' docker' if self.program == 'docker' else f'podman --url {self.host}'} info"

    def _unreachable(self, text: str) -> UnreachableError:
        if self.road is not None:
            who, there = self.road.login, self.road.there
            raise_by = "sudo usermod -aG docker $USER" if self.program == "docker" else f"sudo chgrp $USER {there}"
            return UnreachableError(
                f"{self.program} at {self.host} does not answer: nobody is at {there} there, or its user may not speak to it.",
                hint=f"Try by hand: {who.mend(f'curl --unix-socket {there} http://d/version')}; then there: {raise_by}",
            )
        start = "systemctl start docker" if self.program == "docker" else f"{self.program} system service --time=0 {self.host}"
        why = next((plain for word, plain in _PLAINLY.items() if word in text), _short(text))
        return UnreachableError(f"{self.program} at {self.host} does not answer: {why}", hint=f"Is it running? {start}")


def _limited(library: Any) -> Any:
    """Return the kind of the library's client that waits for a whole answer no longer than `WHOLE_S`; for a pull's for ever."""

    class Client(library.APIClient):  # type: ignore[misc]  # the library has no other place where answers come through
        def send(self, request: Any, **asked: Any) -> Any:
            until = time.monotonic() + WHOLE_S
            answer = super().send(request, **{**asked, "stream": True})
            if asked.get("timeout") is not None:  # it is for all but pulls, and what is attached to
                answer.raw = _Whole(answer.raw, until)
            if not asked.get("stream"):
                _ = answer.content
            return answer

    return Client


@dataclass(frozen=True, slots=True)
class _Whole:
    """The body of an answer, which is to be there by a certain time. What else is asked of it the body itself tells."""

    body: Any
    until: float

    def stream(self, size: int, decode_content: bool) -> Iterator[bytes]:
        """Yield it as it comes, as requests asks for it. Raises TimeoutError."""
        read = getattr(self.body, "read1", self.body.read)  # before urllib3 2.1 only what is asked for as a whole
        while part := read(size, decode_content=decode_content):
            if time.monotonic() > self.until:
                self.body.close()
                raise TimeoutError(f"it gave no whole answer within {WHOLE_S:g} s.")
            yield part

    def __getattr__(self, name: str) -> Any:
        return getattr(self.body, name)


def _told(answer: object, *needed: str) -> Mapping[str, Any]:
    """Return an answer that is an object and has what is `needed` of it, such as `State.Status`. Raises ValueError."""
    for path in ("", *needed):
        found: Any = answer
        for name in path.split(".") if path else ():
            found = found.get(name) if isinstance(found, Mapping) else None
        if not (isinstance(found, str) and found if path else isinstance(found, Mapping)):
            raise ValueError(f"{path or 'an object'} is not in {str(answer)[:80]!r}.")
    return dict(answer) if isinstance(answer, Mapping) else {}


def _rows(answer: object) -> list[object]:
    """Return an answer that is a list. Raises TypeError."""
    if not isinstance(answer, list):
        raise TypeError(f"a list is not in {str(answer)[:80]!r}.")
    return answer


def _unpack(data: bytes) -> bytes | None:
    """Return the first file of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            if file is not None:
                return file.read()
    return None


def login(user: str, password: str) -> Mapping[str, str] | None:
    """Return the credentials of a registry, None without any."""
    return {"username": user, "password": password} if user else None


def pack(entries: Sequence[tuple[str, bytes | None, int, tuple[int, int]]]) -> bytes:
    """Return a tar file of (path, data or None for a folder, mode, (uid, gid))."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for path, data, mode, (uid, gid) in entries:
            entry = tarfile.TarInfo(path)
            entry.mode, entry.uid, entry.gid = mode, uid, gid
            if data is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def _split(image: str) -> tuple[str, str]:
    """Return (repository, tag or digest); without one it is `latest`."""
    if "@" in image:
        repository, _, digest = image.partition("@")
        return repository, digest
    head, colon, tag = image.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (image, "latest")


def _no_image(what: str, said: str) -> LaunchError:
    """Return why an image did not come, and what to do about that."""
    if any(word in said.lower() for word in ("unauthorized", "authentication required", "denied", "no basic auth")):
        return LaunchError(
            f"{what}its registry wants another login: {_short(said)}",
            hint="Is its name right? If the registry wants a login, of a run: --override docker.registry_login=secret:NAME; "
            "of the cluster: --registry-user NAME --registry-password -",
        )
    return LaunchError(f"{what}{_short(said)}", hint="Is its name right, and does the engine's machine reach its registry?")


def _said(wrong: Any) -> str:
    return _short(str(getattr(wrong, "explanation", "") or wrong))


def _short(text: str) -> str:
    return " ".join(text.split())[:500]
