"""What `mainspring cluster add slurm` takes, and what one run may ask otherwise. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from mainspring.backends.openssh import Login
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
    Option(name="user", help="The user on the login host. Default: what ssh's configuration says."),
    Option(name="key", help="The private key. Default: what ssh's configuration and agent say.", kind=OptionKind.PATH),
    Option(name="port", help="The port of the login host's sshd.", kind=OptionKind.NUMBER),
    Option(name="ssh_config", help="The configuration of ssh to use instead of yours.", kind=OptionKind.PATH),
    Option(name="ssh_option", help="A word for ssh's -o: ProxyJump=gate.example.org.", kind=OptionKind.LIST),
    Option(name="host_key", help="A fingerprint of the login host's key that you have compared.", kind=OptionKind.LIST),
    Option(name="accept_new", help="Accept the key that the login host shows first.", kind=OptionKind.FLAG),
    Option(name="server_url", help="Where the nodes reach this server. Default: what the server advertises."),
)
_OF_A_RUN = frozenset({"partition", "account", "qos", "constraint", "reservation", "time", "sbatch", "prolog", "python"})


def login_of(config: Mapping[str, object], folder: Path) -> Login | None:
    """Return how the login host is reached; None when Slurm's commands are on this machine."""
    targets = _words(config, "targets")
    host = targets[0] if targets else LOCAL
    if host == LOCAL:
        return None
    user, _, name = host.rpartition("@")
    port = config.get("port")
    return Login(
        host=name,
        folder=folder,
        user=user or str(config.get("user") or ""),
        port=int(port) if isinstance(port, int | float) else 0,
        key=str(config.get("key") or ""),
        config=str(config.get("ssh_config") or ""),
        options=tuple(_words(config, "ssh_option")),
        accepted=tuple(_words(config, "host_key")),
        accepts_new=bool(config.get("accept_new")),
    )


def _words(config: Mapping[str, object], name: str) -> list[str]:
    found = config.get(name)
    return [str(word) for word in found] if isinstance(found, list | tuple) else []


def for_run(config: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the options of one run: the cluster's, and its own over them. Raises LaunchError for one that there is not."""
    for name in overrides:
        if name not in _OF_A_RUN:
            near = get_close_matches(name, sorted(_OF_A_RUN), 1)
            meant = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(_OF_A_RUN))}."
            raise LaunchError(f"Slurm has no option {name[:60]!r} for a run.{meant}")
    return {**config, **overrides}
