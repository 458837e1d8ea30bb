"""What `cluster add` says where one thing is missing, as people type it: the sentence, and the command that mends it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from engines.docker import IMAGE as CONTAINER
from engines.kubernetes.cluster import IMAGE as POD
from engines.waiting import until
from tests.backends.test_kubernetes_access import proxied
from tests.backends.test_kubernetes_flavours import definition

from mainspring.backends.kubernetes.api import MERGE_PATCH

if TYPE_CHECKING:
    from conftest import Done, Site

FLEET = pytest.mark.xdist_group("fleet")
pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.timeout(900)]  # the first waits for the program of Kubernetes
PROGRAMS = ("sinfo", "scontrol", "squeue", "sbatch", "mkdir", "test", "ssh", "ssh-keygen")
NODE = "/api/v1/nodes/n1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
Told = dict[str, Any]


@pytest.fixture(scope="module")
def desk(of_module: Site, kubernetes: Any, slurm: Any) -> Site:
    """A server that pods reach, with nothing but `PROGRAMS` on its PATH; its user is root without root's way past permissions."""
    programs = of_module.home.parent / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    of_module.behind = (str(shutil.which("setpriv")), "--bounding-set=-dac_override,-dac_read_search")
    of_module.env = {**slurm.env, "PATH": str(programs), "HOME": str(of_module.home.parent)}
    of_module.start("--cpus", "1", "--bind", kubernetes.address)
    return of_module


def as_it_is(told: Told) -> None:
    """Change nothing."""


def old_token(told: Told) -> None:
    told["users"][0]["user"]["token"] = "old"


def no_authority(told: Told) -> None:
    del told["clusters"][0]["cluster"]["certificate-authority"]


