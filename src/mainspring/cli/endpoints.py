"""Endpoints on the command line."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from mainspring.cli.connecting import connect
from mainspring.cli.options import Json, Project, Yes
from mainspring.cli.output import age, done, emit_json, facts, note, say, state, table
from mainspring.cli.questions import confirm
from mainspring.cli.submit import busy
from mainspring.core.codec import decode_any
from mainspring.core.errors import StateError, UsageError
from mainspring.sdk.deploy import Endpoint
from mainspring.sdk.deploy import deploy as deploy_model
from mainspring.sdk.resources import to_seconds


def deploy(
    model: str,
    /,
    *,
    name: str = "",
    replicas: int = 1,
    pool: str | None = None,
    project: Project = "default",
    detach: Annotated[bool, Parameter(name=["--detach", "-d"], negative=())] = False,
    timeout: str = "2m",
    as_json: Json = False,
) -> None:
    """Serve a model version under a name: `mainspring deploy delays@champion --name delays`.

    Parameters
    ----------
    name
        The endpoint's name; default the model's.
    replicas
        How many processes serve it.
    pool
        The pool whose nodes serve it; default where it is served now, "" for any.
    detach
        Do not wait until it is ready.
    timeout
        How long to wait until it is ready. It goes on afterwards.
    """
    called = name or model.partition("@")[0]
    limit_s = to_seconds(timeout, "--timeout")
    try:
        with busy(f"Deploying {called}", is_quiet=as_json):
            endpoint = deploy_model(
                model, name=called, replicas=replicas, pool=pool, project=project, wait=not detach, timeout=limit_s
            )
    except TimeoutError as late:
        told = f"mainspring endpoint show {called}; mainspring why serve-{called}"
        raise StateError(str(late), hint=f"It is still being brought up: {told}") from late
    if as_json:
        emit_json(endpoint.view)
        return
    view = endpoint.view
    shown = view.endpoint
    say(f"{called} {'will serve' if detach else 'serves'} {model} (revision {shown.revision}) at {endpoint.url}")
    if view.serves_in:
        note(f"Its replicas run in {view.serves_in}.")
    note(f"""Try it: mainspring endpoint predict {called} '[{{"FIELD": 1.0}}]'""")


def ls(*, project: Project = "default", as_json: Json = False) -> None:
    """List endpoints.

    Example: `mainspring endpoint ls`.
    """
    found = connect().endpoints.all(project=project)
    if as_json:
        emit_json(found)
        return
    rows = [
        (
            state(one.state),
            one.name,
            str(one.revision),
            str(one.replicas),
            str(one.requests),
            str(one.errors),
            age(one.created_at),
            one.message,
        )
        for one in found
    ]
    columns = ("state", "name", "revision", "replicas", "requests", "errors", "age", "message")
    table(columns, rows, empty="No endpoints yet: mainspring deploy MODEL@ALIAS --name NAME")


def show(name: str, /, *, project: Project = "default", as_json: Json = False) -> None:
    """Show an endpoint: its state, revisions, and where it answers.

    Example: `mainspring endpoint show delays`.
    """
    client = connect()
    view = client.endpoints.get(name, project=project)
    if as_json:
        emit_json(view)
        return
    one = view.endpoint
    facts(
        (
            ("State", state(one.state)),
            ("Message", one.message),
            ("Revision", str(one.revision)),
            ("Requests", f"{one.requests}, {one.errors} failed"),
            ("Address", Endpoint(client, name, project).url),
            ("Replicas", ", ".join(view.addresses)),
            ("Serves in", view.serves_in),
        )
    )
    say("")
    rows = [
        (str(each.number), f"{each.model}@{each.model_version}", each.pool or "any", age(each.created_at), each.created_by)
        for each in view.revisions
    ]
    table(("revision", "model", "pool", "age", "by"), rows)


def predict(
    name: str,
    records: str = "-",
    /,
    *,
    project: Project = "default",
    as_json: Json = False,  # noqa: ARG001 (predictions are JSON for people too)
) -> None:
    """Send records and print predictions: `mainspring endpoint predict delays '[{"distance": 733}]'`, or by stdin.

    Parameters
    ----------
    records
        A JSON object or list of objects; `-` reads them from stdin.
    """
    plain = decode_any(sys.stdin.read() if records == "-" else records)
    rows = [plain] if isinstance(plain, dict) else plain
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError("Records are a JSON object or a list of objects.", hint="""'[{"distance": 733}]'""")
    predictions, _ = connect().endpoints.predict(name, rows, project=project)
    emit_json(predictions)


def rollback(name: str, /, *, to: int | None = None, project: Project = "default", as_json: Json = False) -> None:
    """Serve an earlier revision's model again.

    Examples: `mainspring endpoint rollback delays`, `mainspring endpoint rollback delays --to 2`.

    Parameters
    ----------
    to
        The revision; default the one before.
    """
    back = connect().endpoints.rollback(name, to=to, project=project)
    if as_json:
        emit_json(back)
    else:
        say(f"{name} goes to revision {back.revision}.")


def rm(name: str, /, *, project: Project = "default", yes: Yes = False, as_json: Json = False) -> None:
    """Stop serving; the history stays.

    Example: `mainspring endpoint rm delays --yes`.
    """
    confirm(f"Stop endpoint {name}?", is_yes=yes)
    connect().endpoints.stop(name, project=project)
    done({"stopped": name, "project": project}, f"{name} is stopped.", as_json=as_json)
