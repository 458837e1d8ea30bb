"""Where a cluster is: found as kubectl finds it, else where its distribution puts its kubeconfig, else the pod's own cluster.

lightkube reads what is in a kubeconfig; the files are found, merged and made absolute here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec

from mainspring.core.errors import CredentialsError

try:
    import yaml  # type: ignore[import-untyped]  # lightkube brings it
    from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, KubeConfig, SingleConfig
    from lightkube.core.exceptions import ConfigError as ConfigError
except ImportError:  # told where a cluster is looked for: the options of this kind can be read without
    HAS_LIBRARY = False
    if TYPE_CHECKING:
        raise

    class ConfigError(Exception):  # type: ignore[no-redef]
        """What nobody raises without the library."""

else:
    HAS_LIBRARY = True

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MICROK8S = Path("/var/snap/microk8s/current/credentials/client.config")
# Where distributions put theirs, and how whoever runs the server is let read it.
USUAL_PLACES: tuple[tuple[Path, str], ...] = (
    (MICROK8S, "sudo usermod -a -G microk8s $USER && newgrp microk8s"),
    (Path("/etc/rancher/k3s/k3s.yaml"), "sudo install -D -m 600 -o $USER /etc/rancher/k3s/k3s.yaml ~/.kube/config"),
    (Path("/etc/rancher/rke2/rke2.yaml"), "sudo install -D -m 600 -o $USER /etc/rancher/rke2/rke2.yaml ~/.kube/config"),
)
ADD = "mainspring cluster add kubernetes"
_LOGINS = {"aws": "aws sso login", "gke-gcloud-auth-plugin": "gcloud auth login", "kubelogin": "az login"}
_GIVING = {"microk8s": "microk8s config > ~/.kube/config", "minikube": "minikube update-context"}
_OF_OC = re.compile(r"[^/]+/[\w.-]+:\d+")  # how `oc login` calls users: developer/api-lab-example-com:6443
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
Named = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the API is: its address, the name of the context that told so, the name space, and how to log in.

    `source` is the kubeconfigs that have the context, joined as in KUBECONFIG; empty inside a pod. `cluster` and `user` are their
    entries there as they are: lightkube does not know all of them.
    """

    url: str
    context: str
    namespace: str
    config: SingleConfig
    source: str = ""
    cluster: Mapping[str, object] = field(default_factory=dict)
    user: Mapping[str, object] = field(default_factory=dict)


def find_place(
    config: Mapping[str, object],
    service_account: Path = SERVICE_ACCOUNT,
    usual: Sequence[tuple[Path, str]] = USUAL_PLACES,
) -> Place:
    """Return the place that the options name, else the one that kubectl would take, else the pod's own cluster.

    Raises CredentialsError when there is none, or when it cannot be read.
    """
    if not HAS_LIBRARY:
        raise CredentialsError(
            "The library for Kubernetes is not beside the server.", hint='pip install "mainspring[kubernetes]"'
        )
    context = str(config.get("context") or "")
    try:
        files = _files(str(config.get("kubeconfig") or ""), usual, may_be_inside=not context)
        if files is None:
            inside = cast("SingleConfig", KubeConfig.from_service_account(service_account).get())
            return _place(config, inside, "", {}, {})
        told = _merged(files, dict(usual))
        name = context or str(told.get("current-context") or "")
        _check_context(name, told, files, str(config.get("kubeconfig") or ""))
        found = cast("SingleConfig", KubeConfig.from_dict(told, fname=files[0]).get(name))
    except (ConfigError, KeyError, TypeError, AttributeError, ValueError, msgspec.ValidationError) as wrong:
        reason = f"there is no {wrong}" if isinstance(wrong, KeyError) else wrong
        raise CredentialsError(
            f"The server finds no Kubernetes cluster: {reason}.", hint=f"{ADD} --kubeconfig FILE --context NAME"
        ) from wrong
    source = os.pathsep.join(str(file.absolute()) for file in files)
    return _place(config, found, source, _entry(told, "cluster", found.context.cluster), _entry(told, "user", found.context.user))


def kubectl(place: Place, *command: str) -> str:
    """Return the command that asks the same cluster as the same user by hand."""
    named = ["--kubeconfig", place.source] if place.source and place.source != str(Path(DEFAULT_KUBECONFIG).expanduser()) else []
    return shlex.join(["kubectl", *named, *(["--context", place.context] if place.source else []), *command])


def renewal(place: Place) -> str:
    """Return the command by which a person gets credentials that are taken again, as this kind of cluster gives them."""
    program = place.user.get("exec")
    if isinstance(program, dict):
        command = str(program.get("command", ""))
        return _LOGINS.get(os.path.basename(command), command)
    if not place.source:
        return "kubectl get serviceaccount --namespace NAMESPACE-OF-THE-SERVER"
    if _OF_OC.fullmatch(str(place.config.context.user or "")):
        return shlex.join(["oc", "login", place.url])
    if urlsplit(place.url).path.startswith("/k8s/clusters/"):
        return f"{ADD} --kubeconfig FILE-THAT-RANCHER-GIVES"
    if place.context in _GIVING:
        return _GIVING[place.context]
    has_certificate = any(name in place.user for name in ("client-certificate", "client-certificate-data"))
    fresh = "--client-certificate=FILE --client-key=FILE" if has_certificate else "--token=TOKEN"
    return f"{kubectl(place, 'config', 'set-credentials', str(place.config.context.user))} {fresh}"