def nobody_there(told: Told) -> None:
    told["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"


KUBECTL = "kubectl --kubeconfig {file} --context test"
ADD = "mainspring cluster add"


@FLEET
@pytest.mark.parametrize(
    ("user", "change", "words", "says", "mends"),
    [
        ("team", as_it_is, ("--context", "lab"), "There is no context 'lab' in {file}; there are: test.",
         f"{ADD} kubernetes --kubeconfig {{file}} --context test"),
        ("nobody", as_it_is, (), "These rights are missing in name space default: create jobs.batch",
         "kubectl get namespace default || kubectl create namespace default\nkubectl apply -f - <<'END'\napiVersion: rbac"),
        ("admin", as_it_is, ("--namespace", "nowhere"), "There is no name space nowhere in this cluster (context test).",
         "kubectl create namespace nowhere"),
        ("team", old_token, (), "does not accept the credentials of context 'test': they are wrong or have expired.",
         f"{KUBECTL} config set-credentials user --token=TOKEN"),
        ("team", no_authority, (), "shows a certificate that is not trusted",
         f"{KUBECTL} config set-cluster test --certificate-authority=FILE"),
        ("team", nobody_there, (), "Kubernetes at https://127.0.0.1:1 does not answer", f"{KUBECTL} get --raw /readyz"),
    ],
    ids=["context", "rights", "name space", "token", "authority", "answer"],
)  # fmt: skip
def test_a_kubernetes_cluster_that_cannot_be_used_is_refused_with_what_mends_it(
    desk: Site, kubernetes: Any, tmp_path: Path, user: str, change: Any, words: tuple[str, ...], says: str, mends: str
) -> None:
    file = tmp_path / "config"
    told = yaml.safe_load(Path(kubernetes.kubeconfig(user, "default")).read_text())
    change(told)
    file.write_text(yaml.safe_dump(told))
    done = add(desk, "kubernetes", "--kubeconfig", str(file), *words)
    check_refusal(done, 6, says.format(file=file), mends.format(file=file))


@FLEET
@pytest.mark.parametrize(
    ("words", "code", "says", "mends"),
    [
        ("kubernetes", 6, "there is no kubeconfig (~/.kube/config)", f"{ADD} kubernetes --kubeconfig FILE --context NAME"),
        ("kubernetes --kubeconfig {closed}/config", 6, "The server may not read the kubeconfig {closed}/config.",
         "ls -l {closed}/config"),
        ("slurm local --partition gpu", 6, "Slurm has no partition 'gpu'; it has main, short.",
         f"{ADD} slurm local --partition=main"),
        ("slurm local --folder {closed}", 6, "{closed}, which login host and nodes are to share, cannot be written into",
         f"{ADD} slurm local --folder=FOLDER"),
        ("slurm local --folder {closed}/a", 6, "cannot be made on this machine: mkdir: cannot create directory",
         f"{ADD} slurm local --folder=FOLDER"),
        ("slurm root@127.0.0.1 --port 1 --key /no/key", 6, "The key /no/key is not there.", "--key ~/.ssh/id_ed25519"),
        ("ssh 127.0.0.1 --port 1 --key /no/key", 6, "The key /no/key is not there.", "--key ~/.ssh/id_ed25519"),
        ("docker --host {socket}", 1, "The server's user may not speak to {socket}.", "sudo usermod -aG docker $USER"),
        ("docker --host {docker} --network nowhere", 6, "It has no network 'nowhere'.", "docker network create nowhere"),
        ("podman --host {socket}", 1, "The server's user may not speak to {socket}.",
         "systemctl --user enable --now podman.socket"),
        ("podman --host unix:///no/socket", 1, "podman at unix:///no/socket does not answer: there is no such socket.",
         "podman system service --time=0 unix:///no/socket"),
    ],
    ids=["kubeconfig", "closed kubeconfig", "partition", "closed folder", "no folder", "slurm key", "ssh key", "docker socket",
         "docker network", "podman socket", "podman"],
)  # fmt: skip
def test_what_is_not_there_is_told_with_what_mends_it(
    desk: Site, docker_engine: Any, closed: Path, words: str, code: int, says: str, mends: str
) -> None:
    names = {"closed": closed, "socket": f"unix://{closed / 'socket'}", "docker": docker_engine.url}
    done = add(desk, *words.format(**names).split())
    check_refusal(done, code, says.format(**names), mends.format(**names))


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nobody may write, with a kubeconfig and an engine's socket that nobody may use."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "socket"))
        engine.listen()
        (tmp_path / "config").touch()
        for name, mode in (("socket", 0), ("config", 0), (".", 0o500)):
            (tmp_path / name).chmod(mode)
        yield tmp_path


@FLEET
def test_without_one_of_slurms_commands_it_is_named(desk: Site) -> None:
    sbatch = of_path(desk, "sbatch")
    there = sbatch.readlink()
    sbatch.unlink()
    try:
        done = add(desk, "slurm", "local")
    finally:
        sbatch.symlink_to(there)
    check_refusal(done, 6, "Slurm's commands are not on this machine: sbatch is not installed.", f"{ADD} slurm LOGIN_HOST")


@pytest.mark.xdist_group("slurm-accounts")
def test_an_account_that_slurm_does_not_know_is_refused(fresh: Site, slurm_with_accounts: Any, tmp_path: Path) -> None:
    fresh.start("--cpus", "1", **slurm_with_accounts.env)
    words = ("slurm", "local", "--folder", str(tmp_path / "runs"), "--account")
    mends = f"{ADD} slurm local --account=ACCOUNT --folder={tmp_path / 'runs'}"
    check_refusal(add(fresh, *words, "nobodys"), 6, "Slurm would not take a job of ours: ", mends)
    assert add(fresh, *words, "physics").code == 0


@FLEET
def test_the_command_that_is_shown_adds_a_kubernetes_cluster(desk: Site, kubernetes: Any, team: str) -> None:
    words = ("kubernetes", "--kubeconfig", kubernetes.kubeconfig("team", team), "--image", POD, "--labels", "site=here")
    done = add(desk, *words)
    assert f"Neither nodes nor a quota of name space {team} tell what there is" in done.err, done
    added = as_it_says(desk, done)
    assert ["flavour", "Kubernetes"] in [line.split() for line in added.out.splitlines()], added
    shown = desk.call("GET", "/clusters/kubernetes").json()
    assert [(one["cpu_milli"], one["labels"]["site"]) for one in shown["nodes"]] == [(64_000, "here")]
    checked = desk.cli("cluster", "check", "kubernetes", timeout_s=240)
    assert (checked.code, checked.out.count("succeeded")) == (0, 1), checked
    assert desk.cli("cluster", "rm", "kubernetes", "--yes").code == 0


@FLEET
def test_the_command_that_is_shown_adds_a_login_host(desk: Site, slurm: Any) -> None:
    done = add(desk, "slurm", "root@127.0.0.1", "--port", str(slurm.port), "--key", slurm.key, "--name", "far")
    assert f"Nobody has accepted the host key of 127.0.0.1 yet: {slurm.fingerprint}." in done.err, done
    added = as_it_says(desk, done)
    assert "far is registered with 2 nodes" in added.out, added
    checked = desk.cli("cluster", "check", "far", timeout_s=120)
    assert (checked.code, checked.out.count("succeeded")) == (0, 2), checked
    assert desk.cli("cluster", "rm", "far", "--yes").code == 0


@FLEET
@pytest.mark.parametrize("flavour", ["Minikube", "MicroK8s", "Rancher", "OpenShift"])
def test_the_flavour_is_found_by_itself_and_printed(desk: Site, kubernetes: Any, tmp_path: Path, flavour: str) -> None:
    told = yaml.safe_load(Path(kubernetes.kubeconfig("admin", "default")).read_text())
    words = ("kubernetes", "--kubeconfig", str(tmp_path / "config"), "--name", flavour.casefold())
    with emulated(kubernetes, flavour, told):
        (tmp_path / "config").write_text(yaml.safe_dump(told))
        if flavour == "OpenShift":
            done = add(desk, *words, "--namespace", "nowhere")
            check_refusal(done, 6, "There is no name space nowhere in this cluster", "oc new-project nowhere")
        done = add(desk, *words)
        assert (done.code, ["flavour", flavour] in [line.split() for line in done.out.splitlines()]) == (0, True), done
        assert desk.call("DELETE", f"/clusters/{flavour.casefold()}").is_success


@contextlib.contextmanager
def emulated(kubernetes: Any, flavour: str, told: Told) -> Iterator[None]:
    """Make the cluster, or the kubeconfig `told`, look as the distribution's does."""
    (context,) = told["contexts"]
    match flavour:
        case "Minikube":
            context["name"] = told["current-context"] = "minikube"
            yield
        case "MicroK8s":
            kubernetes.ask("PATCH", NODE, {"metadata": {"labels": {"microk8s.io/cluster": "true"}}}, MERGE_PATCH)
            try:
                yield
            finally:
                kubernetes.ask("PATCH", NODE, {"metadata": {"labels": {"microk8s.io/cluster": None}}}, MERGE_PATCH)
        case "Rancher":
            with proxied(kubernetes, "/k8s/clusters/c-m-abc123") as url:
                told["clusters"][0]["cluster"] = {"server": url}
                yield
        case _:
            made = definition("SecurityContextConstraint", "security.openshift.io")
            kubernetes.ask("POST", DEFINITIONS, made)
            try:
                until(lambda: "security.openshift.io" in str(kubernetes.ask("GET", "/apis")))
                yield
            finally:
                kubernetes.ask("DELETE", f"{DEFINITIONS}/{made['metadata']['name']}")


IN_PYTHON = """
import mainspring as ms
clusters, given = ms.connect().clusters, {given}
try:
    clusters.add("docker", name="second", **given, network="nowhere")
except ms.MainspringError as refused:
    print(refused.hint)
added = clusters.add("docker", name="second", **given)
print(added["cluster"], len(added["nodes"]), clusters.probe("second")["probe"]["facts"]["engine"].split()[0])
print(*(ms.connect().runs.wait(run.id, 120).state for run in clusters.check("second")))
clusters.remove("second")
print([one["cluster"]["name"] for one in clusters.all()])
"""


@FLEET
def test_a_cluster_is_added_looked_at_checked_and_removed_in_python(desk: Site, docker_engine: Any) -> None:
    given = {"host": docker_engine.url, "image": CONTAINER, "cpus": 1, "memory": "1GiB"}
    words = [sys.executable, "-c", IN_PYTHON.replace("{given}", repr(given))]
    done = subprocess.run(words, env=desk.environ(), cwd=desk.home, capture_output=True, text=True, timeout=240, check=False)
    told = ["Mend it: docker network create nowhere", "second 1 docker", "succeeded", "['local']"]
    assert (done.returncode, done.stdout.splitlines()) == (0, told), done


def add(desk: Site, *words: str) -> Done:
    return desk.cli("cluster", "add", *words)


def check_refusal(done: Done, code: int, says: str, mends: str) -> None:
    """Check that nothing was added, why, and what is to be typed instead."""
    assert (done.code, says in done.err, mends in done.err) == (code, True, True), done


def as_it_says(desk: Site, done: Done) -> Done:
    """Type the last command that a refusal shows; it has to do."""
    assert done.code == 6, done
    shown = [line.partition("mend it: ")[2] for line in done.err.splitlines() if "mend it: mainspring " in line]
    added = desk.cli(*shlex.split(shown[-1])[1:])
    assert added.code == 0, (shown, added)
    return added


def of_path(desk: Site, program: str) -> Path:
    return Path(desk.env["PATH"]) / program
