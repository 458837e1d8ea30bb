"""Specs refuse what cannot be meant, and say which field."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core import codec
from mainspring.core.errors import BY_CODE, ArchiveError, MainspringError, SpecError, UsageError, from_wire
from mainspring.core.ids import check_name, is_id, make_id
from mainspring.core.manifests import FileEntry, pack_manifest, read_manifest
from mainspring.core.objectives import Objective, judge
from mainspring.core.paths import is_safe_path
from mainspring.core.resources import Resources, check_resources
from mainspring.core.specs import RunSpec, check_spec
from mainspring.core.units import parse_bytes, parse_seconds, show_bytes, to_milli

texts = st.text(max_size=20)
specs = st.builds(
    RunSpec,
    command=st.lists(st.text(max_size=10), min_size=1, max_size=4).map(tuple),
    env=st.dictionaries(texts, texts, max_size=3),
    params=st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), texts), max_size=3),
    replicas=st.integers(-5, 5000),
    retries=st.integers(-5, 200),
    priority=st.integers(-2000, 2000),
    timeout_s=st.floats(allow_nan=True),
    tags=st.lists(texts, max_size=3).map(tuple),
)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(specs)
def test_a_spec_is_accepted_whole_or_refused_by_name(spec: RunSpec) -> None:
    refused: MainspringError | None = None
    try:
        check_spec(spec)
    except MainspringError as wrong:
        refused = wrong
    if refused is not None:
        assert refused.message
        assert refused.details.get("path")
        return
    assert codec.decode(codec.encode(spec), RunSpec) == spec
    assert math.isfinite(spec.timeout_s)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"resources": {"cpus": 1}}', "resources.cpus"),
        ('{"replicas": "1"}', "replicas"),
        ('{"retries": 1.5}', "retries"),
        ('{"surprise": 1}', "surprise"),
        ('{"code": {"manifest": 3}}', "code.manifest"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(body: str, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        codec.decode(body, RunSpec)
    assert caught.value.details["path"] == path


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"a": NaN}', "\x00", '{"command": ["\\ud800"]}'])
def test_broken_json_is_a_spec_error(body: str) -> None:
    with pytest.raises(SpecError):
        codec.decode(body, RunSpec)


@pytest.mark.parametrize("text", ["4", "", "-1GiB", "nan", "NaNGiB", "1e3GiB", "9999999PiB", "4 gib", "GiB", "4GiB5"])
def test_sizes_without_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(text, "memory")


def test_sizes_and_durations_are_read_as_written() -> None:
    assert parse_bytes("4GiB") == 4 * 2**30
    assert parse_bytes("500MB") == 500_000_000
    assert parse_seconds("90s") == parse_seconds("1.5m") == 90
    assert parse_seconds("0") == parse_seconds("0s") == 0  # of any unit
    with pytest.raises(UsageError, match="not a duration"):
        parse_seconds("10")
    assert show_bytes(4 * 2**30) == "4 GiB"
    assert (to_milli(0.5, "gpus"), to_milli(2, "gpus"), to_milli(1 / 3, "gpus")) == (500, 2000, 334)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1e9, True])
def test_amounts_without_sense_are_refused(value: float) -> None:
    with pytest.raises(UsageError):
        to_milli(value, "gpus")


@pytest.mark.parametrize("gpu_milli", [1500, 2300])
def test_a_share_of_a_gpu_stays_within_one(gpu_milli: int) -> None:
    with pytest.raises(SpecError) as caught:
        check_resources(Resources(gpu_milli=gpu_milli))
    assert caught.value.details["path"] == "resources.gpu_milli"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a..b", "-a", "a\n", "a" * 129, "ü", "a b"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name, "run")


@pytest.mark.property
@given(st.integers(0, 2**45 - 1), st.integers(0, 2**35 - 1), st.integers(0, 2**45 - 1))
def test_ids_sort_by_time(first_ms: int, chance: int, second_ms: int) -> None:
    one, two = make_id("run", first_ms, chance), make_id("run", second_ms, 0)
    assert is_id(one)
    assert first_ms == second_ms or (one < two) == (first_ms < second_ms)


@pytest.mark.property
@settings(max_examples=200)
@given(st.text(max_size=40))
def test_a_safe_path_stays_below_its_folder(path: str) -> None:
    if is_safe_path(path):
        assert ".." not in path.split("/")
        assert not path.startswith("/")
        assert "\x00" not in path


@pytest.mark.parametrize("paths", [["../x"], ["/etc/passwd"], ["a", "a"], ["a", "a/b"], ["a//b"], ["./a"], ["a\\b"]])
def test_hostile_manifests_are_refused(paths: list[str]) -> None:
    files = [{"path": path, "digest": "0" * 64, "size": 1, "mode": 0o644} for path in paths]
    with pytest.raises(ArchiveError):
        read_manifest(json.dumps({"files": files}).encode())


def test_a_manifest_has_one_digest_whatever_the_order() -> None:
    one, two = FileEntry(path="a", digest="0" * 64, size=1), FileEntry(path="b", digest="1" * 64, size=2)
    assert pack_manifest([one, two]) == pack_manifest([two, one])


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_every_error_survives_the_wire(cls: type[MainspringError]) -> None:
    back = from_wire(cls("what", hint="next", details={"n": 1}).to_wire())
    assert type(back) is cls
    assert (back.message, back.hint, back.details) == ("what", "next", {"n": 1})


def test_codes_are_unique() -> None:
    def walk(cls: type[MainspringError]) -> list[str]:
        own = [cls.code] if "code" in vars(cls) else []  # engines tell cases of an error apart among themselves, under its code
        return [*own, *(code for child in cls.__subclasses__() for code in walk(child))]

    codes = walk(MainspringError)
    assert len(codes) == len(set(codes))


def test_a_gate_says_why_in_a_sentence() -> None:
    goal = Objective(name="delays", kpi="value_usd", at_least=0, beats_by=5)
    assert judge(goal, {"value_usd": 3}).is_passed
    refused = judge(goal, {"value_usd": -3}, champion=1)
    assert not refused.is_passed
    assert "at least 0" in refused.sentence
    assert "champion" in refused.sentence
    with pytest.raises(UsageError):
        judge(goal, {"auc": 1.0})
    with pytest.raises(UsageError):
        judge(goal, {"value_usd": math.nan})
