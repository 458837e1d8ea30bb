"""Hosts over SSH from `cluster add` on, as people type it, with a real server and real sshds."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.e2e
ON_LAB = {"cpu_milli": 100, "labels": {"cluster": "lab"}}
LOOP = ["sh", "-c", "n=0; while [ ! -e $HOME/go ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo done"]

# as torch.distributed does it: the first one listens where all were told, the other one connects
MEET = """
import os, socket, time
rank, place = os.environ["RANK"], (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == "0":
    other, _ = socket.create_server(("", place[1])).accept()
else:
    while True:
        try:
            other = socket.create_connection(place, timeout=5)
            break
        except OSError:
            time.sleep(0.05)
other.sendall(rank.encode())
words = ("of", os.environ["WORLD_SIZE"], "with gpus", os.environ["CUDA_VISIBLE_DEVICES"], "heard", other.recv(1).decode())
print(os.uname().nodename, rank, *words)
"""

COUNT = """
import os, pathlib, time
import mainspring as ms
state = pathlib.Path(ms.checkpoint_dir) / "state"
begin = int(state.read_text()) if ms.is_resumed() else 0
print("begins with", begin, "on", os.uname().nodename, flush=True)
for step in range(begin, 1000):
    with ms.writing_checkpoint() as folder:
        (folder / "state").write_text(str(step + 1))
    time.sleep(0.2)
    if begin and step > begin + 3:
        break
"""


@pytest.fixture
def lab(fresh: Site, ssh_hosts: Any) -> Site:
    for name in ssh_hosts.addresses:
        (Path(ssh_hosts.folder) / name / "home" / "go").unlink(missing_ok=True)
    fresh.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    return fresh


def add(lab: Site, hosts: Any, *names: str, flags: tuple[str, ...] = (), user: str = "root", **more: str) -> Any:
    keys = ",".join(hosts.fingerprint(name) for name in names)
    options = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", value)]
    targets = [hosts.addresses[name] for name in names]
    words = ["--user", user, "--key", hosts.key, "--host-key", keys, "--min-free-gib", "0.01", *options, *flags]
    return lab.cli("cluster", "add", "ssh", *targets, "--name", "lab", *words)


def go(hosts: Any, name: str) -> None:
    """Let the loops of a host end."""
    (Path(hosts.folder) / name / "home" / "go").touch()


def connections(lab: Site) -> int:
    """Count the ssh processes of the server."""
    assert lab.process is not None
    found = 0
    for task in Path(f"/proc/{lab.process.pid}/task").iterdir():
        with contextlib.suppress(OSError):  # threads and processes that end meanwhile
            for pid in (task / "children").read_text().split():
                found += Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"
    return found


def lines(log: bytes) -> list[int]:
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith(b"line ")]


def test_a_host_is_added_checked_used_and_forgotten(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    address = ssh_hosts.addresses["bm1"]
    refused = lab.cli("cluster", "add", "ssh", address, "--user", "root", "--key", ssh_hosts.key)
    assert (refused.code, ssh_hosts.fingerprint("bm1") in refused.out + refused.err) == (6, True), refused
    added = add(lab, ssh_hosts, "bm1", gpus="2")
    assert added.code == 0, added
    assert "lab is registered with 1 node" in added.out
    assert "2 gpu (declared)" in added.out
    checked = lab.cli("cluster", "check", "lab")
    assert (checked.code, "succeeded" in checked.out) == (0, True), checked
    done = lab.cli(
        "run", "--gpus", "1", "--label", f"node=lab.{address}", "--", "sh", "-c", "hostname; echo $CUDA_VISIBLE_DEVICES"
    )
    assert (done.code, done.out.splitlines()[-2:]) == (0, ["bm1", "0"]), done
    assert connections(lab) == 1
    assert lab.cli("cluster", "rm", "lab", "-y").code == 0
    until(lambda: connections(lab) == 0, "the end of its connections")


@pytest.mark.chaos
def test_a_run_outlives_the_server_and_its_end_is_told_once(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    assert add(lab, ssh_hosts, "bm1").code == 0
    run = lab.submit(LOOP, resources={"cpu_milli": 100, "labels": {"cluster": "lab"}})
    lab.running(run, b"line 3")
    lab.stop(signal.SIGKILL)
    lab.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1")
    seen = len(lab.log(run))
    until(lambda: len(lab.log(run)) > seen, "more of its log")
    go(ssh_hosts, "bm1")
    ended = lab.wait(run)
    found = lines(lab.log(run))
    assert (ended["state"], len(lab.attempts(run)), found) == ("succeeded", 1, list(range(1, len(found) + 1)))


@pytest.mark.chaos
def test_a_cut_link_is_unknown_until_it_is_healed(lab: Site, ssh_hosts: Any, until: Callable[..., Any]) -> None:
    assert add(lab, ssh_hosts, "bm1", "bm2").code == 0
    run = lab.submit(LOOP, resources={"cpu_milli": 100, "labels": {"node": f"lab.{ssh_hosts.addresses['bm1']}"}})
    lab.running(run, b"line 3")
    ssh_hosts.cut("bm1")
    try:
        why = lambda: lab.cli("why", run).out  # noqa: E731
        until(lambda: "No word from node" in why(), "its silence", timeout_s=90)
        other = lab.submit(["true"], resources={"cpu_milli": 100, "labels": {"cluster": "lab"}})
        assert lab.wait(other)["state"] == "succeeded", "another host is not held up"
        go(ssh_hosts, "bm1")
    finally:
        ssh_hosts.heal("bm1")
    ended = lab.wait(run, timeout_s=90)
    found = lines(lab.log(run))
    assert (ended["state"], len(lab.attempts(run)), found) == ("succeeded", 1, list(range(1, len(found) + 1)))


@pytest.mark.chaos
def test_a_run_of_a_host_that_dies_goes_on_elsewhere_from_its_checkpoint(
    fresh: Site, ssh_hosts: Any, until: Callable[..., Any]
) -> None:
    fresh.start("--cpus", "4", MAINSPRING_QUIET_BEAT_S="1", MAINSPRING_LOST_AFTER_S="3")
    assert add(fresh, ssh_hosts, "bm1", "bm2").code == 0
    run = fresh.submit(["python3", "-c", COUNT], resources={"cpu_milli": 100, "labels": {"cluster": "lab"}})
    until(lambda: fresh.attempts(run) and fresh.log(run), "its begin")
    first = fresh.log(run).split()[-1].decode()
    until(lambda: fresh.attempts(run)[0]["checkpoint_at"], "a checkpoint on the server")
    ssh_hosts.stop(first)
    try:
        ended = fresh.wait(run, timeout_s=90)
    finally:
        ssh_hosts.start(first)
    told = [line.decode() for attempt in (1, 2) for line in fresh.log(run, attempt=attempt).splitlines()]
    begun = [line for line in told if line.startswith("begins with")]
    assert (ended["state"], len(fresh.attempts(run))) == ("succeeded", 2), told
    assert begun[-1].split()[-1] != first
    assert int(begun[-1].split()[2]) > 0


def test_a_gang_over_two_hosts_finds_itself(lab: Site, ssh_hosts: Any) -> None:
    assert add(lab, ssh_hosts, "bm1", "bm2", gpus="2").code == 0
    run = lab.submit(
        ["python3", "-c", MEET], replicas=2, resources={"cpu_milli": 100, "gpu_milli": 2000, "labels": {"cluster": "lab"}}
    )
    ended = lab.wait(run, timeout_s=90)
    told = sorted((lab.log(run) + lab.log(run, replica=1)).decode().splitlines())
    assert ended["state"] == "succeeded", told
    assert {line.split()[0] for line in told} == {"bm1", "bm2"}
    assert {" ".join(line.split()[1:]) for line in told} == {"0 of 2 with gpus 0,1 heard 1", "1 of 2 with gpus 0,1 heard 0"}


# what one user's run may not do to another's: read files, see into a process, end it
PRYING = """
import os, sys
home, pid = sys.argv[1], int(sys.argv[2])
print("is", os.getuid(), "in", os.path.expanduser("~"))
for name, act in (
    ("list", lambda: os.listdir(home)),
    ("read", lambda: open(home + "/note").read()),
    ("look", lambda: open(f"/proc/{pid}/environ", "rb").read()),
    ("kill", lambda: os.kill(pid, 9)),
):
    try:
        act()
        print(name, "done")
    except PermissionError:
        print(name, "refused")
"""


@pytest.mark.parametrize("login", ["root", "ml"])
def test_each_persons_runs_are_a_unix_user_of_their_own(
    fresh: Site, ssh_hosts: Any, until: Callable[..., Any], login: str
) -> None:
    """By root itself, and by somebody whom sudo lets be some of them."""
    flags = ("--cpus", "1", "--bind", ssh_hosts.addresses["bm1"].rpartition(".")[0] + ".1")
    fresh.start(*flags, MAINSPRING_QUIET_BEAT_S="1")
    refused = add(fresh, ssh_hosts, "bm1", flags=("--as-owner",), user=login)
    assert (refused.code, "have to dial this server (--direct)" in refused.err) == (6, True), refused
    added = add(fresh, ssh_hosts, "bm1", flags=("--as-owner", "--direct"), user=login)
    assert added.code == 0, added
    tokens = {}
    for name in ("ann", "bob", "dan", "eve"):
        assert fresh.cli("user", "add", name).code == 0
        assert fresh.cli("project", "grant", "default", name, "editor").code == 0
        tokens[name] = json.loads(fresh.cli("token", "add", "test", "--user", name, "--json").out)["token"]

    def submit(name: str, *command: str) -> str:
        asked = {"command": command, "resources": ON_LAB, "grace_s": 1}
        answer = fresh.call("POST", "/runs", json=asked, headers={"Authorization": f"Bearer {tokens[name]}"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    anns = submit("ann", "sh", "-c", "echo mine >$HOME/note; echo up $(id -un) $USER $HOME; exec sleep 600")
    until(lambda: b"up " in fresh.log(anns), "ann's run", timeout_s=120)
    home = f"{ssh_hosts.folder}/bm1/ann"
    assert fresh.log(anns).split()[1:] == [b"ann", b"ann", home.encode()]
    pid = json.loads(fresh.cli("native", anns, "--json").out)["replicas"][0]["object"]["pid"]
    bobs = submit("bob", "python3", "-c", PRYING, home, str(pid))
    assert fresh.wait(bobs, timeout_s=120)["state"] == "succeeded", fresh.attempts(bobs)
    assert fresh.log(bobs).decode().splitlines() == [
        f"is 60002 in {ssh_hosts.folder}/bm1/bob",
        *(f"{name} refused" for name in ("list", "read", "look", "kill")),
    ]
    wrong = [(submit("eve", "true"), "has no user eve"), (fresh.submit(["true"], resources=ON_LAB), "may be none")]
    wrong += [(submit("dan", "true"), "does not let us be dan: sudo: ")] if login == "ml" else []
    for who, says in wrong:
        first = until(lambda who=who: [one for one in fresh.attempts(who) if one.get("outcome")], "its end", timeout_s=120)[0]
        assert (first["outcome"]["cause"], says in first["outcome"]["message"]) == ("launch_failed", True), first
        assert fresh.cli("cancel", who).code == 0
    fresh.stop(signal.SIGKILL)
    fresh.start(*flags, MAINSPRING_QUIET_BEAT_S="1")
    assert fresh.cli("cancel", anns).code == 0
    assert fresh.wait(anns, timeout_s=120)["state"] == "cancelled"
    assert len(fresh.attempts(anns)) == 1
