"""What people ask an engine for, by rows and an engine that is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from mainspring.controllers.fleet import Fleet, Reach
from mainspring.controllers.operations import Operations
from mainspring.core.actors import SYSTEM
from mainspring.core.backend import Capabilities, Inventory, Notice, Probe
from mainspring.core.errors import CredentialsError
from mainspring.core.records import Cluster, Node, NodeState
from mainspring.services import clusters, operations
from mainspring.testing.lanes import AtOnce

CLUSTER = Cluster(id="c9", name="hpc", backend="memory")


class Engine:
    """One node, until its key is taken back."""

    capabilities = Capabilities()
    is_shut = False

    def probe(self) -> Probe:
        return Probe(is_ready=not self.is_shut, notices=(Notice(text="It refuses the key."),) if self.is_shut else ())

    def inventory(self) -> Inventory:
        if self.is_shut:
            raise CredentialsError("It refuses the key.")
        return Inventory(nodes=(Node(id="c9.n", cluster="c9", name="n", cpu_milli=8000, memory_bytes=1 << 34),))


def test_what_a_probe_was_refused_is_in_the_rows_at_once(house: Any, tmp_path: Path) -> None:
    """Else a run waits for a node that looks well until the next look at the engine, a minute later."""
    ctx, engine, lanes = house.ctx, Engine(), cast(Any, AtOnce())
    fleet = Fleet(ctx, tmp_path / "clusters")
    ctx.store.clusters.add(CLUSTER)
    fleet.keep(CLUSTER, cast(Any, engine))
    fleet.take_inventory(CLUSTER)
    seen = ctx.signals.version("clusters")
    engine.is_shut = True
    asked = clusters.probe(ctx, SYSTEM, "hpc")
    Operations(ctx, fleet, lanes, Reach(url="http://127.0.0.1:1")).tick()
    refused = operations.get(ctx, SYSTEM, asked.id)
    assert refused.error is not None
    assert "It refuses the key." in refused.error["message"]
    assert ctx.signals.version("clusters") > seen, "the loop that looks at engines is woken"
    fleet.ask_all(lanes)
    node = ctx.store.nodes.get("c9.n")
    assert (node.state, [one.detail for one in node.symptoms]) == (NodeState.UNREACHABLE, ["It refuses the key."])
