"""The door to Kubernetes' API: sends JSON to the place that was found, tells refusals as our errors. Objects stay JSON values."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx2
import msgspec

from mainspring.backends.kubernetes.login import client, unusable
from mainspring.backends.kubernetes.places import ConfigError, Place, kubectl, renewal
from mainspring.core.codec import decoder
from mainspring.core.errors import CapacityError, CredentialsError, LaunchError, UnreachableError

TIMEOUT_S = 10.0  # for each thing that is waited for: a connection, the next bytes
ANSWER_S = 60.0  # for a whole answer: one that comes in drops would hold its thread for good
MERGE_PATCH = "application/merge-patch+json"
Json = dict[str, object]
T = TypeVar("T")


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""


class MissingError(Exception):
    """There is no such object, or no such kind of object. Stays within this backend."""


class ExistsError(Exception):
    """The object is there already. Stays within this backend."""


class StaleError(Exception):
    """What changed since then is not kept any more: list anew. Stays within this backend."""


@dataclass(slots=True)
class Api:
    """One cluster's API. Thread safe; connections are kept. `clock` is ours, which may be wrong."""

    place: Place
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _client: httpx2.Client | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _followed: list[httpx2.Response] = field(default_factory=list)
    _dated: tuple[datetime, float] | None = None

    def get(self, path: str, **query: str) -> Json:
        """Return an object or a list as JSON. Raises MissingError, UnreachableError, CredentialsError."""
        return decoded(self.place, self.read(path, **query), Json)

    def read(self, path: str, **query: str) -> bytes:
        """Return the bytes of an answer. Raises as `get`."""
        return self._send("GET", path, None, query)

    def create(self, path: str, body: Json, **query: str) -> Json:
        """Create an object. Raises ExistsError, CapacityError (a quota is used up), LaunchError, and as `get`."""
        return decoded(self.place, self._send("POST", path, body, query), Json)

    def now(self) -> datetime:
        """Return the time by the cluster's clock, as of its last answer: what it tells of moments is to be held against that."""
        if self._dated is None:
            return self.clock()
        told, at = self._dated
        return told + timedelta(seconds=time.monotonic() - at)

    def patch(self, path: str, body: Json) -> None:
        """Merge values into an object. Raises as `create`."""
        self._send("PATCH", path, body, {}, MERGE_PATCH)

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Delete an object and what it owns, in the background; silent if there is none. `grace_s` is a pod's."""
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self._send("DELETE", path, body, {})
        except MissingError:
            return

    def close(self) -> None:
        """Close the connections; what waits for an answer on one is told that none comes."""
        with self._lock:
            there, self._client = self._client, None
            followed = [answer.extensions["network_stream"] for answer in self._followed if "network_stream" in answer.extensions]
        for stream in followed:
            with suppress(OSError):  # closed already
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        if there is not None:
            there.close()

    @contextmanager
    def watch(self, path: str, **query: str) -> Iterator[Iterator[str]]:
        """Yield the lines of a watch, which ends when the server ends it. Raises StaleError, and as `get`."""
        there = self._connected()
        limits = httpx2.Timeout(TIMEOUT_S, read=float(query["timeoutSeconds"]) + TIMEOUT_S)
        with (
            _told(self.place, there),
            there.stream("GET", path, params={**query, "watch": "true"}, timeout=limits, extensions=self._named()) as answer,
        ):
            self._take_date(answer)
            if answer.status_code >= 300:
                raise _refusal("GET", answer.status_code, answer.read(), self.place)
            self._followed.append(answer)
            try:
                yield answer.iter_lines()
            finally:
                self._followed.remove(answer)

    def _send(self, method: str, path: str, body: Json | None, query: Mapping[str, str], kind: str = "application/json") -> bytes:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": kind} if content is not None else {}
        ends_at = time.monotonic() + ANSWER_S
        there = self._connected()
        with (
            _told(self.place, there),
            there.stream(method, path, content=content, params=dict(query), headers=headers, extensions=self._named()) as answer,
        ):
            self._take_date(answer)
            parts = []
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > ends_at:
                    raise UnreachableError(f"Kubernetes at {self.place.url} gave no whole answer within {ANSWER_S:g} s.")
        told = b"".join(parts)
        if answer.status_code >= 300:
            raise _refusal(method, answer.status_code, told, self.place)
        return told

    def _take_date(self, answer: httpx2.Response) -> None:
        with suppress(ValueError, TypeError, OverflowError):
            told = parsedate_to_datetime(answer.headers.get("date", ""))
            self._dated = (told if told.tzinfo is not None else told.replace(tzinfo=UTC), time.monotonic())

    def _connected(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                with _told(self.place):
                    self._client = client(self.place, TIMEOUT_S)
            return self._client

    def _named(self) -> dict[str, str]:
        """Return by which name the server's certificate is checked where that is not its address."""
        name = str(self.place.cluster.get("tls-server-name") or "")
        return {"sni_hostname": name} if name else {}


@contextmanager
def _told(place: Place, there: httpx2.Client | None = None) -> Iterator[None]:
    """Tell what goes wrong on the way `there` in our words."""
    try:
        yield
    except httpx2.HTTPError as wrong:
        cause: BaseException | None = wrong
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise CredentialsError(
                    f"Kubernetes at {place.url} shows a certificate that is not trusted: {cause.verify_message}.",
                    hint=f"Name the authority: {_name_authority(place)}",
                ) from wrong
            cause = cause.__cause__ or cause.__context__
        raise UnreachableError(
            f"Kubernetes at {place.url} does not answer: {wrong or type(wrong).__name__}.",
            hint=f"Ask it by hand: {kubectl(place, 'get', '--raw', '/readyz')}",
        ) from wrong
    except RuntimeError as wrong:
        if there is None or not there.is_closed:
            raise
        raise UnreachableError(f"The connection to Kubernetes at {place.url} was closed: its cluster is forgotten.") from wrong
    except (OSError, ConfigError) as wrong:
        raise unusable(place, wrong) from wrong


def decoded(place: Place, told: bytes | str, kind: type[T]) -> T:
    """Return an answer as this type. Raises UnreachableError for one that cannot be: something else answers there."""
    try:
        return decoder(kind).decode(told)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as wrong:
        raise stranger(place, told if isinstance(told, str) else told.decode(errors="replace")) from wrong


def stranger(place: Place, told: str) -> UnreachableError:
    """Return our error for the answer of something that is no Kubernetes: a proxy, a page to log in at."""
    words = " ".join(told.split())[:100]
    return UnreachableError(
        f"What answers at {place.url} does not speak as Kubernetes does: {words or 'nothing'}",
        hint=f"See what is there: {kubectl(place, 'get', '--raw', '/version')}",
    )


def _name_authority(place: Place) -> str:
    return f"{kubectl(place, 'config', 'set-cluster', str(place.config.context.cluster))} --certificate-authority=FILE"


def _refusal(method: str, status: int, body: bytes, place: Place) -> Exception:
    """Return our error for an answer that is a refusal. Only what was to be made can be refused for what it is."""
    message, reason = _words(body)
    sentence = f"Kubernetes refuses: {message or status}"
    is_making = method in ("POST", "PATCH") and bool(message)
    match status:
        case 401:
            return CredentialsError(
                f"Kubernetes does not accept the credentials of context {place.context!r}: they are wrong or have expired.",
                hint=f"Log in anew: {renewal(place)}",
            )
        case 403 if is_making and "exceeded quota" in message:
            return CapacityError(sentence)
        case 403 if reason == "Forbidden" and (" is forbidden: User " in message or not is_making):
            return CredentialsError(sentence, hint="The rights that are needed: mainspring cluster show NAME")
        case 404:
            return MissingError(sentence)
        case 409 if reason == "AlreadyExists":
            return ExistsError(sentence)
        case 410:
            return StaleError(sentence)
        case 408 | 409 | 429:
            return UnreachableError(sentence)
        case _ if status >= 500 or (message and not is_making):
            return UnreachableError(sentence)
        case _ if is_making:
            return LaunchError(sentence)
        case _:
            return stranger(place, f"{status} {body.decode(errors='replace')}")


def _words(body: bytes) -> tuple[str, str]:
    """Return message and reason of a refusal, both empty where it is none of Kubernetes' own."""
    try:
        told = decoder(_Status).decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "", ""
    return told.message, told.reason
