"""The table of commands. Each is loaded when it is called; `--help` loads them all."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter

import mainspring
from mainspring.cli.output import note
from mainspring.core.errors import MainspringError, UsageError

RUNS, DATA, FLEET, PEOPLE = Group("Runs"), Group("Data and models"), Group("Server and fleet"), Group("People")

COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("run", "submit:run", RUNS, "Run a script or a program and follow its log."),
    ("ps", "runs:ps", RUNS, "List runs, and why they wait."),
    ("logs", "runs:logs", RUNS, "Print or follow a run's log."),
    ("why", "runs:why", RUNS, "Tell why a run is where it is."),
    ("forecast", "forecasts:forecast", RUNS, "Say when a run will start, or would."),
    ("what-if", "forecasts:what_if", RUNS, "Compare ways to ask for a run before it is submitted."),
    ("show", "runs:show", RUNS, "Show everything about a run."),
    ("native", "native:native", RUNS, "Show the engine's own objects of a run."),
    ("shell", "inside:shell", RUNS, "Open a shell, or run a command, inside a running run."),
    ("port", "inside:port", RUNS, "Reach a port inside a running run from this machine."),
    ("cancel", "runs:cancel", RUNS, "Cancel runs."),
    ("rerun", "runs:rerun", RUNS, "Run it again, with changes."),
    ("verify", "verify:verify", RUNS, "Compute a run again and compare its results."),
    ("pull", "runs:pull", RUNS, "Fetch what a run returned and wrote."),
    ("pause", "runs:pause", RUNS, "Hold runs."),
    ("resume", "runs:resume", RUNS, "Let paused runs go on."),
    ("checkpoint", "runs:checkpoint", RUNS, "Ask running code for a checkpoint."),
    ("tag", "runs:tag", RUNS, "Tag a run."),
    ("priority", "runs:priority", RUNS, "Let a waiting run go earlier or later in its share."),
    ("archive", "runs:archive", RUNS, "Put ended runs out of sight."),
    ("rm", "runs:rm", RUNS, "Delete ended runs."),
    ("sweep", "sweeps:sweep", RUNS, "Run many trials and look for the best."),
    ("deploy", "endpoints:deploy", DATA, "Serve a model under a name."),
    ("up", "server:up", FLEET, "Start the server with its web page."),
    ("down", "server:down", FLEET, "Stop the server; runs go on."),
    ("status", "server:status", FLEET, "Show where the server is and what it does."),
    ("doctor", "doctor:doctor", FLEET, "Look at what goes wrong most often."),
    ("ui", "server:ui", FLEET, "Open the web page."),
    ("share", "shares:share", PEOPLE, "Show who holds and is owed what, or configure a share."),
    ("usage", "shares:usage", PEOPLE, "Tell what was used in a month, and what it cost."),
    ("backup", "server:backup", FLEET, "Copy the database while the server runs."),
    ("restore", "server:restore", FLEET, "Put a backup in place."),
    ("adopt", "clusters:adopt", FLEET, "Take in runners that outlived a restored backup."),
    ("login", "people:login", PEOPLE, "Use a server elsewhere."),
    ("completion", "completion:completion", FLEET, "Print the completion script of a shell."),
)
GROUPS: tuple[tuple[str, str, Group, tuple[tuple[str, str], ...]], ...] = (
    ("data", "Data sets: add, list, show, pull.", DATA, (
        ("add", "datasets:add"), ("ls", "datasets:ls"), ("show", "datasets:show"), ("pull", "datasets:pull"),
    )),
    ("pipeline", "Pipeline runs: list, show, go on after a failure, cancel.", RUNS, (
        ("ls", "pipelines:ls"), ("show", "pipelines:show"), ("retry", "pipelines:retry"), ("cancel", "pipelines:cancel"),
    )),
    ("model", "Models: list, show, alias.", DATA, (("ls", "models:ls"), ("show", "models:show"), ("alias", "models:alias"))),
    ("endpoint", "Endpoints: list, show, predict, roll back, remove.", DATA, (
        ("ls", "endpoints:ls"), ("show", "endpoints:show"), ("predict", "endpoints:predict"),
        ("rollback", "endpoints:rollback"), ("rm", "endpoints:rm"),
    )),
    ("cluster", "Clusters and their nodes.", FLEET, (
        ("add", "clusters:add"), ("kinds", "clusters:kinds"), ("ls", "clusters:ls"), ("show", "clusters:show"),
        ("check", "clusters:check"), ("drain", "clusters:drain"), ("resume", "clusters:resume"), ("rm", "clusters:rm"),
    )),
    ("node", "What an operator declares about a node.", FLEET, (
        ("drain", "clusters:drain"), ("resume", "clusters:resume"), ("dead", "clusters:dead"),
    )),
    ("policy", "The rules by which plans are made.", FLEET, (
        ("show", "policies:show"), ("check", "policies:check"), ("set", "policies:change"), ("history", "policies:history"),
        ("rehearse", "policies:rehearse"),
    )),
    ("plan", "Recorded plans: shown, and made again.", FLEET, (("show", "plans:show"), ("replay", "plans:replay"))),
    ("env", "Environments: what runs ran with, what nodes keep.", FLEET, (
        ("ls", "environments:ls"), ("show", "environments:show"), ("export", "environments:export"),
        ("prune", "environments:prune"),
    )),
    ("machine", "Rented machines and what they cost.", FLEET, (
        ("ls", "machines:machine_ls"), ("give-back", "machines:machine_give_back"),
    )),
    ("reservation", "Resources kept for a share in a window.", FLEET, (
        ("ls", "shares:reservation_ls"), ("add", "shares:reservation_add"), ("rm", "shares:reservation_rm"),
    )),
    ("user", "Users.", PEOPLE, (("ls", "people:user_ls"), ("add", "people:user_add"), ("edit", "people:user_edit"))),
    ("project", "Projects and their members.", PEOPLE, (
        ("ls", "people:project_ls"), ("add", "people:project_add"), ("show", "people:project_show"),
        ("edit", "people:project_edit"),
        ("grant", "people:project_grant"), ("revoke", "people:project_revoke"),
    )),
    ("token", "API tokens.", PEOPLE, (("ls", "people:token_ls"), ("add", "people:token_add"), ("rm", "people:token_rm"))),
    ("secret", "Secrets: a value goes in and never comes out.", PEOPLE, (
        ("ls", "people:secret_ls"), ("set", "people:secret_set"), ("rm", "people:secret_rm"),
    )),
)  # fmt: skip
# What the same is called elsewhere, and here.
ELSEWHERE = {
    **dict.fromkeys(("list", "ls", "jobs", "runs", "queue", "squeue"), "ps"),
    **dict.fromkeys(("submit", "exec", "sbatch"), "run"),
    **dict.fromkeys(("stop", "kill", "abort", "scancel"), "cancel"),
    **dict.fromkeys(("wait", "follow", "attach", "tail", "watch"), "logs -f"),
    **dict.fromkeys(("delete", "remove"), "rm"),
    **dict.fromkeys(("start", "init"), "up"),
    **dict.fromkeys(("shutdown", "quit"), "down"),
    **dict.fromkeys(("web", "dashboard", "open"), "ui"),
    **dict.fromkeys(("info", "describe", "inspect"), "show"),
    **dict.fromkeys(("nodes", "gpus", "machines", "sinfo"), "cluster ls"),
    **dict.fromkeys(("dataset", "datasets"), "data ls"),
    "models": "model ls",
    "endpoints": "endpoint ls",
    "predict": "endpoint predict",
    **dict.fromkeys(("retry", "restart"), "rerun"),
    **dict.fromkeys(("logout", "auth", "signin"), "login"),
}
_EPILOGUE = """**Examples**

