"""The cache from a user's side: a second call takes what the first returned, unless something that counts has changed."""

from __future__ import annotations

import pytest

import mainspring as ms
from mainspring.sdk.packages import packages_digest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("live")]


@pytest.fixture
def counted(tmp_path):
    """A cached task that leaves a line in a file each time it is computed, and the count of these."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    path = str(ledger)

    def train(lr, scale=2):
        with open(path, "a") as file:
            file.write("x\n")
        return {"value": lr * scale}

    train.__qualname__ = "<test>.train"
    return ms.task(cache=True)(train), lambda: len(ledger.read_text().splitlines())


def test_a_second_call_takes_what_the_first_returned(counted, monkeypatch) -> None:
    train, count = counted
    first = train.submit(3)
    assert first.result(60) == {"value": 6}
    second = train.submit(3)
    assert (second.state, second.cached_from, second.result(10)) == ("succeeded", first.id, {"value": 6})
    assert train.submit(4).result(60) == {"value": 8}
    assert count() == 2
    assert train.with_options(cache=False).submit(3).result(60) == {"value": 6}
    monkeypatch.setenv("MAINSPRING_NO_CACHE", "1")
    assert train.submit(3).result(60) == {"value": 6}
    assert count() == 4


def test_what_ran_beside_other_packages_is_not_offered(counted, monkeypatch) -> None:
    train, count = counted
    monkeypatch.setattr("mainspring.sdk.calls.packages_digest", lambda: "0" * 64)
    run = train.submit(3)
    assert run.result(60) == {"value": 6}
    assert any("it is not cached" in line for line in run.logs())
    assert train.submit(3).result(60) == {"value": 6}
    assert count() == 2


def test_the_digest_of_packages_is_the_same_until_one_changes(tmp_path, monkeypatch) -> None:
    def digest() -> str:
        monkeypatch.setattr("mainspring.sdk.packages._known", (float("-inf"), ""))
        return packages_digest()

    before = digest()
    assert digest() == before
    place = tmp_path / "site"
    told = place / "mine-1.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    code = tmp_path / "mine"
    code.mkdir()
    (told / "direct_url.json").write_text(f'{{"url": "file://{code}", "dir_info": {{"editable": true}}}}')
    monkeypatch.syspath_prepend(str(place))
    installed = digest()
    assert installed != before
    (code / "mine.py").write_text("x = 1")
    assert digest() != installed  # an editable install changes without a new version
