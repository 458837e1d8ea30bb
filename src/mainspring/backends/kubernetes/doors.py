"""Ports of a run that the cluster itself leads to: a Service, and a Route where there are any (OpenShift). They go with its Job.

`mainspring port` needs none of this: it goes through the runner's own connection, and asks who comes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from mainspring.backends.kubernetes.api import Api, ExistsError, Json, MissingError
from mainspring.core.errors import CredentialsError, LaunchError

PORTS = "mainspring/ports"  # the annotation of a Job that has doors
ROUTES = "/apis/route.openshift.io/v1"
_RIGHTS = "--verb=create,get,patch --resource=services,routes.route.openshift.io"


def ports_of(asked: object) -> tuple[int, ...]:
    """Return the ports of `--override kubernetes.port=8888,6006`. Raises LaunchError for what is none."""
    words = asked if isinstance(asked, list | tuple) else str(asked or "").split(",")
    found = []
    for word in (str(one).strip() for one in words):
        if word and not (word.isdecimal() and 0 < int(word) < 65536):
            raise LaunchError(f"Kubernetes: {word[:40]!r} is no port.", hint="--override kubernetes.port=8888")
        found += [int(word)] if word else []
    return tuple(dict.fromkeys(found))


def service(name: str, marks: Mapping[str, str], ports: Sequence[int]) -> Json:
    """Return the Service that leads to the pod with these labels."""
    told = [{"name": f"port-{port}", "port": port, "targetPort": port} for port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": dict(marks)},
        "spec": {"selector": dict(marks), "ports": told},
    }


def route(name: str, marks: Mapping[str, str], port: int) -> Json:
    """Return the Route to one port: OpenShift gives it a host, and its router speaks TLS there."""
    return {
        "apiVersion": "route.openshift.io/v1",
        "kind": "Route",
        "metadata": {"name": f"{name}-{port}", "labels": dict(marks)},
        "spec": {
            "to": {"kind": "Service", "name": name},
            "port": {"targetPort": f"port-{port}"},
            "tls": {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"},
        },
    }


def open_doors(api: Api, name: str, marks: Mapping[str, str], ports: Sequence[int], *, has_routes: bool) -> tuple[str, ...]:
    """Create what leads to the ports, unless it is there; return its paths. Raises LaunchError without the right."""
    space = f"namespaces/{api.place.namespace}"
    services, routes = f"/api/v1/{space}/services", f"{ROUTES}/{space}/routes"
    asked = [(services, name, service(name, marks, ports))]
    asked += [(routes, f"{name}-{port}", route(name, marks, port)) for port in ports if has_routes]
    try:
        for path, _, body in asked:
            with contextlib.suppress(ExistsError):
                api.create(path, body)
    except CredentialsError as wrong:
        namespace = api.place.namespace
        raise LaunchError(
            f"A port that the cluster leads to needs more rights than runs do. {wrong.message}",
            hint=f"kubectl create role mainspring-ports --namespace {namespace} {_RIGHTS}, bound as the Role mainspring is",
        ) from wrong
    return paths(api, name, ports, has_routes=has_routes)


def paths(api: Api, name: str, ports: Sequence[int], *, has_routes: bool) -> tuple[str, ...]:
    """Return where the Service is, and the Routes to its ports."""
    space = f"namespaces/{api.place.namespace}"
    routes = [f"{ROUTES}/{space}/routes/{name}-{port}" for port in ports if has_routes]
    return (f"/api/v1/{space}/services/{name}", *routes)


def addresses(api: Api, name: str, ports: Sequence[int]) -> dict[str, str]:
    """Return where each port is: the Route's address, else the Service's name within the cluster."""
    space = f"namespaces/{api.place.namespace}"
    found = {}
    for port in ports:
        host = ""
        with contextlib.suppress(MissingError, CredentialsError):
            spec = api.get(f"{ROUTES}/{space}/routes/{name}-{port}").get("spec")
            host = str(spec.get("host") or "") if isinstance(spec, dict) else ""
        found[str(port)] = f"https://{host}" if host else f"{name}.{api.place.namespace}.svc:{port}"
    return found
