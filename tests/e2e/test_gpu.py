"""A real NVIDIA GPU through the local backend: what CUDA itself sees, not what a variable says. Skipped where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

# CUDA's driver is asked without any framework: how many devices there are, and the UUID and free memory of the first.
ASK = """
import ctypes, json, os, time, uuid
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *args):
    code = getattr(cuda, name)(*args)
    if code:
        raise SystemExit(f"{name} says {code}")
count = ctypes.c_int()
code = cuda.cuInit(0)
if code == 100:  # CUDA_ERROR_NO_DEVICE
    print(json.dumps({"count": 0}), flush=True)
    raise SystemExit(0)
call("cuDeviceGetCount", ctypes.byref(count))
device, name, context = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.c_void_p()
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDeviceGetUuid", ctypes.byref(name), device)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
held = ctypes.c_uint64()
call("cuMemAlloc_v2", ctypes.byref(held), ctypes.c_size_t(HOLD << 20))
print(json.dumps({"count": count.value, "uuid": "GPU-" + str(uuid.UUID(bytes=bytes(name)))}), flush=True)
time.sleep(STAY)
"""


def listed() -> list[list[str]]:
    """Return what the driver lists: index, UUID, name and MiB of each device."""
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return [[word.strip() for word in line.split(",")] for line in told.stdout.splitlines()] if told.returncode == 0 else []


DEVICES = listed()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(not DEVICES, reason="This machine has no NVIDIA GPU; what needs none is in tests/runner/test_gpus.py."),
]


def asking(hold_mib: int = 64, stay_s: float = 0.0) -> str:
    """Return Python that asks CUDA, holds so much memory, and stays."""
    return ASK.replace("HOLD", str(hold_mib)).replace("STAY", str(stay_s))


def said(site: Site, run: str) -> dict[str, Any]:
    """Return what a run printed."""
    assert site.wait(run)["state"] == "succeeded", site.log(run)
    return dict(json.loads(site.log(run)))


def reason(site: Site, run: str) -> str:
    """Return the code of why a run waits."""
    return str((site.call("GET", f"/runs/{run}/why").json().get("reason") or {}).get("code", ""))


def test_devices_are_found_as_the_driver_lists_them(fresh: Site) -> None:
    fresh.start()
    node = fresh.call("GET", "/clusters/local").json()["nodes"][0]
    found = [[str(one["index"]), one["uuid"], one["model"]] for one in node["devices"]]
    assert found == [one[:3] for one in DEVICES]
    assert node["devices"][0]["memory_bytes"] == int(DEVICES[0][3]) << 20
    assert not any(one.get("declared") for one in node["devices"])
    assert not node.get("closures"), "a GPU that is well was taken out"


def test_cuda_sees_what_was_granted_and_nothing_without_it(fresh: Site) -> None:
    fresh.start()
    one = said(fresh, fresh.python(asking(), resources={"gpu_milli": 1000}))
    assert one["count"] == 1
    assert one["uuid"] in {device[1] for device in DEVICES}
    assert said(fresh, fresh.python(asking())) == {"count": 0}
    every = said(fresh, fresh.python(asking(), resources={"gpu_milli": 1000 * len(DEVICES)}))
    assert (every["count"], every["uuid"]) == (len(DEVICES), DEVICES[0][1]), "CUDA numbers them as nvidia-smi does"


def test_parts_of_one_gpu_run_at_once_and_a_whole_one_waits(fresh: Site, until: Callable[..., Any]) -> None:
    fresh.start()
    halves = [fresh.python(asking(stay_s=300), resources={"gpu_milli": 500}) for _ in range(2 * len(DEVICES))]
    for one in halves:
        fresh.running(one, b"uuid")
    whole = fresh.python(asking(), resources={"gpu_milli": 1000})
    until(lambda: reason(fresh, whole) == "no_free_gpu", "its reason")
    for one in halves:
        fresh.cli("cancel", one)
    assert said(fresh, whole)["count"] == 1


def test_memory_of_a_gpu_is_shared_out(fresh: Site) -> None:
    fresh.start()
    mib = int(DEVICES[0][3])
    half, more = f"{mib * 45 // 100}MiB", f"{mib * 2}MiB"
    first, second = (
        fresh.cli("run", "--detach", "--json", "--gpu-memory", half, "--", sys.executable, "-c", asking(stay_s=300))
        for _ in range(2)
    )
    runs = [json.loads(one.out)["id"] for one in (first, second)]
    for one in runs:
        fresh.running(one, b"uuid")
    refused = fresh.cli("run", "--detach", "--gpu-memory", more, "--", "true")
    assert refused.code == 6, refused
    for one in runs:
        fresh.cli("cancel", one)


def test_its_use_is_measured(fresh: Site, until: Callable[..., Any]) -> None:
    fresh.start()
    run = fresh.python(asking(hold_mib=2048, stay_s=300), resources={"gpu_milli": 1000})

    def used() -> list[dict[str, Any]]:
        points = fresh.call("GET", f"/runs/{run}/usage").json()["points"]
        return [one for point in points for one in point["gpu"] if one.get("memory_bytes", 0) >= 2 << 30]

    found = until(used, "a sample of its GPU")
    assert len({one["index"] for one in found}) == 1
    assert 0 <= found[0]["utilization"] <= 1
    fresh.cli("cancel", run)
