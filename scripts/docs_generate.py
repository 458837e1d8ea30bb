"""Write the reference pages that repeat what the code says: run by scripts/docs and, as a hook, by every mkdocs build.

`COMMITTED` pages lie in the repository and a test compares them with the code. `BUILT` pages (the command line, the REST
interface, the Python interface) are large and change with every flag: they are made at each build and not committed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_type_hints

ROOT = Path(__file__).resolve().parent.parent
for _place in (ROOT / "src", ROOT / "scripts"):  # a hook is loaded by path: nothing has put these on the way yet
    if str(_place) not in sys.path:
        sys.path.insert(0, str(_place))

from docs_diagram import state_diagram  # noqa: E402
from docs_interfaces import command_line_page, rest_page  # noqa: E402
from docs_results import results_page  # noqa: E402

from mainspring.client.client import Client  # noqa: E402
from mainspring.core import errors, lifecycle, reasons, records  # noqa: E402
from mainspring.settings import Settings  # noqa: E402

NOTE = "<!-- Written by scripts/docs_generate.py from the code; change the code, then run scripts/docs. -->\n\n"

# What to tell the reader about each reason: what it means, and what can be done. A code that is missing here fails a test.
REASONS: Mapping[str, tuple[str, str]] = {
    "not_planned_yet": (
        "The run was accepted after the last plan was made. The next plan follows within a second; behind a very long queue of "
        "the same person it may take some.",
        "Nothing. If it stays so, the schedule loop does not run: look at `mainspring doctor`.",
    ),
    "paused": ("Somebody holds the run: it keeps its place in the order and is not started.", "`mainspring resume RUN`."),
    "backing_off": (
        "The last launch failed, or its node was lost; the next try follows at the time in the "
        "sentence. The pause grows with each "
        "failure, and another node is preferred.",
        "`mainspring show RUN` lists the attempts with their causes.",
    ),
    "no_cluster": (
        "No node is registered that is ready and takes work.",
        "`mainspring cluster ls` shows the nodes; `mainspring node resume NODE` opens a drained one.",
    ),
    "cannot_fit": (
        "No node could hold the run even if it were empty. Such a run is refused when it is submitted; "
        "one that waits with this reason "
        "was accepted before the fleet shrank.",
        "Ask for less (the sentence says what would fit), or add the node again.",
    ),
    "no_free_gpu": (
        "Nodes that could hold the run have their GPUs in use.",
        "Wait, ask for a share of a GPU (`--gpus 0.5`), or for memory instead of a device (`--gpu-memory 8GiB`).",
    ),
    "no_free_cpu": ("Nodes that could hold the run have their CPUs promised to others.", "Wait, or ask for fewer: `--cpus 0.5`."),
    "no_free_memory": (
        "Nodes that could hold the run have their memory promised to others.",
        "Wait, or ask for less: `--memory`.",
    ),
    "no_free_disk": ("Nodes that could hold the run have their disk promised to others.", "Wait, or ask for less: `--disk`."),
    "fragmented": (
        "There is enough in total, and no single node has all of it free.",
        "Wait for one of the holders to end, or ask for less on one node.",
    ),
    "gang_incomplete": (
        "The run has several replicas. Some would fit now, not all of them; a gang starts as a whole or not at all.",
        "Wait, ask for fewer with `--replicas 2`, or say from how many on it may start: `--replicas 2..8`.",
    ),
    "share_held": (
        "An admin holds the share of the run, or one above it: its waiting runs keep their order and none is started.",
        "`mainspring share NAME --release`, or ask who holds it.",
    ),
    "share_limit": (
        "The share of the run, or one above it, may not hold so much more. What is free does not matter.",
        "Wait for runs of the same share to end, ask for less, or ask an admin: `mainspring share NAME --limit`.",
    ),
    "over_guarantee": (
        "The run must not be preempted, and such runs count against what its share can count on: its guarantee, or, without "
        "one, an equal part of what the others do not have guaranteed.",
        "Let it be preempted (the default), wait, or ask an admin for a guarantee: `mainspring share NAME --guarantee`.",
    ),
    "fair_share": (
        "What the run needs is scarce, its share holds its fair part of it, and others who wait are owed more.",
        "Wait, or ask for less. `mainspring share` shows who holds what and who is owed what.",
    ),
    "reserved": (
        "What is free is kept for a run ahead that needs more at one time. Runs that end before it starts may use it.",
        "Give a `--timeout`: a run that is known to be gone in time may pass.",
    ),
    "advance_reservation": (
        "What is free is kept for a share, in the window that the sentence names.",
        "Wait until the window is over, or give a `--timeout` that ends before it begins. See `mainspring reservation ls`.",
    ),
    "nominated": (
        "Runs were asked to stop so that this one can start; their places are kept for it.",
        "Nothing: it starts when they are gone.",
    ),
    "bursting": ("A machine was asked for it at a paid site.", "Nothing: it starts when the machine is there."),
    "budget": (
        "A rented machine would be worth it, and a budget on the run's path (its share, one above, or all) has less left this "
        "month than the machine may cost at most.",
        "Wait for room here, or let an admin raise the budget: `mainspring share NAME --budget 500usd/month`.",
    ),
    "topology": (
        "The replicas would fit, but not on nodes that share the label asked for.",
        "Wait, or ask without `--same`.",
    ),
    "behind": (
        "The plan did not come as far: so many runs ahead were started that the rest follows in the next plan (`max_starts`), or "
        "so many kinds of requests of its own share are ahead and blocked that no more were tried (`backfill.depth`), or room "
        "was made for others after it was tried and enough of that is left for it: the next plan tries it again. The order: "
        "between shares who is owed most comes first; inside a share priority, then the least estimated GPU time, where waiting "
        "counts (`order.aging_s`, a day, halves a run's size), then time of submission. See [the rules](../how-to/policy.md).",
        "Wait for those ahead: `mainspring why RUN` names them, each with the rule by which it comes first. Inside its share a "
        "run is moved by its priority: `mainspring priority RUN high`. Above normal takes the role that the project names, owner "
        "unless it says otherwise; an editor may lower it.",
    ),
    "waiting_for_engine": (
        "The run was placed, and the engine there has a scheduler of its own (Kubernetes, Slurm) that has not begun it: a quota, "
        "a limit of the account, somebody's job with a higher priority, an image that is pulled. The sentence has its words.",
        "What the words ask for. `mainspring native RUN` shows the engine's object, `mainspring cancel RUN` takes it back.",
    ),
    "foreign_work": (
        "Jobs of Slurm or pods of Kubernetes that came past this queue hold what the run needs, on nodes that are shared with "
        "them. They are seen, counted and never touched; the sentence says how much they hold where.",
        "Wait until they end, ask for less, or for another pool. `mainspring cluster show NAME` shows what is left there.",
    ),
    "quarantined": (
        "Only nodes or GPUs that were taken out could hold the run: by the server, which saw errors or launches that fail, "
        "or by an operator.",
        "`mainspring cluster ls` says why, and when it is tried again. An admin may let it take runs at once: "
        "`mainspring cluster resume NODE`, with `--device N` for one GPU. See [Keep nodes healthy](../how-to/node-health.md).",
    ),
    "node_unreachable": (
        "Of a run that was placed: the node that has it does not answer. Silence proves nothing: the run may well go on "
        "there, and time alone never makes it dead. Of a run that waits: only nodes could hold it that take no runs now, because "
        "they do not answer or are drained; the sentence names them.",
        "The sentence says when another attempt begins. If you know that the node is gone: `mainspring node dead NODE`. One that "
        "was drained is opened again by `mainspring cluster resume NODE`.",
    ),
    "cleaning_up": (
        "The former attempt is being ended, and its end is not confirmed yet. The next attempt starts "
        "after that, never beside it.",
        "Nothing: its runner or its node confirms it. `mainspring show RUN` lists the attempts; if you know that the node is "
        "gone for good: `mainspring node dead NODE`.",
    ),
}

PYTHON_PARTS = (
    ("Tasks and runs", ("mainspring.sdk.task", "mainspring.sdk.runs")),
    (
        "Inside a run",
        (
            "mainspring.sdk.tracking",
            "mainspring.sdk.checkpoints",
            "mainspring.sdk.keras_callback",
            "mainspring.sdk.torch_checkpoint",
        ),
    ),
    ("Waits, shares and rules", ("mainspring.sdk.forecasts", "mainspring.sdk.shares", "mainspring.sdk.policies")),
    ("Environments", ("mainspring.sdk.environments",)),
    ("Searches", ("mainspring.sdk.sweeps", "mainspring.core.spaces")),
    ("Data sets", ("mainspring.sdk.datasets",)),
    ("Models", ("mainspring.sdk.models",)),
    ("Objectives and gates", ("mainspring.sdk.objectives", "mainspring.sdk.gates")),
    ("Pipelines", ("mainspring.sdk.pipelines",)),
    ("Endpoints", ("mainspring.sdk.deploy",)),
    ("The connection", ("mainspring.client.connection",)),
)
# What of `ms.connect()` has its own entries: for the rest there are the functions above, which do more.
NOUNS = ("shares", "policies", "plans", "forecasts", "clusters", "machines", "people")


def errors_page() -> str:
    """Return the page of error codes: the tree, then one row for each."""
    lines = [
        NOTE + "# Error codes",
        "",
        "Every error says what happened, why, and what to do next. Over HTTP it is",
        '`{"error": {"code", "message", "hint", "details"}}`; in Python `except ms.NotFoundError` works',
        "on both sides of the wire,",
        "because the client maps the code back to the class. Programs should test the code, never the text.",
        "",
        "| code | class | HTTP | exit | what it means |",
        "|---|---|---|---|---|",
    ]
    for depth, cls in _tree(errors.MainspringError, 0):
        about = (cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip()
        indent = "&nbsp;&nbsp;" * depth
        lines.append(f"| `{cls.code}` | {indent}`{cls.__name__}` | {cls.http_status} | {cls.exit_code} | {about} |")
    return "\n".join(lines) + "\n"


def _tree(cls: type[errors.MainspringError], depth: int) -> Iterator[tuple[int, type[errors.MainspringError]]]:
    yield depth, cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def exit_codes_page() -> str:
    """Return the page of exit codes of the command line."""
    classes: dict[int, list[str]] = {}
    for _, cls in _tree(errors.MainspringError, 0):
        classes.setdefault(cls.exit_code, []).append(f"`{cls.code}`")
    lines = [
        NOTE + "# Exit codes",
        "",
        "| code | when |",
        "|---|---|",
        "| 0 | it worked; with `mainspring run`: the run succeeded |",
    ]
    lines += [f"| {code} | one of these errors: {', '.join(names)} |" for code, names in sorted(classes.items())]
    lines += [
        "| 130 | interrupted with Ctrl-C (the run goes on; the message says how to cancel it) |",
        "",
        "`mainspring run` without `--detach` ends with the exit code of the run itself; a run that was ended by a signal gives",
        "128 plus the signal's number, as a shell does, and a cancelled one 1. See the [error codes](errors.md) for what each",
        "code means.",
    ]
    return "\n".join(lines) + "\n"


def reasons_page() -> str:
    """Return the page of reasons, one section each."""
    lines = [
        NOTE + "# Why a run waits",
        "",
        "A waiting run has exactly one primary reason, and it is true when it is checked again. `mainspring why RUN` prints its",
        "sentence; `run.why()` and `GET /runs/{ref}/why` give the code, the sentence and the facts behind it.",
    ]
    for code in reasons.ReasonCode:
        meaning, remedy = REASONS[code.value]
        lines += ["", f"## `{code.value}`", "", meaning, "", f"**What to do.** {remedy}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the page of settings."""
    lines = [
        NOTE + "# Settings",
        "",
        "A setting is taken from the command line, else from the environment (`MAINSPRING_…`), else",
        "from `config.toml` in the home",
        "folder, else it has its default. Times are seconds, sizes are bytes. An unknown name in the file is an error.",
        "",
        "| setting | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        about = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | `MAINSPRING_{name.upper()}` | {_default(name, field.default)} | {about} |")
    lines += ["", '```toml title="~/.mainspring/config.toml"', "port = 8700", "gpus = 2", "logs_days = 30", "```"]
    return "\n".join(lines) + "\n"


