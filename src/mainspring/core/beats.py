"""The wire between a runner and the server: one `Beat` up, one `BeatAnswer` down. `runner/` speaks it without this module.

A stream is a byte sequence with offsets: `log` (stdout and stderr, merged), `metrics` (JSON lines
`["name", value, step, unix_seconds]`), `params` (JSON lines `["name", value]`), `usage` (JSON lines
`{"at": unix_seconds, "cpu": cores, "memory_bytes": n, "gpu": [...]}`), `events` (JSON lines, what the runner has to tell).
A chunk at `offset` that the server has already is ignored byte by byte; a chunk beyond its end is refused (not acknowledged).
Line streams are cut at line ends only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mainspring.core.records import Outcome
from mainspring.core.specs import RunSpec, Value

PROTOCOL = 1
LINE_STREAMS = frozenset({"metrics", "params", "usage", "events"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """So many bytes of a stream: `data` is base64."""

    stream: str
    offset: int
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a runner says. `state` is starting, running, stopping or ended; `ended` needs `exit` and comes last,
    after every byte of every stream was acknowledged. `address` is what a serving replica listens on, and where a member of
    a gang is. `late_s`: for so long the server was away since user code ended, so that it hears of the end only now."""

    protocol: int = PROTOCOL
    replica: int = 0
    no: int = 0
    state: str = "starting"
    chunks: tuple[Chunk, ...] = ()
    address: str = ""
    exit: Outcome | None = None
    outputs: Mapping[str, Value] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    late_s: float = 0.0
    claim: str = ""  # once nobody knew the attempt: what the server signed when it gave out the work


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the server wants: `kind` is stop or checkpoint. `no` grows; each is applied once."""

    no: int
    kind: str
    cause: str = ""
    deadline_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatAnswer:
    """What the server says: bytes it holds of each stream, commands, when to beat again, whether somebody follows the log or
    waits for the tunnel."""

    ack: Mapping[str, int] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    beat_in_s: float = 10.0
    is_followed: bool = False
    is_tunnel_wanted: bool = False
    is_acknowledged: bool = False  # the end is committed: the folder may go


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a runner is to do: `GET /attempts/{id}/work`. `env` has everything granted and every secret; never written to disk.

    `inputs` are the materialised arguments; `number` is the attempt's, `checkpoint` the manifest of the last checkpoint,
    `unwanted` the keys of environments that are to go from its node.
    """

    run: str
    attempt: str
    number: int
    name: str
    project: str
    spec: RunSpec
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    world_size: int = 1
    checkpoint: str = ""
    unwanted: tuple[str, ...] = ()
    claim: str = ""
