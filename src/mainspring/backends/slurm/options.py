"""What `mainspring cluster add slurm` takes, and what one run may ask otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from mainspring.core.backend import Option, OptionKind
from mainspring.core.errors import LaunchError

LOCAL = "local"
OPTIONS = (
    Option(name="partition", help="Submit to this partition, and count its nodes only."),
    Option(name="account", help="Charge this account."),
    Option(name="qos", help="Ask for this quality of service."),
    Option(name="constraint", help="Ask for nodes with these features."),
    Option(name="reservation", help="Use this reservation of Slurm's."),
    Option(name="time", help="Slurm's limit for each job, as sbatch takes it: 2-00:00:00."),
    Option(name="sbatch", help="A further word for sbatch: --sbatch=--exclusive.", kind=OptionKind.LIST),
    Option(name="prolog", help="A line of shell before each run: 'module load python/3.11'.", kind=OptionKind.LIST),
    Option(name="python", help="The Python that starts runners on the nodes (3.9 or newer)."),
    Option(name="folder", help="A folder that login host and nodes share. Default: below the home folder."),
    Option(name="pool", help="The pool that its nodes belong to. Default: the cluster's name."),
)
_OF_A_RUN = frozenset({"partition", "account", "qos", "constraint", "reservation", "time", "sbatch", "prolog", "python"})


def for_run(config: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the options of one run: the cluster's, and its own over them. Raises LaunchError for one that there is not."""
    for name in overrides:
        if name not in _OF_A_RUN:
            near = get_close_matches(name, sorted(_OF_A_RUN), 1)
            meant = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(_OF_A_RUN))}."
            raise LaunchError(f"Slurm has no option {name[:60]!r} for a run.{meant}")
    return {**config, **overrides}
