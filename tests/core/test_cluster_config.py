"""Options of engine kinds: typed as they are declared, refused with the nearest right name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mainspring.core.backend import Backend, Engine, Option, OptionKind
from mainspring.core.cluster_config import check_config, secret_names
from mainspring.core.errors import UsageError
from mainspring.core.records import Cluster


def _create(cluster: Cluster, folder: Path, installation: str) -> Backend:
    raise NotImplementedError


LAB = Engine(
    create=_create,
    options=(
        Option(name="user", help="Who logs in."),
        Option(name="key_file", help="Its key.", kind=OptionKind.PATH),
        Option(name="gpus", help="Declared.", kind=OptionKind.NUMBER),
        Option(name="keep", help="Keep it.", kind=OptionKind.FLAG, default=False),
        Option(name="labels", help="Labels.", kind=OptionKind.LIST),
        Option(name="password", help="A word.", kind=OptionKind.SECRET),
    ),
    targets="HOST",
    min_targets=1,
)


def test_values_come_out_as_declared() -> None:
    given = {"--key-file": "/k", "gpus": "4", "keep": "yes", "labels": "a, b", "user": "ml"}
    config = check_config("lab", LAB, given, ["one", "two"])
    assert config == {
        "user": "ml",
        "key_file": "/k",
        "gpus": 4,
        "keep": True,
        "labels": ["a", "b"],
        "targets": ["one", "two"],
    }
    assert check_config("lab", LAB, {"gpus": 0.5, "keep": True, "labels": ["x"]}, ["h"])["gpus"] == 0.5
    assert check_config("lab", LAB, {}, ["h"]) == {"keep": False, "targets": ["h"]}
    assert secret_names(LAB) == {"password"}


@pytest.mark.parametrize(
    ("given", "targets", "said"),
    [
        ({"usr": "ml"}, ["h"], "did you mean --user"),
        ({"key-fle": "/k"}, ["h"], "did you mean --key-file"),
        ({"zzz": "1"}, ["h"], "it has: --user, --key-file"),
        ({"gpus": "many"}, ["h"], "--gpus takes a number"),
        ({"gpus": "-1"}, ["h"], "--gpus takes a number"),
        ({"gpus": True}, ["h"], "--gpus takes a number"),
        ({"keep": "perhaps"}, ["h"], "--keep takes no value"),
        ({"user": ""}, ["h"], "--user takes a text"),
        ({"user": 3}, ["h"], "--user takes a text"),
        ({"user": "a\x00"}, ["h"], "--user takes a text"),
        ({"labels": [1]}, ["h"], "--labels takes texts"),
        ({}, [], "needs 1 or more HOST"),
        ({}, ["h", "h"], "named twice"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], targets: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_config("lab", LAB, given, targets)


def test_a_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        check_config("lab", LAB, {"password": 12345}, ["h"])
    assert "12345" not in str(caught.value)


def test_targets_only_where_they_mean_something() -> None:
    with pytest.raises(UsageError, match="takes no 'h'"):
        check_config("flat", Engine(create=_create), {}, ["h"])
    one = Engine(create=_create, targets="HOST", max_targets=1)
    assert check_config("one", one, {}) == {"targets": []}
    with pytest.raises(UsageError, match="0 to 1 HOST"):
        check_config("one", one, {}, ["a", "b"])


def test_a_required_option_is_asked_for() -> None:
    engine = Engine(create=_create, options=(Option(name="url", help="Where it is.", is_required=True),))
    with pytest.raises(UsageError, match="--url: Where it is"):
        check_config("far", engine, {})
