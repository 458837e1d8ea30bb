"""The store: one attribute for each noun, one method for each question. What is true is here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta

from mainspring.core.clock import Clock
from mainspring.core.ids import Ids
from mainspring.core.snapshot import Applied, Decision, Plan, Snapshot
from mainspring.store.apply import Plans
from mainspring.store.attempts import Attempts
from mainspring.store.backup import back_up
from mainspring.store.blobs import NamedBlobs
from mainspring.store.checkpoints import Checkpoints
from mainspring.store.clusters import Clusters
from mainspring.store.database import Database, Listener
from mainspring.store.datasets import Datasets
from mainspring.store.decisions import KEPT, Decisions
from mainspring.store.endpoints import Endpoints
from mainspring.store.environments import Environments
from mainspring.store.events import Events
from mainspring.store.forecasts import Forecasts
from mainspring.store.gates import Gates
from mainspring.store.health import Health
from mainspring.store.installation import keep_key, move_cursor, prepare, read_cursor, read_installation
from mainspring.store.leases import Leases
from mainspring.store.logs import Logs
from mainspring.store.machines import Machines
from mainspring.store.metrics import Metrics
from mainspring.store.models import Models
from mainspring.store.nodes import Nodes
from mainspring.store.operations import Operations
from mainspring.store.ownership import Ownership
from mainspring.store.pipelines import Pipelines
from mainspring.store.policies import Policies
from mainspring.store.projects import Projects
from mainspring.store.retention import Retention
from mainspring.store.runs import Runs
from mainspring.store.secrets import Secrets
from mainspring.store.shares import Shares
from mainspring.store.snapshot import Snapshots
from mainspring.store.sweeps import Sweeps
from mainspring.store.tokens import Tokens
from mainspring.store.unadopted import UnadoptedAttempts
from mainspring.store.usage import Usage
from mainspring.store.users import Users


class Store:
    """An open database. Thread safe, blocking; refuses threads with a running event loop (RuntimeError)."""

    def __init__(self, db: Database, ownership: Ownership | None) -> None:
        self._db, self._ownership = db, ownership
        self.is_postgres = db.is_postgres
        self.installation = read_installation(db)
        self.runs = Runs(db)
        self.attempts = Attempts(db)
        self.checkpoints = Checkpoints(db)
        self.logs = Logs(db)
        self.metrics = Metrics(db)
        self.nodes = Nodes(db)
        self.machines = Machines(db)
        self.health = Health(db)
        self.clusters = Clusters(db)
        self.events = Events(db)
        self.users = Users(db)
        self.projects = Projects(db)
        self.tokens = Tokens(db)
        self.secrets = Secrets(db)
        self.datasets = Datasets(db)
        self.models = Models(db)
        self._keys: dict[str, bytes] = {}
        self.gates = Gates(db)
        self.endpoints = Endpoints(db)
        self.sweeps = Sweeps(db)
        self.pipelines = Pipelines(db)
        self.blobs = NamedBlobs(db)
        self.leases = Leases(db)
        self.decisions = Decisions(db)
        self.unadopted = UnadoptedAttempts(db)
        self.shares = Shares(db)
        self.usage = Usage(db)
        self.policies = Policies(db)
        self.forecasts = Forecasts(db)
        self.operations = Operations(db)
        self.environments = Environments(db)
        self._snapshots = Snapshots(db)
        self._plans = Plans(db, self.decisions)
        self.retention = Retention(db)

    @classmethod
    def open(cls, url: str, *, clock: Clock, ids: Ids, lock_wait_s: float = 0) -> Store:
        """Create or open the database at `url` (`sqlite:///PATH`, a path, or `postgresql+psycopg://…`) and bring it up to date.

        Raises StoreError when another process owns it, when it is damaged or newer than this program, or lies on a network.
        """
        db, ownership = prepare(url, clock=clock, ids=ids, lock_wait_s=lock_wait_s)
        return cls(db, ownership)

    def close(self) -> None:
        """Finish what is queued and give the database up. Idempotent."""
        self._db.close()
        if self._ownership is not None:
            self._ownership.release()

    def cursor(self, name: str) -> int:
        """Return the number of the last event that the reader `name` has dealt with."""
        return read_cursor(self._db, name)

    def move_cursor(self, name: str, to: int) -> None:
        """Record that the reader `name` has dealt with every event up to `to`."""
        move_cursor(self._db, name, to)

    def key(self, name: str) -> bytes:
        """Return the 32 random bytes kept under `name`, made at the first call; they never change, and are read once."""
        if name not in self._keys:
            self._keys[name] = keep_key(self._db, name)
        return self._keys[name]

    def has_key(self, name: str) -> bool:
        """Say whether `key(name)` answers without a look at the database."""
        return name in self._keys

    def on_commit(self, callback: Listener) -> Callable[[], None]:
        """Call `callback(topics)` after each commit that touched any; return what ends it.

        Topics: runs, attempts, events, nodes, endpoints, sweeps, pipelines, operations, logs:<attempt>. The callback runs on
        the thread that committed: it must be quick and must not call the store.
        """
        return self._db.listen(callback)

    def snapshot(self, now: datetime, *, limit: int | None = None, each: int | None = None, age_s: float = 0.0) -> Snapshot:
        """Return what the planner sees, read at one instant; past use and believed durations may be `age_s` old.

        With `limit` only the first so many queued runs in line, with `each` the first so many of each person's.
        """
        return self._snapshots.take(now, limit=limit, each=each, age_s=age_s)

    def is_waiting(self) -> bool:
        """Say whether any run waits: cheaper than a snapshot without one."""
        return self._snapshots.is_due()

    def apply(
        self, plan: Plan, *, now: datetime, event_actor: str = "scheduler", seen: Snapshot | None = None, kept: timedelta = KEPT
    ) -> Applied:
        """Carry a plan out (W2): each start all or nothing; one that somebody forestalled is refused, to be planned again.

        With what it was made from (`seen`) it is recorded, for `kept`, where it does something.
        """
        return self._plans.apply(plan, now=now, event_actor=event_actor, seen=seen, kept=kept)

    def start_probe(self, decision: Decision, *, now: datetime, actor: str) -> bool:
        """Start a run on a node in quarantine, to try it; False when it or the node changed meanwhile, or is full."""
        return self._plans.start_probe(decision, now=now, actor=actor)

    def begin_planning(self) -> None:
        """Forget what was remembered of earlier plans: another process may have planned since."""
        self._plans.reasons.forget()

    def stay_near_writer(self) -> None:
        """Keep the calling thread, which starts no program and no thread, where the writer runs: they hand over all the time."""
        self._db.stay_near_writer()

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Copy the database to the new file `path` while it runs; return its size. Raises UnsupportedError on PostgreSQL."""
        return back_up(self._db, path)
