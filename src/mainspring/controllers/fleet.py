"""The registered clusters and the backends that drive them; the only place where backends are built."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from mainspring import plugins
from mainspring.core.backend import Backend
from mainspring.core.errors import BackendError, NotFoundError
from mainspring.core.records import Cluster
from mainspring.services.context import Context

log = logging.getLogger(__name__)
INVENTORY_S = 60.0


@dataclass(slots=True)
class Fleet:
    """Builds each cluster's backend once and keeps its inventory in the rows."""

    ctx: Context
    folder: Path
    _backends: dict[str, Backend] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict)

    def backend(self, cluster_id: str) -> Backend:
        """Return the backend of a cluster. Raises NotFoundError."""
        if cluster_id not in self._backends:
            cluster = self.ctx.store.clusters.get(cluster_id)
            if cluster is None:
                raise NotFoundError(f"There is no cluster {cluster_id}.")
            create = cast("Callable[[Cluster, Path, str], Backend]", plugins.load("backends", cluster.backend))
            folder = self.folder / cluster.name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._backends[cluster_id] = create(cluster, folder, self.ctx.store.installation)
        return self._backends[cluster_id]

    def is_local(self, cluster_id: str) -> bool:
        """Say whether looking at the cluster's processes costs next to nothing."""
        if cluster_id not in self._kinds:
            cluster = self.ctx.store.clusters.get(cluster_id)
            if cluster is None:
                return False
            self._kinds[cluster_id] = cluster.backend  # a cluster never changes its engine
        return self._kinds[cluster_id] == "local"

    def note(self, cluster_id: str, message: str) -> None:
        """Keep the backend's last word where `mainspring cluster ls` shows it."""
        self.ctx.store.clusters.set_message(cluster_id, message)

    def take_inventory(self) -> float | None:
        """Ask every backend what there is and write it into the rows; return the pause until the next time."""
        for cluster in self.ctx.store.clusters.all():
            try:
                backend = self.backend(cluster.id)
                probe = backend.probe()
                self.ctx.store.nodes.upsert(cluster.id, backend.inventory().nodes, now=self.ctx.clock.now())
            except BackendError as wrong:
                self.note(cluster.id, wrong.message)
                continue
            message = " ".join(probe.notices)
            if message != cluster.message:
                self.note(cluster.id, message)
        return INVENTORY_S