def _default(name: str, value: object) -> str:
    match name, value:
        case "home", _:
            return "`~/.mainspring`"
        case "python", _:
            return "the server's own"
        case _, "" | () | {}:
            return "empty"
        case _, bool():
            return "yes" if value else "no"
        case _, int() | float() | str():
            return f"`{value}`"
        case _:
            return "empty"


def lifecycle_page() -> str:
    """Return the page with the tables of `core/lifecycle.py`; the drawings are beside it."""
    lines = [
        NOTE + "# Lifecycle of a run",
        "",
        "The arrows are data (`core/lifecycle.py`): an event that has no arrow from a state raises `StateError`. Ends are final.",
        "",
        "## Run",
        "",
        "![States of a run](lifecycle-run.svg)",
        "",
        *_arrows(lifecycle.RUN.items()),
        "",
        "What people want (`desired`: run, paused, cancelled) is intent, not state: a cancelled run is",
        "CANCELLED only after the end of",
        "its attempt is confirmed.",
        "",
        "## Attempt",
        "",
        "![States of an attempt](lifecycle-attempt.svg)",
        "",
        *_arrows(lifecycle.ATTEMPT.items()),
        "",
        "## Causes of an end",
        "",
        f"Causes decide about another try. A loss has a limit of its own ({lifecycle.MAX_LOSSES} a run),",
        "with a growing pause and another node",
        "first; `retries` are the user's.",
        "",
        "| cause | counts as |",
        "|---|---|",
    ]
    for cause in records.Cause:
        kind = "a try of the user's (`retries`)" if cause in lifecycle.USER_CAUSES else "neither"
        lines.append(f"| `{cause.value}` | {'a loss' if cause in lifecycle.LOSS_CAUSES else kind} |")
    return "\n".join(lines) + "\n"


