"""A real torchrun, typed as the documents say: it learns its gang from the environment and starts a process for each GPU."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.engine]
STREAMS = ("--redirects", "1", "--tee", "2")  # PyTorch 1.13 cannot leave both alone on Python 3.11: what it wrote comes by stderr
TRAIN = """
import os, sys, torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), "local", os.environ["LOCAL_RANK"], "sum", int(total), file=sys.stderr)
"""


def test_a_gang_of_torchruns_reduces_over_all_its_processes(
    fresh: Site, tmp_path: Path, need: Callable[[bool, str, str], None]
) -> None:
    """Two members with two GPUs each: four processes, two below each torchrun."""
    need(shutil.which("torchrun") is not None, "torchrun", "apt-get install --no-install-recommends python3-torch")
    (tmp_path / "train.py").write_text(TRAIN)
    fresh.start("--gpus", "4", "--cpus", "4")
    words = ["torchrun", *STREAMS, str(tmp_path / "train.py")]
    done = fresh.cli("run", "--replicas", "2", "--gpus", "2", "--name", "gang", "--", *words)
    run = fresh.run("gang")
    assert (done.code, run["state"]) == (0, "succeeded"), (done, fresh.log("gang"), fresh.log("gang", replica=1))
    told = [sorted(re.findall(rb"rank \d of .*", fresh.log("gang", replica=one))) for one in range(2)]
    assert told == [[b"rank %d of 4 local %d sum 10" % (2 * member + local, local) for local in range(2)] for member in range(2)]
