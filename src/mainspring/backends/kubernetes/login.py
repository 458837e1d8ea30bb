"""How we log in at a cluster: by the kubeconfig's token, certificate or password, or a program that gives them (EKS, GKE, AKS).

Such a program is run when what it gave is about to run out, or is refused; nobody can answer it: it runs without a terminal.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import httpx2

from mainspring.backends.kubernetes.places import FILES, Place, renewal
from mainspring.core.errors import CredentialsError

try:
    from lightkube.config.client_adapter import user_auth, verify_cluster
    from lightkube.config.models import User
except ImportError:  # told by `places.find_place`
    if TYPE_CHECKING:
        raise

LIMIT_S = 20.0
EARLY = timedelta(seconds=60)  # so long before it runs out it is asked anew
KIND = "ExecCredential"
_OLD = {"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin convert-kubeconfig", "oidc": "kubelogin"}


def client(place: Place, timeout_s: float) -> httpx2.Client:
    """Return the client of a place: its authority, its proxy, and whoever we are there. Raises CredentialsError."""
    user = place.config.user or User()
    old = place.user.get("auth-provider")
    if isinstance(old, dict):
        name = str(old.get("name"))
        raise CredentialsError(
            f"Context {place.context!r} logs in by the provider {name!r} that kubectl has dropped.",
            hint=f"Write its kubeconfig anew by today's program: {_OLD.get(name, 'ask your administrator')}",
        )
    try:
        _check_files(place)
        context = verify_cluster(place.config.cluster, user, place.config.abs_file)
    except (OSError, ValueError, TypeError) as wrong:
        raise unusable(place, wrong) from wrong
    program = place.user.get("exec")
    auth: httpx2.Auth | None
    if isinstance(program, dict) and not user.token and not user.token_file:
        auth = Program(program, place.cluster, context)
    else:
        auth = user_auth(user)
    proxy = str(place.cluster.get("proxy-url") or "") or None
    try:
        return httpx2.Client(base_url=place.url, verify=context, auth=auth, timeout=httpx2.Timeout(timeout_s), proxy=proxy)
    except (ImportError, ValueError, httpx2.InvalidURL) as wrong:
        raise CredentialsError(f"The proxy {proxy} of context {place.context!r} cannot be used: {wrong}.") from wrong


def unusable(place: Place, wrong: Exception) -> CredentialsError:
    """Return our error for what a kubeconfig says and cannot be used."""
    return CredentialsError(f"Context {place.context!r} cannot be used: {wrong}.", hint=f"Log in anew: {renewal(place)}")


def _check_files(place: Place) -> None:
    """Raise OSError or ValueError that names what a kubeconfig leads to and cannot be read, as OpenSSL does not."""
    for told in (place.cluster, place.user):
        for name in FILES:
            path = str(told.get(name) or "")
            if not path:
                continue
            try:
                with open(path, "rb"):
                    pass
            except OSError as wrong:
                raise OSError(f"its {name} {path} cannot be read ({wrong.strerror})") from wrong
    has = [any(f"client-{what}{more}" in place.user for more in ("", "-data")) for what in ("certificate", "key")]
    if has[0] != has[1]:
        raise ValueError("a certificate and its key belong together, and one of them is missing")


@dataclass(slots=True)
class Program(httpx2.Auth):
    """Logs in by a program of the kubeconfig's. Thread safe: it runs once for all that wait for it."""

    told: Mapping[str, object]
    cluster: Mapping[str, object]
    context: ssl.SSLContext
    _token: str = ""
    _expires_at: datetime | None = None
    _has_answer: bool = False
    _runs: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Send the request as whoever the program says that we are; once more when that is refused."""
        runs = self._fresh(None)
        self._sign(request)
        answer = yield request
        if answer.status_code == 401:
            self._fresh(runs)
            self._sign(request)
            yield request

    def _sign(self, request: httpx2.Request) -> None:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"

    def _fresh(self, refused: int | None) -> int:
        """Run the program if what is known has run out, or is the answer of run `refused`; return how often it has run."""
        with self._lock:
            is_over = self._expires_at is not None and datetime.now(UTC) > self._expires_at - EARLY
            if not self._has_answer or is_over or refused == self._runs:
                self._take(run_program(self.told, self.cluster))
            return self._runs

    def _take(self, status: Mapping[str, object]) -> None:
        self._token = str(status.get("token") or "")
        certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
        if certificate and key:
            load_certificate(self.context, str(certificate), str(key))
        moment = status.get("expirationTimestamp")
        ends = datetime.fromisoformat(str(moment)) if moment else None
        self._expires_at = ends.replace(tzinfo=UTC) if ends is not None and ends.tzinfo is None else ends
        self._has_answer = True
        self._runs += 1


def run_program(told: Mapping[str, object], cluster: Mapping[str, object]) -> Mapping[str, object]:
    """Return the status of the ExecCredential that a program prints. Raises CredentialsError with what it said."""
    command = str(told.get("command", ""))
    words = [command, *(str(one) for one in cast("Sequence[object]", told.get("args") or ()))]
    more = {str(one["name"]): str(one["value"]) for one in cast("Sequence[Mapping[str, object]]", told.get("env") or ())}
    env = {**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(_info(told, cluster))}
    try:
        done = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except FileNotFoundError as wrong:
        hint = " ".join(str(told.get("installHint") or "").split()) or f"Install {command} beside the server."
        raise CredentialsError(f"The program {command} that logs in at the cluster is not there.", hint=hint) from wrong
    except subprocess.TimeoutExpired as wrong:
        raise CredentialsError(
            f"The program {command} that logs in at the cluster gave no answer within {LIMIT_S:g} s: it may wait for a person.",
            hint="Log in by hand once, or give the server an account of its own.",
        ) from wrong
    except (OSError, ValueError) as wrong:
        raise CredentialsError(f"The program {command!r} that logs in at the cluster cannot be run: {wrong}.") from wrong
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1][:300]
        raise CredentialsError(
            f"The program {command} that logs in at the cluster failed with {done.returncode}: {last}", hint=f"Try: {words[0]}"
        )
    try:
        status = json.loads(done.stdout)["status"]
        moment = status.get("expirationTimestamp")
        is_whole = bool(status.get("token")) or bool(status.get("clientCertificateData") and status.get("clientKeyData"))
        datetime.fromisoformat(str(moment or "2000-01-01"))
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise CredentialsError(f"The program {command} that logs in at the cluster prints no {KIND}.") from wrong
    if not is_whole:
        raise CredentialsError(f"The program {command} that logs in at the cluster gave neither a token nor a certificate.")
    return cast("Mapping[str, object]", status)


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Show this certificate (PEM) at each new connection. The files that OpenSSL wants are ours alone, and gone at once."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("certificate", "key")]
        for path, text in zip(paths, (certificate, key), strict=True):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(text)
        try:
            context.load_cert_chain(*paths)
        except (ssl.SSLError, OSError) as wrong:
            raise CredentialsError(f"The certificate of the program that logs in cannot be used: {wrong}.") from wrong


def _info(told: Mapping[str, object], cluster: Mapping[str, object]) -> dict[str, object]:
    spec: dict[str, object] = {"interactive": False}
    if told.get("provideClusterInfo"):
        data = cluster.get("certificate-authority-data")
        file = cluster.get("certificate-authority")
        if not data and file:
            with open(str(file), "rb") as read:
                data = base64.b64encode(read.read()).decode()
        spec["cluster"] = {
            key: value
            for key, value in (
                ("server", cluster.get("server")),
                ("tls-server-name", cluster.get("tls-server-name")),
                ("insecure-skip-tls-verify", cluster.get("insecure-skip-tls-verify")),
                ("certificate-authority-data", data),
                ("proxy-url", cluster.get("proxy-url")),
            )
            if value
        }
    return {"apiVersion": told.get("apiVersion"), "kind": KIND, "spec": spec}