def _arrows(table: Iterable[tuple[tuple[str, str], str]]) -> list[str]:
    rows = ["| from | event | to |", "|---|---|---|"]
    return rows + [f"| `{start}` | `{event}` | `{end}` |" for (start, event), end in table]


def _merged(table: Iterable[tuple[tuple[str, str], str]]) -> dict[tuple[str, str], list[str]]:
    edges: dict[tuple[str, str], list[str]] = {}
    for (start, event), end in table:
        edges.setdefault((str(start), str(end)), []).append(str(event).replace("_", " "))
    return edges


def run_diagram() -> str:
    """Return the drawing of a run's states."""
    places = {"queued": (0, 1), "running": (1, 1), "succeeded": (2, 0), "failed": (2, 1), "cancelled": (2, 2)}
    return state_diagram(
        "States of a run", places, _merged(lifecycle.RUN.items()), final={str(state) for state in lifecycle.TERMINAL_RUN}
    )


def attempt_diagram() -> str:
    """Return the drawing of an attempt's states."""
    places = {
        "allocated": (0, 1),
        "launching": (1, 1),
        "starting": (2, 1),
        "running": (3, 1),
        "stopping": (1.5, 2),
        "ended": (1.5, 0),
    }
    return state_diagram("States of an attempt", places, _merged(lifecycle.ATTEMPT.items()), final={"ended"})


