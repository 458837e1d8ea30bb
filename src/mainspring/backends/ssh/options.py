"""What `mainspring cluster add ssh` takes, and the hosts that follow from it. Pure but for the hosts file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mainspring.backends.openssh import Login
from mainspring.core.backend import Notice, Option, OptionKind
from mainspring.core.errors import LaunchError
from mainspring.core.records import Cluster

OPTIONS = (
    Option(name="user", help="The user to log in as. Default: what ssh's configuration says."),
    Option(name="key", help="The private key. Default: what ssh's configuration and agent say.", kind=OptionKind.PATH),
    Option(name="port", help="The port of sshd.", kind=OptionKind.NUMBER),
    Option(
        name="hosts",
        help="A file of further hosts, one a line: HOST [gpus=4]. It is read again now and then.",
        kind=OptionKind.PATH,
    ),
    Option(name="ssh_config", help="The configuration of ssh to use instead of yours.", kind=OptionKind.PATH),
    Option(name="ssh_option", help="A word for ssh's -o: ProxyJump=gate.example.org.", kind=OptionKind.LIST),
    Option(name="host_key", help="A fingerprint of a host key that you have compared: SHA256:...", kind=OptionKind.LIST),
    Option(name="accept_new", help="Accept the first key that each host shows.", kind=OptionKind.FLAG),
    Option(name="gpus", help="GPUs of each host, by your word. Default: what nvidia-smi lists.", kind=OptionKind.NUMBER),
    Option(name="gpu_model", help="The model of such GPUs."),
    Option(name="gpu_memory_gib", help="The memory of each of them.", kind=OptionKind.NUMBER),
    Option(name="folder", help="Our folder on the hosts.", default="~/.mainspring"),
    Option(name="min_free_gib", help="Start nothing where less is free on the folder's disk.", kind=OptionKind.NUMBER, default=2),
    Option(name="python", help="The Python that starts runners there (3.9 or newer). Default: the first that serves."),
    Option(
        name="direct",
        help="Hosts reach this server by its own address. Default: through the SSH connection.",
        kind=OptionKind.FLAG,
    ),
    Option(
        name="as_owner",
        help="Runs are the unix user of their owner's name: log in as root, or with sudo's leave. Needs --direct.",
        kind=OptionKind.FLAG,
    ),
)
_TARGET = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[A-Za-z0-9][\w.-]*)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One host: how it is reached, and how many GPUs it has by the operator's word (None: ask it)."""

    name: str
    login: Login
    gpus: int | None = None


def targets_of(cluster: Cluster, folder: Path) -> dict[str, Target]:
    """Return the hosts by name, in the order in which they were given. Raises LaunchError for a line that names none."""
    config = cluster.config
    lines = [str(word) for word in _list(config, "targets")]
    path = text(config, "hosts")
    if path:
        try:
            lines += [line.partition("#")[0].strip() for line in Path(path).expanduser().read_text().splitlines()]
        except OSError as wrong:
            raise LaunchError(f"The hosts file {path} cannot be read: {wrong.strerror or wrong}.") from wrong
    found = {}
    for line in lines:
        if line:
            target = _target(config, line, folder)
            found[target.name] = target
    return found


def text(config: Mapping[str, object], name: str) -> str:
    """Return an option's text; empty when it was not given."""
    return str(config.get(name) or "")


def number(config: Mapping[str, object], name: str) -> float:
    """Return an option's number; 0 when it was not given."""
    value = config.get(name) or 0
    return float(value) if isinstance(value, int | float | str) else 0.0


def add_command(cluster: Cluster, host_keys: Sequence[str]) -> str:
    """Return the command that adds the same cluster with these host keys accepted too."""
    words = ["mainspring", "cluster", "add", "ssh", *(str(one) for one in _list(cluster.config, "targets"))]
    words += ["--name", cluster.name] if cluster.name != "ssh" else []
    defaults = {option.name: option.default for option in OPTIONS}
    for name, value in cluster.config.items():
        if name in ("targets", "host_key") or value == defaults.get(name):
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [",".join(str(one) for one in value) if isinstance(value, list) else str(value)]
    keys = [*(str(one) for one in _list(cluster.config, "host_key")), *host_keys]
    return shlex.join([*words, *(["--host-key", ",".join(keys)] if keys else [])])


def wrong_as_owner(cluster: Cluster) -> Notice | None:
    """Return what does not go with `--as-owner`; None where all is well, or it was not asked for."""
    config = cluster.config
    if not config.get("as_owner"):
        return None
    if not config.get("direct"):
        told = "The way through the SSH connection is one user's: with --as-owner runs have to dial this server (--direct)."
    elif not text(config, "folder").startswith("~/"):
        told = "With --as-owner our folder is in the home of each user: --folder begins with ~/."
    else:
        return None
    mended = {**config, "direct": True, "folder": "~/.mainspring"}
    return Notice(text=told, command=add_command(replace(cluster, config=mended), []))


def _target(config: Mapping[str, object], line: str, folder: Path) -> Target:
    word, *pairs = line.split()
    more = dict(pair.partition("=")[::2] for pair in pairs)
    match = _TARGET.fullmatch(word)
    if match is None or more.keys() - {"gpus"} or not more.get("gpus", "0").isdecimal():
        raise LaunchError(f"{line[:80]!r} names no host.", hint="One a line: HOST, USER@HOST or HOST:PORT, and gpus=4 behind it.")
    host, port = match["host"], int(match["port"] or number(config, "port"))
    declared = more.get("gpus") or (config.get("gpus") if config.get("gpus") is not None else None)
    login = Login(
        host=host,
        folder=folder / "hosts" / (f"{host}-{port}" if match["port"] else host),
        user=match["user"] or text(config, "user"),
        port=port,
        key=str(Path(text(config, "key")).expanduser()) if config.get("key") else "",
        config=text(config, "ssh_config"),
        options=tuple(str(one) for one in _list(config, "ssh_option")),
        accepted=tuple(str(one) for one in _list(config, "host_key")),
        accepts_new=bool(config.get("accept_new")),
        python=text(config, "python"),
    )
    return Target(name=login.folder.name, login=login, gpus=int(float(str(declared))) if declared is not None else None)


def _list(config: Mapping[str, object], name: str) -> list[object]:
    value = config.get(name)
    return list(value) if isinstance(value, list | tuple) else []
