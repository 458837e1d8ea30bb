"""What the store of a real API server has forgotten: watches and lists begin anew, lose nothing, and say nothing twice."""

from __future__ import annotations

import os
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from engines.waiting import until
from tests.backends.test_kubernetes_access import PODS

from mainspring.backends.kubernetes import listing, watch
from mainspring.backends.kubernetes.api import Api, StaleError
from mainspring.backends.kubernetes.listing import listed
from mainspring.backends.kubernetes.places import find_place
from mainspring.backends.kubernetes.pods import Pod
from mainspring.backends.kubernetes.watch import Watch

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),  # the first waits until the program of Kubernetes is built
    pytest.mark.xdist_group("fleet"),
]


class Recorded(Watch):
    """A watch that keeps how often it listed, which pods it told of, and what it was told to be forgotten."""

    def __init__(self, api: Api, mark: str) -> None:
        self.lists, self.told, self.forgotten = 0, [], []
        super().__init__(api, PODS, f"old={mark}", lambda pod: self.told.append(short(pod)))

    lists: int
    told: list[str]
    forgotten: list[str]

    def _list(self) -> tuple[list[Pod], str]:
        self.lists += 1
        return super()._list()

    def _hear(self) -> None:
        try:
            super()._hear()
        except StaleError as wrong:
            self.forgotten.append(str(wrong))
            raise


def short(pod: Pod) -> str:
    return pod.metadata.name.rpartition("-")[2]


def api_of(kubernetes: Any, url: str, folder: Path) -> Api:
    """Return the door of an admin at an API server."""
    told = yaml.safe_load(Path(kubernetes.kubeconfig("admin", "default")).read_text())
    told["clusters"][0]["cluster"]["server"] = url
    (folder / "config").write_text(yaml.safe_dump(told))
    return Api(find_place({"kubeconfig": str(folder / "config")}))


class Pods:
    """Pods of one mark that no node takes, made and deleted at the cluster's first API server."""

    def __init__(self, kubernetes: Any) -> None:
        self.kubernetes = kubernetes
        self.mark = f"old-{os.getpid()}-{time.monotonic_ns() % 10**9}"

    def add(self, *names: str) -> None:
        spec = {"schedulerName": "nobody", "automountServiceAccountToken": False, "containers": [{"name": "c", "image": "x"}]}
        for name in names:
            about = {"name": f"{self.mark}-{name}", "labels": {"old": self.mark}}
            self.kubernetes.ask("POST", PODS, {"metadata": about, "spec": spec})

    def remove(self, name: str) -> None:
        self.kubernetes.ask("DELETE", f"{PODS}/{self.mark}-{name}", {"gracePeriodSeconds": 0})


@pytest.fixture
def pods(kubernetes: Any) -> Iterator[Pods]:
    made = Pods(kubernetes)
    yield made
    kubernetes.ask("DELETE", f"{PODS}?labelSelector=old%3D{made.mark}", {"gracePeriodSeconds": 0})


@pytest.mark.parametrize("flags", [(), ("--watch-cache=false",)], ids=["the server's own memory", "etcd"])
def test_a_watch_of_a_version_that_is_forgotten_lists_anew(
    flags: tuple[str, ...], kubernetes: Any, tmp_path: Path, pods: Pods
) -> None:
    """The API server dies, etcd is compacted meanwhile, and when it is back it answers 410 to where the watch had come to."""
    with kubernetes.another_server(*flags) as server:
        pods.add("stays", "goes")
        seen = Recorded(api_of(kubernetes, server.url, tmp_path), pods.mark)
        assert sorted(map(short, seen.pods())) == ["goes", "stays"]
        until(lambda: seen._is_synced)
        pods.add("came")
        until(lambda: "came" in seen.told)
        version = seen._version
        server.kill()
        pods.remove("goes")
        pods.add("new")
        assert kubernetes.compact() > int(version)
        server.start()
        until(lambda: len(seen.forgotten) > 0 and seen._is_synced)
        assert sorted(map(short, seen.pods())) == ["came", "new", "stays"]
        assert (seen.lists, len(seen.forgotten)) == (2, 1)
        assert "too old" in seen.forgotten[0]
        assert '"code":410' in asked(server, f"{PODS}?watch=true&timeoutSeconds=1&resourceVersion={version}")
        pods.add("late")
        until(lambda: "late" in seen.told)
        assert sorted(map(short, seen.pods())) == ["came", "late", "new", "stays"]
        assert seen.lists == 2, "the rest came by the watch"
        assert Counter(seen.told) == {"stays": 2, "goes": 1, "came": 2, "new": 1, "late": 1}, "once by each list, or by the watch"


def test_a_list_whose_rest_is_forgotten_is_begun_anew(
    kubernetes: Any, tmp_path: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two parts of a list etcd is compacted: the second part is 410, and the list is asked for at once."""
    monkeypatch.setattr(listing, "PAGE", "2")
    parts: list[dict[str, str]] = []

    class Slow(Api):
        def read(self, path: str, **query: str) -> bytes:
            parts.append(query)
            if len(parts) == 2:
                pods.add("new")
                kubernetes.compact()
            return super().read(path, **query)

    with kubernetes.another_server("--watch-cache=false") as server:
        pods.add("a", "b", "c")
        api = Slow(api_of(kubernetes, server.url, tmp_path).place)
        found, version = listed(api, PODS, Pod, labelSelector=f"old={pods.mark}")
        assert sorted(map(short, found)) == ["a", "b", "c", "new"]
        assert ["continue" in one for one in parts] == [False, True, False]
        assert int(version) > 0


def test_a_list_that_comes_late_does_not_undo_what_the_watch_has_heard(
    kubernetes: Any, tmp_path: Path, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody lists while the watch begins again, and is answered with what was before."""
    pods.add("goes")
    seen = Recorded(api_of(kubernetes, kubernetes.url, tmp_path), pods.mark)
    seen.pods()
    until(lambda: seen._is_synced)

    def late(api: Api, path: str, kind: type[Pod], **query: str) -> tuple[list[Pod], str]:
        found = listed(api, path, kind, **query)
        pods.add("new")
        pods.remove("goes")
        until(lambda: sorted(seen._pods) == [f"{pods.mark}-new"])
        return found

    monkeypatch.setattr(watch, "listed", late)
    seen._is_synced = False  # as between two watches
    assert list(map(short, seen.pods())) == ["goes"], "what it was told"
    seen._is_synced = True
    assert list(map(short, seen.pods())) == ["new"]


def asked(server: Any, path: str) -> str:
    """Return what an API server answers, as it is."""
    request = urllib.request.Request(f"{server.url}{path}", headers={"Authorization": f"Bearer {server.token}"})
    context = ssl.create_default_context(cafile=server.authority)
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return str(answer.read().decode())
