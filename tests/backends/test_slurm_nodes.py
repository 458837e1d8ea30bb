"""What Slurm's commands tell of nodes that take no jobs."""

from __future__ import annotations

from mainspring.backends.slurm.text import node_of, parse_nodes
from mainspring.core.records import Cluster, NodeState

HEAD = "NodeName={name} CPUTot=4 RealMemory=1000 State={state} Partitions=short"
TAIL = "CfgTRES=cpu=4,mem=1000M AllocTRES="


def test_the_reason_of_a_drained_node_is_kept_whole() -> None:
    told = "\n".join(
        [
            f"{HEAD.format(name='n1', state='IDLE')} {TAIL}",
            f"{HEAD.format(name='n2', state='IDLE+DRAIN')} {TAIL} Reason=GPU 3 has ECC errors [root@2026-01-01T12:00:00]",
            f"{HEAD.format(name='n3', state='DOWN*')} Reason=Not responding [slurm@2026-01-01T12:00:00] {TAIL}",
        ]
    )
    nodes = [node_of(Cluster(id="h", name="h", backend="slurm"), fields, []) for fields in parse_nodes(told)]
    assert [node.state for node in nodes] == [NodeState.READY, NodeState.DRAINING, NodeState.UNREACHABLE]
    assert [[one.detail for one in node.symptoms] for node in nodes] == [
        [],
        ["Slurm says IDLE+DRAIN: GPU 3 has ECC errors [root@2026-01-01T12:00:00]"],
        ["Slurm says DOWN*: Not responding [slurm@2026-01-01T12:00:00]"],
    ]
    assert all(node.cpu_milli == 4000 for node in nodes)


def test_what_others_hold_is_told_apart() -> None:
    (fields,) = parse_nodes(
        "NodeName=n1 CPUTot=4 CPUAlloc=3 RealMemory=1000 AllocMem=600 State=MIXED Gres=gpu:h100:2 GresUsed=gpu:h100:1(IDX:0)"
    )
    node = node_of(Cluster(id="h", name="h", backend="slurm"), fields, [])
    assert (node.cpu_milli, node.memory_bytes, len(node.devices)) == (1000, 400 << 20, 1)
    assert (node.foreign.cpu_milli, node.foreign.memory_bytes, len(node.foreign.devices)) == (3000, 600 << 20, 1)
    assert (node.emptied().cpu_milli, len(node.emptied().devices)) == (4000, 2)
