"""What each part of the Kubernetes for tests is told: its words, and its files. Nothing is started here."""

from __future__ import annotations

import json
from pathlib import Path

SANDBOX = "mainspring.test/sandbox:1"
CONFIG = "engine.kubeconfig"  # by which the parts of the cluster find its API server
_CNI = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def cni_folder() -> Path | None:
    """Return where the network plug-ins lie."""
    return next((folder for folder in _CNI if (folder / "bridge").exists()), None)


def kubeconfig(url: str, authority: str, token: str, namespace: str) -> str:
    """Return a kubeconfig with one context, `test`; JSON is YAML too."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": authority}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
        },
        indent=1,
    )


def etcd(folder: Path, clients: int, peers: int) -> list[str]:
    """Return etcd's words; nothing of it must outlive a power cut."""
    client, peer = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
    return [
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def apiserver(folder: Path, etcd_url: str, port: int, address: str) -> list[str]:
    """Return the API server's words: rights by RBAC, users by tokens."""
    return [
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--advertise-address={address}",
        f"--cert-dir={folder}/certificates",
        f"--service-account-key-file={folder}/sa.key",
        f"--service-account-signing-key-file={folder}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--api-audiences=api",
        f"--token-auth-file={folder}/tokens.csv",
        f"--client-ca-file={folder}/clients.crt",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
        "--feature-gates=MutatingAdmissionPolicy=true",  # by which a test changes pods as a distribution does
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def controllers(folder: Path, config: Path, port: int) -> list[str]:
    """Return the controllers' words."""
    return [
        f"--kubeconfig={config}",
        f"--service-account-private-key-file={folder}/sa.key",
        f"--cert-dir={folder}/controllers",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--leader-elect=false",
        "--controllers=*,-nodeipam,-node-route-controller,-cloud-node-lifecycle-controller",
    ]


def scheduler(folder: Path, config: Path, port: int) -> list[str]:
    """Return the scheduler's words."""
    words = [f"--kubeconfig={config}", f"--cert-dir={folder}/scheduler", "--bind-address=127.0.0.1"]
    return [*words, f"--secure-port={port}", "--leader-elect=false"]


def kubelet(folder: Path, config: Path, group: str, address: str, port: int, node: str) -> list[str]:
    """Write the kubelet's file and return its words. `config` is its kubeconfig; its pods are in that control group."""
    told = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": port,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "podLogsDir": f"{folder}/pod-logs",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "syncFrequency": "10s",
    }
    (folder / "kubelet.json").write_text(json.dumps(told))
    return [
        f"--config={folder}/kubelet.json",
        f"--kubeconfig={config}",
        f"--root-dir={folder}/kubelet",
        f"--cert-dir={folder}/kubelet-certificates",
        f"--hostname-override={node}",
        f"--node-ip={address}",
    ]


def containerd(folder: Path, bridge: str, address: str, numbers: tuple[int, int]) -> Path:
    """Write containerd's file, and the network that pods get: addresses on `bridge`, whose gateway is this machine.

    `numbers` are the last parts of their first address and of their last one. Returns the file.
    """
    net = address.rpartition(".")[0]
    first, last = numbers
    addresses = {"subnet": f"{net}.0/24", "gateway": address, "rangeStart": f"{net}.{first}", "rangeEnd": f"{net}.{last}"}
    network = {
        "cniVersion": "0.4.0",
        "name": "mainspring",
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{folder}/addresses",
                    "ranges": [[addresses]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (folder / "cni").mkdir(exist_ok=True)
    (folder / "cni" / "10-mainspring.conflist").write_text(json.dumps(network))
    written = folder / "containerd.toml"
    written.write_text(
        f"""version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_folder()}"
    conf_dir = "{folder}/cni"
"""
    )
    return written
