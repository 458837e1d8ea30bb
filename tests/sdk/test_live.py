"""The SDK against a real server on this machine: what a user types, and what comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pandas as pd
import pytest

import mainspring as ms

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("live")]


@pytest.fixture
def task():
    """Tasks of tests travel by value: a test module is no place to import from."""

    def make(function, **options):
        function.__qualname__ = f"<test>.{function.__name__}"
        return ms.task(**options)(function)

    return make


def test_a_submitted_call_returns_what_a_direct_call_returns(task):
    def add(a, b=2):
        import mainspring

        mainspring.log_metric("sum", a + b, step=1)
        mainspring.log_params(note="x")
        print("adding")
        return a + b

    add = task(add)
    run = add.submit(1, b=5)
    assert run.result(60) == add(1, b=5) == 6
    assert run.state == "succeeded"
    assert run.metrics == {"sum": 6.0}
    assert run.params == {"a": 1, "b": 5, "note": "x"}
    assert "adding" in list(run.logs())
    assert run.why()["sentence"]
    assert run.native()["backend"] == "local"
    assert run.rerun(a=10).result(60) == 15


def test_a_failure_brings_the_end_of_the_log(task):
    def boom():
        raise ValueError("the reason")

    with pytest.raises(ms.RunFailedError, match="the reason") as caught:
        task(boom).submit().result(60)
    assert caught.value.details["exit_code"] == 1
    assert "ValueError" in str(caught.value.details["log_tail"])


def test_results_feed_the_next_run_without_passing_through_here(task, tmp_path):
    def make(n):
        import pathlib

        import mainspring

        pathlib.Path("made").mkdir()
        pathlib.Path("made/x.txt").write_text("x" * n)
        return mainspring.Dataset.from_path("made")

    def look(data, frame):
        return [data.files[0].read_text(), int(frame["a"].sum())]

    made = task(make).submit(3)
    assert task(look).submit(made, pd.DataFrame({"a": [1, 2]})).result(60) == ["xxx", 3]
    registered = made.result().register("letters")
    assert (registered.version, ms.dataset("letters@v1").digest) == (1, made.result().digest)
    assert made.result().register("letters").version == 1
    assert Path(ms.dataset("letters").path, "x.txt").read_text() == "xxx"
    assert [path.name for path in made.pull(tmp_path)] == ["result"]


def test_cancel_ends_a_run(task):
    def sleep():
        import time

        time.sleep(60)

    run = task(sleep).submit()
    run.cancel(grace=0)
    with pytest.raises(ms.RunCancelledError):
        run.result(30)


def test_a_coroutine_can_wait_and_follow(task):
    def say(word):
        print(word)
        return word

    async def both():
        runs = [task(say).submit(word) for word in ("one", "two")]
        results = await asyncio.gather(*runs)
        return results, [line async for line in runs[0].logs_async()]

    assert asyncio.run(both()) == (["one", "two"], ["one"])


def test_a_coroutine_submits_waits_registers_and_fetches(task, tmp_path):
    def hold(seconds):
        import time

        time.sleep(seconds)
        return seconds

    def score(x):
        import mainspring

        mainspring.log_metric("score", x)

    @ms.pipeline(name="held")
    def held(seconds):
        holding(seconds)

    holding, scoring = task(hold), task(score, cpus=0.5)
    (tmp_path / "x.txt").write_text("x")

    async def all_of_it():
        runs = await asyncio.gather(*(holding.submit_async(seconds) for seconds in (0.0, 0.1, 60.0)))
        assert [run.state for run in await ms.wait_all_async(runs[:2], 60)] == ["succeeded"] * 2
        with pytest.raises(TimeoutError, match=r"is still (queued|running) after 0\.2 s"):
            await runs[2].result_async(timeout=0.2)
        waiting = asyncio.ensure_future(runs[2].wait_async())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not runs[2].is_done, "to wait no more is not to cancel"
        late = await held.submit_async(1.0)
        with pytest.raises(TimeoutError, match="Pipeline held is still active"):
            await late.wait_async(0.2)
        assert (await held.run_async(0.0)).state == "succeeded"
        assert await (await holding.submit_async(runs[0])).result_async(60) == 0.0, "results feed the next run"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await holding.submit_async(runs[2])
        study = await ms.sweep_async(scoring, trials=2, maximize="score", sampler="random", wait=False, x=ms.uniform(0, 1))
        assert (await study.wait_async(60)).state == "done"
        data = await ms.Dataset.from_path(tmp_path / "x.txt").register_async("of-a-coroutine", timeout=60)
        files = await runs[1].pull_async(tmp_path / "pulled")
        await asyncio.gather(runs[2].cancel(grace=0).wait_async(60), late.wait_async(60))
        return data.version, [file.read_text() for file in files]

    assert asyncio.run(all_of_it()) == (1, ["0.1\n"])


def test_a_sweep_finds_the_better_half(task):
    def objective(x, scale):
        import mainspring

        mainspring.log_metric("score", -abs(x - 0.5) * scale)

    study = ms.sweep(task(objective, cpus=0.5), trials=4, maximize="score", sampler="random", scale=2.0, x=ms.uniform(0, 1))
    assert study.state == "done"
    scores = [trial.value for trial in study.trials]
    assert study.best_trial.value == max(scores)
    assert study.best.params["scale"] == 2.0


def test_a_gate_judges_and_keeps_the_verdict():
    goal = ms.Objective("worth", kpi="usd", at_least=100)
    refused = ms.gate({"usd": 5.0}, objective=goal, raises=False)
    assert not refused.is_passed
    with pytest.raises(ms.ConflictError, match="must be at least 100"):
        ms.gate({"usd": 5.0}, objective=goal)
    assert ms.gate(120.0, objective=goal).is_passed


def test_a_pipeline_stops_at_its_gate(task):
    def prepare(n):
        return n + 1

    def evaluate(n):
        return {"usd": float(n)}

    prepare, evaluate = task(prepare), task(evaluate)

    @ms.pipeline(objective=ms.Objective("rich", kpi="usd", at_least=10), name="build")
    def build(n):
        ms.gate(evaluate(prepare(n)))

    assert build.submit(20).wait(60).steps == {"prepare": "succeeded", "evaluate": "succeeded", "gate": "succeeded"}
    with pytest.raises(ms.RunFailedError, match="must be at least 10"):
        asyncio.run(asyncio.wait_for(build.submit(1).wait_async(), 60))


def test_shares_and_use_are_told_and_configured(task):
    tree = ms.share("lab", guarantee="1gpu", weight=2, budget="5usd/month")
    assert [(one.name, one.guarantee["gpu"], one.weight) for one in tree] == [("lab", 1000, 2.0)]
    assert [(one.name, one.budget_usd) for one in ms.connect().shares.all()] == [("lab", "5")]
    (moved,) = ms.share("lab", limit="2gpu", parent="faculty", held=True)
    assert (moved.name, moved.limit, moved.is_held) == ("faculty/lab", {"gpu": 2000}, True)
    (back,) = ms.share("lab", limit="", parent="", held=False)
    assert (back.name, back.limit, back.is_held) == ("lab", {}, False)
    assert {"", "lab"} <= {one.name for one in ms.share()}
    with pytest.warns(UserWarning, match="scaled down"):
        ms.share("lab", guarantee="9gpu")
    with pytest.raises(ms.UsageError):
        ms.share(weight=2)
    ms.share("lab", guarantee="")
    task(lambda: 1, gpus=1, name="used").submit().wait()
    assert any(row.gpu_hours > 0 for row in ms.usage(by="user"))


def test_what_was_decided_held_and_kept_is_told(task):
    client = ms.connect()
    run = task(lambda: 1, name="decided", gpus=1).submit()
    run.wait()
    record = client.plans.recorded("now", has_snapshot=True)
    assert [one.run for one in record.plan.decisions] == [run.id]
    assert client.plans.replay(record)["same_plan"]
    assert client.plans.recorded().number == record.number
    now = client.plans.fresh()
    assert (now.number, now.plan.decisions, now.snapshot) == (0, (), None)
    past = client.shares.history(hours=1, stretches=6)
    assert (past.unit, len(past.held[run.record.owner])) == ("gpu", 6)
    kept, notices = client.shares.reserve("lab", "tomorrow 9:00", "tomorrow 18:00", "4gpu:A100")
    assert (kept.replicas, kept.resources.gpu_models, len(notices)) == (4, ("A100",), 1)
    assert kept in client.shares.reservations()
    client.shares.release(kept.id)
    with pytest.raises(ms.UsageError, match="ends_at 'some day' is no moment"):
        client.shares.reserve("lab", "tomorrow", "some day", "1gpu")
    with pytest.raises(ms.SpecError, match="cannot be reserved"):
        client.shares.reserve("lab", "tomorrow 9:00", "tomorrow 18:00", "2gpu, 4cpu")


def test_a_policy_is_shown_rehearsed_and_set(task, tmp_path):
    task(lambda: 1, name="rehearsed").submit().wait()
    file = tmp_path / "new.toml"
    file.write_text("[order]\naging_s = 60\n")
    assert ms.rehearse(file, last="1h").then.policy.order.aging_s == 60.0
    assert ms.policy().order.aging_s != 60.0
    assert ms.policy(file).order.aging_s == 60.0
    file.write_text("[order]\naging = 60\n")
    with pytest.raises(ms.SpecError, match="Line 2"):
        ms.policy(file)
    assert ms.policy().order.aging_s == 60.0


def test_why_and_when_before_and_after_submission(task):
    def hold(seconds=30.0):
        import time

        time.sleep(seconds)

    holder = task(hold, gpus=2, name="holder", timeout="60s")
    first, second = holder.submit(), holder.submit()
    try:
        told = ms.why(second)
        assert told["state"] == "queued"
        assert ms.why(second.id)["run"] == second.id
        assert ms.forecast(second).median >= second.record.created_at
        assert ms.forecast(second.id).confidence == ms.forecast(holder, seconds=1.0).confidence
        as_is, less, never = ms.what_if(holder, {"gpus": 1, "priority": "low"}, {"gpus": 9}, seconds=1.0)
        assert (as_is.label, less.label) == ("as it is", "gpus=1, priority='low'")
        assert as_is.forecast is not None
        assert never.forecast is None
        assert "GPU" in never.refusal
    finally:
        for run in (second, first):
            run.cancel(grace=0).wait()