`mainspring run train.py --gpus 1 -- --lr 3e-4` runs any script on the fleet, as its files are now.

`mainspring ps`, `mainspring why RUN`, `mainspring logs -f RUN` tell what happens; RUN is a name or the end of an id.

`mainspring up` starts a server with its web page on this machine, `mainspring ui` opens it.

Exit codes: 0 done, 1 failed, 2 usage, 3 rights, 4 not found, 5 conflict, 6 cannot be had, 7 no server, 130 interrupted."""


def build_app(*, is_root: bool = False, listed: str = "") -> App:
    """Return the command line; commands are strings until they are called. For the root's help alone, none is loaded.

    `listed` is a group whose own help is wanted: its commands are loaded, for the first sentence of each.
    """
    app = App(
        name="mainspring",
        help="One fair queue over every machine, from the first script to the monitored endpoint.",
        help_epilogue=_EPILOGUE,
        help_format="markdown",
        version=mainspring.__version__,
        version_flags=["--version", "-V"],
        default_parameter=Parameter(negative=(), show_default=False),
    )
    for name, target, group, text in COMMANDS:
        app.command(f"mainspring.cli.{target}", name=name, group=group, help_epilogue="", help=text if is_root else None)
    for name, text, group, members in GROUPS:
        inner = App(name=name, help=text, group=group, help_epilogue="")
        for word, target in members:
            said = _first_sentence(target) if name == listed else None
            inner.command(f"mainspring.cli.{target}", name=word, help=said)
        app.command(inner)
    app.command("mainspring.cli.server:serve", name="server", show=False)
    return app


def _first_sentence(target: str) -> str:
    module, _, function = target.partition(":")
    return (getattr(import_module(f"mainspring.cli.{module}"), function).__doc__ or "").partition("\n")[0]


def dispatch(words: list[str]) -> int:
    """Run one command; return its exit code."""
    is_help = not words[1:] or words[1:] in (["--help"], ["-h"])
    app = build_app(is_root=words in ([], ["--help"], ["-h"]), listed=words[0] if words and is_help else "")
    try:
        code = app(words or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as wrong:
        wrong_usage(_what_is_wrong(wrong, words), words)
        return UsageError.exit_code
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as wrong:  # the top of the program
        return explain(wrong)
    return code if isinstance(code, int) else 0


def _what_is_wrong(wrong: CycloptsError, words: list[str]) -> str:
    """Return what the command line got wrong; what is missing is called as in the help."""
    if isinstance(wrong, MissingArgumentError) and wrong.argument is not None and wrong.argument.field_info.is_positional:
        given = [word for word in words if not word.startswith("-")][: 2 if words[0] in {name for name, *_ in GROUPS} else 1]
        return f"mainspring {' '.join(given)} needs {wrong.argument.field_info.name.upper()}."
    return str(wrong)


def explain(wrong: Exception) -> int:
    """Tell any error in a sentence on stderr; return its exit code. A person never reads a traceback."""
    if isinstance(wrong, MainspringError):
        return report(wrong)
    if os.environ.get("MAINSPRING_DEBUG"):
        traceback.print_exception(wrong)
    note(f"error: this should not have happened: {type(wrong).__name__}: {wrong}")
    note("hint: set MAINSPRING_DEBUG=1 to see where, and report it")
    return 1


def report(wrong: MainspringError) -> int:
    """Tell an error on stderr; return its exit code."""
    if os.environ.get("MAINSPRING_DEBUG"):
        traceback.print_exception(wrong)
    note(f"error: {wrong.message}")
    if wrong.hint:
        note(f"hint: {wrong.hint}")
    return wrong.exit_code


def wrong_usage(text: str, words: list[str]) -> None:
    """Tell what the command line got wrong."""
    first = words[0] if words else ""
    if first in ELSEWHERE:
        here = ELSEWHERE[first]
        note(f"error: There is no command {first!r}: it is `mainspring {here}` here.")
        note(f"hint: mainspring {here.removesuffix(' -f')} --help")
        return
    note(f"error: {' '.join(text.split())}")
    command = first if first in {name for name, *_ in (*COMMANDS, *GROUPS)} else ""
    members = {word for name, _, _, listed in GROUPS if name == command for word, _ in listed}
    known = [command, *(word for word in words[1:2] if word in members)]
    note(" ".join(["hint: mainspring", *filter(None, known), "--help"]))
    if command == "run" and "nknown option" in text:
        note("hint: arguments of the script itself go behind --, as in: mainspring run train.py -- --lr 3e-4")
    sys.stderr.flush()
