"""The rights that the backend needs: one Role in one name space, as an operator applies it, and what of it is missing. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from mainspring.backends.kubernetes.api import Json

RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", ("get", "list", "watch", "delete")),
    ("", "secrets", ("create", "patch", "delete")),
    ("", "configmaps", ("create",)),
    ("", "resourcequotas", ("list",)),
    ("", "events", ("list",)),
)
# Two that help and are not needed: nodes and others' pods are seen one by one then, instead of a quota.
OPTIONAL: tuple[tuple[str, str, tuple[str, ...]], ...] = (("", "nodes", ("list",)), ("", "pods", ("list",)))


def role(namespace: str) -> str:
    """Return the Role as YAML."""
    lines = [
        "apiVersion: rbac.authorization.k8s.io/v1",
        "kind: Role",
        f"metadata: {{name: mainspring, namespace: {namespace}}}",
        "rules:",
    ]
    for group, resource, verbs in RULES:
        lines.append(f'- {{apiGroups: ["{group}"], resources: [{resource}], verbs: [{", ".join(verbs)}]}}')
    return "\n".join(lines) + "\n"


def mending(namespace: str, user: str = "", space: str = "") -> str:
    """Return the commands by which an administrator of the name space gives the rights to whoever we are there.

    `space` is the command that makes the name space, where it may be missing too: without any right nobody can tell.
    """
    account = user.removeprefix("system:serviceaccount:")
    whom = f"--serviceaccount {account}" if account != user else f"--user {shlex.quote(user or 'USER')}"
    binding = f"kubectl create rolebinding mainspring --namespace {namespace} --role mainspring {whom}"
    first = f"kubectl get namespace {namespace} || {space}\n" if space else ""
    return f"{first}kubectl apply -f - <<'END'\n{role(namespace)}END\n{binding}"


def space_command(flavour: str, namespace: str) -> str:
    """Return the command that makes the name space: in OpenShift it is asked for as a project."""
    return f"oc new-project {namespace}" if flavour == "OpenShift" else f"kubectl create namespace {namespace}"


def asked(namespace: str) -> Json:
    """Return the question which rights we have in the name space."""
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}


def missing(review: Mapping[str, object]) -> list[str]:
    """Return what of `RULES` an answer to `asked` does not have, as `create jobs.batch`. Empty when the answer is incomplete."""
    status = review.get("status")
    if not isinstance(status, dict) or status.get("incomplete"):
        return []
    given = [one for one in status.get("resourceRules", ()) if not one.get("resourceNames")]
    return [
        f"{verb} {resource}{'.' if group else ''}{group}"
        for group, resource, verbs in RULES
        for verb in verbs
        if not any(_gives(rule, group, resource, verb) for rule in given)
    ]


def all_rights() -> int:
    """Return how many rights the Role gives."""
    return sum(len(verbs) for _, _, verbs in RULES)


def _gives(rule: Mapping[str, Sequence[str]], group: str, resource: str, verb: str) -> bool:
    return all(
        "*" in rule.get(name, ()) or word in rule.get(name, ())
        for name, word in (("apiGroups", group), ("resources", resource), ("verbs", verb))
    )
