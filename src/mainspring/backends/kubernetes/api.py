"""The door to Kubernetes' API: finds the cluster by kubeconfig or from inside a pod, sends JSON, tells refusals as our errors.

lightkube finds the address, the authority and the credentials (tokens, certificates, exec plug-ins); objects stay JSON values.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import httpx2
import msgspec

from mainspring.core.errors import CapacityError, CredentialsError, LaunchError, UnreachableError

try:
    from lightkube.config.client_adapter import Client, ConnectionParams
    from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, KubeConfig, SingleConfig
    from lightkube.config.models import User
    from lightkube.core.exceptions import ConfigError
except ImportError:  # told where a cluster is looked for: the options of this kind can be read without
    HAS_LIBRARY = False
else:
    HAS_LIBRARY = True

TIMEOUT_S = 10.0
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MICROK8S = Path("/var/snap/microk8s/current/credentials/client.config")
MERGE_PATCH = "application/merge-patch+json"
Json = dict[str, object]


class Place(NamedTuple):
    """Where the API is: its address, the name of the context that told so, the name space, and how to log in.

    `source` is the kubeconfig that has the context; empty inside a pod.
    """

    url: str
    context: str
    namespace: str
    config: SingleConfig
    source: str = ""


class MissingError(Exception):
    """There is no such object, or no such kind of object. Stays within this backend."""


class ExistsError(Exception):
    """The object is there already. Stays within this backend."""


class StaleError(Exception):
    """What changed since then is not kept any more: list anew. Stays within this backend."""


def find_place(config: Mapping[str, object], service_account: Path = SERVICE_ACCOUNT) -> Place:
    """Return the place that the options name, else the one that kubectl would take, else the pod's own cluster.

    Raises CredentialsError when there is none.
    """
    if not HAS_LIBRARY:
        raise CredentialsError(
            "The library for Kubernetes is not beside the server.", hint='pip install "mainspring[kubernetes]"'
        )
    path = str(config.get("kubeconfig") or "")
    context = str(config.get("context") or "") or None
    try:
        found = cast(
            "SingleConfig", _kubeconfig(path, service_account, is_named=context is not None).get(context)
        )  # None only as its default
    except (ConfigError, KeyError, OSError, ValueError, msgspec.ValidationError) as wrong:
        told = f"there is no {wrong}" if isinstance(wrong, KeyError) else wrong
        raise CredentialsError(
            f"The server finds no Kubernetes cluster: {told}.",
            hint="Name it: mainspring cluster add kubernetes --kubeconfig FILE --context NAME",
        ) from wrong
    namespace = str(config.get("namespace") or "") or found.namespace
    user = found.user or User()
    if user.exec is not None and str(user.exec.apiVersion).endswith("/v1"):
        plugin = msgspec.structs.replace(user.exec, apiVersion="client.authentication.k8s.io/v1beta1")  # answers alike
        user = msgspec.structs.replace(user, exec=plugin)
    source = str(found.fname.absolute()) if found.fname is not None else ""
    return Place(str(found.cluster.server), str(found.context_name), namespace, found._replace(user=user), source)


def stamp_of(source: str) -> tuple[int, int]:
    """Return what differs once a kubeconfig was written; zeros where there is none."""
    try:
        told = os.stat(source)
    except OSError:
        return (0, 0)
    return told.st_mtime_ns, told.st_ino


def _kubeconfig(path: str, service_account: Path, *, is_named: bool) -> KubeConfig:
    if path:
        return KubeConfig.from_file(path)
    if not is_named and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        return KubeConfig.from_service_account(service_account)
    usual = Path(os.environ.get("KUBECONFIG", "").partition(os.pathsep)[0] or DEFAULT_KUBECONFIG).expanduser()
    return KubeConfig.from_file(MICROK8S if not usual.is_file() and MICROK8S.is_file() else usual)


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

    def create(self, path: str, body: Json) -> Json:
        """Create an object. Raises ExistsError, CapacityError (a quota is used up), LaunchError, and as `get`."""
        return cast("Json", msgspec.json.decode(self._send("POST", path, body, {}).content))

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
        client = self._connected()
        limits = httpx2.Timeout(TIMEOUT_S, read=float(query["timeoutSeconds"]) + TIMEOUT_S)
        with _told(self.place), client.stream("GET", path, params={**query, "watch": "true"}, timeout=limits) as answer:
            if answer.status_code >= 300:
                answer.read()
                raise _refusal(answer)
            yield answer.iter_lines()  # type: ignore[misc]

    def _send(
        self, method: str, path: str, body: Json | None, query: Mapping[str, str], kind: str = "application/json"
    ) -> httpx2.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": kind} if content is not None else {}
        with _told(self.place):
            answer = self._connected().request(method, path, content=content, params=dict(query), headers=headers)
        if answer.status_code >= 300:
            raise _refusal(answer)
        return answer

    def _connected(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                with _told(self.place):
                    self._client = Client(self.place.config, ConnectionParams(timeout=httpx2.Timeout(TIMEOUT_S)))
            return self._client


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
                    hint="Name the authority: kubectl config set-cluster NAME --certificate-authority=FILE",
                ) from wrong
            cause = cause.__cause__ or cause.__context__
        raise UnreachableError(f"Kubernetes at {place.url} does not answer: {wrong or type(wrong).__name__}.") from wrong
    except (ConfigError, OSError) as wrong:
        raise CredentialsError(f"The credentials of context {place.context!r} cannot be had: {wrong}.") from wrong


def _refusal(answer: httpx2.Response) -> Exception:
    """Return our error for an answer that is a refusal."""
    try:
        told = msgspec.json.decode(answer.content)
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = answer.text[:300], ""
    sentence = f"Kubernetes refuses: {message or answer.status_code}"
    match answer.status_code:
        case 401:
            return CredentialsError("Kubernetes does not accept the credentials: they are wrong or have expired.")
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
