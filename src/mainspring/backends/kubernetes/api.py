"""The door to Kubernetes' API: sends JSON to the place that was found, tells refusals as our errors. Objects stay JSON values."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import httpx2
import msgspec

from mainspring.backends.kubernetes.login import client
from mainspring.backends.kubernetes.places import Place, kubectl, renewal
from mainspring.core.errors import CapacityError, CredentialsError, LaunchError, UnreachableError

TIMEOUT_S = 10.0
MERGE_PATCH = "application/merge-patch+json"
Json = dict[str, object]


class MissingError(Exception):
    """There is no such object, or no such kind of object. Stays within this backend."""


class ExistsError(Exception):
    """The object is there already. Stays within this backend."""


class StaleError(Exception):
    """What changed since then is not kept any more: list anew. Stays within this backend."""


@dataclass(slots=True)
class Api:
    """One cluster's API. Thread safe; connections are kept."""

    place: Place
    _client: httpx2.Client | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, path: str, **query: str) -> Json:
        """Return an object or a list as JSON. Raises MissingError, UnreachableError, CredentialsError."""
        return cast("Json", msgspec.json.decode(self.read(path, **query)))

    def read(self, path: str, **query: str) -> bytes:
        """Return the bytes of an answer."""
        return self._send("GET", path, None, query).content

    def create(self, path: str, body: Json, **query: str) -> Json:
        """Create an object. Raises ExistsError, CapacityError (a quota is used up), LaunchError, and as `get`."""
        return cast("Json", msgspec.json.decode(self._send("POST", path, body, query).content))

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

    @contextmanager
    def watch(self, path: str, **query: str) -> Iterator[Iterator[bytes]]:
        """Yield the lines of a watch, which ends when the server ends it. Raises StaleError, and as `get`."""
        there = self._connected()
        limits = httpx2.Timeout(TIMEOUT_S, read=float(query["timeoutSeconds"]) + TIMEOUT_S)
        with (
            _told(self.place),
            there.stream("GET", path, params={**query, "watch": "true"}, timeout=limits, extensions=self._named()) as answer,
        ):
            if answer.status_code >= 300:
                answer.read()
                raise _refusal(answer, self.place)
            yield answer.iter_lines()  # type: ignore[misc]

    def _send(
        self, method: str, path: str, body: Json | None, query: Mapping[str, str], kind: str = "application/json"
    ) -> httpx2.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": kind} if content is not None else {}
        with _told(self.place):
            answer = self._connected().request(
                method, path, content=content, params=dict(query), headers=headers, extensions=self._named()
            )
        if answer.status_code >= 300:
            raise _refusal(answer, self.place)
        return answer

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
def _told(place: Place) -> Iterator[None]:
    """Tell what goes wrong on the way in our words."""
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
    except OSError as wrong:
        raise CredentialsError(f"The credentials of context {place.context!r} cannot be had: {wrong}.") from wrong


def _name_authority(place: Place) -> str:
    return f"{kubectl(place, 'config', 'set-cluster', str(place.config.context.cluster))} --certificate-authority=FILE"


def _refusal(answer: httpx2.Response, place: Place) -> Exception:
    """Return our error for an answer that is a refusal."""
    try:
        told = msgspec.json.decode(answer.content)
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = answer.text[:300], ""
    sentence = f"Kubernetes refuses: {message or answer.status_code}"
    match answer.status_code:
        case 401:
            return CredentialsError(
                f"Kubernetes does not accept the credentials of context {place.context!r}: they are wrong or have expired.",
                hint=f"Log in anew: {renewal(place)}",
            )
        case 403 if "exceeded quota" in message:
            return CapacityError(sentence)
        case 403 if reason == "Forbidden" and " is forbidden: User " in message:
            return CredentialsError(sentence, hint="The rights that are needed: mainspring cluster show NAME")
        case 404:
            return MissingError(sentence)
        case 409 if reason == "AlreadyExists":
            return ExistsError(sentence)
        case 410:
            return StaleError(sentence)
        case 408 | 409 | 429:
            return UnreachableError(sentence)
        case status if status >= 500:
            return UnreachableError(sentence)
        case _:
            return LaunchError(sentence)