def python_page() -> str:
    """Return the page of the Python interface: one entry for each name that `import mainspring as ms` offers."""
    lines = [
        NOTE + "# Python",
        "",
        "```python",
        "import mainspring as ms",
        "```",
        "",
        "Importing it costs a few milliseconds and starts nothing; the server of this machine starts at",
        "the first call that needs one.",
        "",
    ]
    names = _offered()
    for title, modules in PYTHON_PARTS:
        lines += [f"## {title}", ""]
        for module in modules:
            for name in names.pop(module, ()):
                lines += [f"::: {module}.{name}", "    options:", "      heading_level: 3", ""]
    if names:
        raise RuntimeError(f"PYTHON_PARTS names no part of the page for {', '.join(names)}")
    lines += _nouns()
    lines += [
        "## Errors",
        "",
        "Every error class of the [error codes](errors.md) that a program may want to catch is offered too.",
    ]
    return "\n".join(lines) + "\n"


def _nouns() -> list[str]:
    """Return the attributes of what `ms.connect()` returns: a table of all, and entries for `NOUNS`."""
    hints = {name: kind for name, kind in get_type_hints(Client).items() if name != "transport"}
    classes = {name: kind for name, kind in hints.items() if kind.__module__ == f"mainspring.client.{name}"}
    lines = ["`ms.connect()` has an attribute for each noun of the [REST interface](rest.md):", "", "| attribute | what it is |"]
    lines += ["|---|---|"]
    lines += [f"| `ms.connect().{name}` | {(kind.__doc__ or '').splitlines()[0]} |" for name, kind in classes.items()]
    for name in NOUNS:
        where = f"mainspring.client.{name}.{classes[name].__name__}"
        lines += ["", f"::: {where}", "    options:", "      heading_level: 3"]
    return [*lines, ""]


def _offered() -> dict[str, list[str]]:
    """Return the names that `import mainspring as ms` offers, by the module that has them; errors and records are left out."""
    stub = ROOT / "src" / "mainspring" / "__init__.pyi"
    found: dict[str, list[str]] = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module not in ("mainspring.core.errors", "mainspring.core.records")
        ):
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return found


COMMITTED: Mapping[str, Callable[[], str]] = {
    "reference/errors.md": errors_page,
    "reference/exit-codes.md": exit_codes_page,
    "reference/reasons.md": reasons_page,
    "reference/settings.md": settings_page,
    "benchmark-results.md": lambda: NOTE + results_page(),
    "internals/lifecycle.md": lifecycle_page,
    "internals/lifecycle-run.svg": run_diagram,
    "internals/lifecycle-attempt.svg": attempt_diagram,
}
BUILT: Mapping[str, Callable[[], str]] = {
    "reference/python.md": python_page,
    "reference/cli.md": command_line_page,
    "reference/rest.md": rest_page,
}


def generate(docs: Path, pages: Mapping[str, Callable[[], str]]) -> list[str]:
    """Write these generated pages under `docs` where they differ; return the names of those that did."""
    changed = []
    for name, make in pages.items():
        path, text = docs / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def on_pre_build(config: Mapping[str, object]) -> None:
    """Write the pages that nobody commits before mkdocs reads them (its hook)."""
    generate(Path(str(config["docs_dir"])), BUILT)


if __name__ == "__main__":
    for written in generate(ROOT / "docs", {**COMMITTED, **BUILT}):
        print(f"wrote docs/{written}")
