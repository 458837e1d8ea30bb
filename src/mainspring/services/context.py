"""What every use case needs: the stores, the clock, ids, signals and settings. Built once, by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from mainspring.blobs.store import BlobStore
from mainspring.core.clock import Clock
from mainspring.core.ids import Ids
from mainspring.services.fitting import Fitting
from mainspring.services.planned import Planned
from mainspring.services.recent import Recent
from mainspring.services.signals import Signals
from mainspring.settings import Settings
from mainspring.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The object graph below the use cases. `started_at` is when this process began to serve."""

    store: Store
    blobs: BlobStore
    clock: Clock
    ids: Ids
    signals: Signals
    settings: Settings
    started_at: datetime
    planned: Planned = field(default_factory=Planned)
    recent: Recent = field(default_factory=Recent)
    fitting: Fitting = field(default_factory=Fitting)
