"""Bad input: each is refused with a sentence and a next step, by the command line and by REST, and nothing is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Site

pytestmark = pytest.mark.e2e

BAD_FLAGS = (
    ("--memory", "-4GiB"),
    ("--memory", "4"),
    ("--memory", "nan"),
    ("--memory", "9e99GiB"),
    ("--cpus", "-1"),
    ("--cpus", "nan"),
    ("--cpus", "inf"),
    ("--gpus", "-1"),
    ("--gpus", "1.5"),
    ("--gpus", "many"),
    ("--disk", "lots"),
    ("--timeout", "-5s"),
    ("--timeout", "nan"),
    ("--retries", "-1"),
    ("--retries", "1000000"),
    ("--replicas", "0"),
    ("--priority", "99999999"),
    ("--name", "../x"),
    ("--name", "a\x1b[31mb"),
    ("--name", "x" * 5000),
    ("--project", "../etc"),
    ("--tag", "a\nb"),
    ("--env", "=x"),
    ("--env", "1A=x"),
    ("--secret", "a-b"),
    ("--label", "novalue"),
    ("--no-such-flag", "x"),
)

BAD_SPECS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unknown field", {"comand": ["true"]}),
    ("unknown resource", {"resources": {"gpu": 1}}),
    ("text for a number", {"resources": {"cpu_milli": "two"}}),
    ("negative size", {"resources": {"memory_bytes": -1}}),
    ("absurd size", {"resources": {"memory_bytes": 10**30}}),
    ("negative timeout", {"timeout_s": -1}),
    ("list for a name", {"name": ["x"]}),
    ("path for a name", {"name": "../x"}),
    ("NUL in the command", {"command": ["a\x00b"]}),
    ("empty command", {"command": []}),
    ("control characters in a parameter", {"params": {"a\x1bb": 1}}),
    ("unknown kind", {"kind": "rocket"}),
    ("replicas", {"replicas": 0}),
)


@pytest.mark.parametrize(("flag", "value"), BAD_FLAGS, ids=[f"{flag[2:]}={value[:12]!a}" for flag, value in BAD_FLAGS])
def test_a_wrong_flag_is_refused_with_a_sentence(site: Site, flag: str, value: str) -> None:
    done = site.cli("run", f"{flag}={value}", "-d", "--", "true")
    assert (done.code, done.out) == (2, ""), done
    lines = done.err.strip().splitlines()
    assert lines[0].startswith("error: "), done.err
    assert any(line.startswith("hint: ") for line in lines), done.err
    assert "\x1b" not in done.err, "a control character reached the terminal"
    assert len(done.err) < 2000, "the message repeats what it was given, however long"


@pytest.mark.parametrize(("case", "spec"), BAD_SPECS, ids=[case for case, _ in BAD_SPECS])
def test_a_wrong_spec_is_refused_by_rest(site: Site, case: str, spec: dict[str, Any]) -> None:
    before = site.call("GET", "/runs?limit=1").json()["total"]
    answer = site.call("POST", "/runs", json={"command": ["true"], **spec})
    assert answer.status_code in (400, 422), answer.text
    told = answer.json()["error"]
    assert told["code"] in ("spec", "usage", "cannot_fit")
    assert told["message"]
    assert site.call("GET", "/runs?limit=1").json()["total"] == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"command": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_a_spec_at_all_is_refused(site: Site, body: bytes) -> None:
    answer = site.call("POST", "/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("spec", "usage")


def test_ten_megabytes_of_parameters_are_too_large(site: Site) -> None:
    answer = site.call("POST", "/runs", json={"command": ["true"], "params": {"x": "y" * 10_000_000}})
    assert answer.status_code == 413
    assert answer.json()["error"]["hint"]


def test_an_unknown_project_is_named(site: Site) -> None:
    done = site.cli("run", "--project", "nowhere", "-d", "--", "true")
    assert done.code == 4
    assert "nowhere" in done.err
    assert "hint: " in done.err


def test_an_unknown_run_is_named(site: Site) -> None:
    for command in (("show",), ("logs",), ("why",), ("cancel",), ("rerun",), ("pull",), ("rm", "-y")):
        done = site.cli(*command, "no-such-run")
        assert done.code == 4, (command, done)
        assert "no-such-run" in done.err


def test_a_request_that_can_never_fit_is_refused_at_once(site: Site) -> None:
    for flags, word in ((("--gpus", "3"), "2"), (("--cpus", "1000"), "64"), (("--memory", "900TiB"), "iB")):
        done = site.cli("run", *flags, "-d", "--", "true")
        assert done.code == 6, done
        assert f"ask for {flags[0]} " in done.err, f"what would fit is not said: {done.err}"
        assert word in done.err
        assert "hint: " in done.err
    done = site.cli("run", "--gpus", "1", "--gpu-model", "H100", "-d", "--", "true")
    assert done.code == 6
    assert "H100" in done.err
    done = site.cli("run", "--pool", "nowhere", "-d", "--", "true")
    assert done.code == 6
    assert "nowhere" in done.err


def test_a_script_that_is_not_there_is_named_before_anything_is_sent(site: Site) -> None:
    done = site.cli("run", "nothing.py")
    assert done.code == 2
    assert "nothing.py" in done.err
    assert str(site.home) in done.err, "where it was looked for is said"


def test_a_sweep_whose_trials_can_never_fit_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    (tmp_path / "tune.py").write_text("def tune(x=0.0):\n    return x\n")
    done = site.cli("sweep", "tune.py:tune", "--gpus", "3", "-n", "2", "--maximize", "y", "x=uniform:0:1", "-d", cwd=tmp_path)
    assert done.code == 6, done
    assert "ask for --gpus 2 or less" in done.err