def stamp_of(source: str) -> tuple[tuple[int, int], ...]:
    """Return what differs once one of the kubeconfigs was written; zeros where there is none."""
    found = []
    for path in source.split(os.pathsep):
        try:
            told = os.stat(path)
        except OSError:
            found.append((0, 0))
        else:
            found.append((told.st_mtime_ns, told.st_ino))
    return tuple(found)


def _place(
    config: Mapping[str, object], found: SingleConfig, source: str, cluster: Mapping[str, object], user: Mapping[str, object]
) -> Place:
    namespace = str(config.get("namespace") or "") or found.namespace
    if not _is_address(str(found.cluster.server)):
        raise CredentialsError(
            f"{str(found.cluster.server)[:200]!r}, the server of context {found.context_name!r}, is no address.",
            hint=shlex.join(["kubectl", "config", "set-cluster", str(found.context.cluster), "--server=https://HOST:6443"]),
        )
    if not _NAME.fullmatch(namespace):
        raise CredentialsError(
            f"{namespace[:80]!r} is no name of a name space: small letters, digits and hyphens, 63 at most.",
            hint="Name one of these: kubectl get namespaces",
        )
    return Place(
        url=str(found.cluster.server),
        context=str(found.context_name),
        namespace=namespace,
        config=found,
        source=source,
        cluster=cluster,
        user=user,
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _files(named: str, usual: Sequence[tuple[Path, str]], *, may_be_inside: bool) -> list[Path] | None:
    """Return the kubeconfigs, the first one first; None for the service account of the pod that the server runs in."""
    if named:
        return [Path(one).expanduser() for one in named.split(os.pathsep) if one]
    listed = [Path(one).expanduser() for one in os.environ.get("KUBECONFIG", "").split(os.pathsep) if one]
    if not listed and may_be_inside and "KUBERNETES_SERVICE_HOST" in os.environ:
        return None
    there = [one for one in (listed or [Path(DEFAULT_KUBECONFIG).expanduser()]) if one.exists()]
    if there:
        return there
    others = [path for path, _ in usual if path.exists()]
    if others:
        return others[:1]
    where = ", ".join(map(str, listed)) or DEFAULT_KUBECONFIG
    raise ConfigError(f"there is no kubeconfig ({where})")


def _merged(files: Sequence[Path], usual: Mapping[Path, str]) -> dict[str, object]:
    """Return kubeconfigs as one, as kubectl merges them: the first that names something wins. Paths in them become absolute."""
    told: dict[str, object] = {"clusters": [], "users": [], "contexts": []}
    for file in files:
        one = _read(file, usual.get(file, f"ls -l {file}"))
        told["current-context"] = told.get("current-context") or one.get("current-context")
        for kind in ("clusters", "users", "contexts"):
            known = cast("list[Named]", told[kind])
            names = {entry["name"] for entry in known}
            for entry in cast("list[Named]", one.get(kind) or []):
                if entry.get("name") not in names:
                    known.append(_absolute(entry, kind.removesuffix("s"), file.absolute().parent))
    return told


def _read(file: Path, let_read: str) -> dict[str, object]:
    try:
        told = yaml.safe_load(file.read_text())
    except FileNotFoundError as wrong:
        raise ConfigError(f"there is no kubeconfig {file}") from wrong
    except PermissionError as wrong:
        raise CredentialsError(f"The server may not read the kubeconfig {file}.", hint=let_read) from wrong
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(wrong).split())[:200]}") from wrong
    if not isinstance(told, dict) or not told.get("clusters"):
        raise ConfigError(f"{file} is no kubeconfig: it names no clusters")
    return told


def _absolute(entry: Named, kind: str, folder: Path) -> Named:
    inner = dict(cast("Named", entry.get(kind) or {}))
    for name in FILES:
        if inner.get(name):
            inner[name] = str(folder / str(inner[name]))
    program = inner.get("exec")
    if isinstance(program, dict) and os.sep in str(program.get("command", "")):
        inner["exec"] = {**program, "command": str(folder / str(program["command"]))}
    return {**entry, kind: inner}


def _check_context(name: str, told: Mapping[str, object], files: Sequence[Path], named: str) -> None:
    """Raise CredentialsError, with the contexts that there are, unless `name` is one of them."""
    there = [str(one["name"]) for one in cast("list[Named]", told["contexts"])]
    if name in there:
        return
    where = ", ".join(map(str, files))
    if not there:
        raise ConfigError(f"{where} has no context")
    what = f"There is no context {name!r} in {where}" if name else f"{where} names no current context"
    words = shlex.join([*(["--kubeconfig", named] if named else []), "--context", there[0]])
    raise CredentialsError(f"{what}; there are: {', '.join(there[:20])}.", hint=f"{ADD} {words}")


def _entry(told: Mapping[str, object], kind: str, name: str | None) -> Mapping[str, object]:
    found = next((one for one in cast("list[Named]", told[f"{kind}s"]) if one["name"] == name), {})
    return cast("Mapping[str, object]", found.get(kind) or {})
