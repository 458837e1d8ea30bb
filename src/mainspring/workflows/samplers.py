"""Where to look next: the entry points `tpe`, `random` and `grid` (group `mainspring.samplers`).

A sampler keeps nothing between calls. Optuna is used as a library: its study is rebuilt in memory from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from mainspring.core.records import Dimension, SweepSpec, Trial
from mainspring.core.spaces import check_space
from mainspring.workflows.grids import axes_of

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it would say is in our rows

LEARNED_FROM = 2000  # told trials that TPE looks at; more cost time and change little
WIDE = 8  # untold trials from which suggestions over choices begin to repeat
RANDOM_EVERY = 3


class Sampler(Protocol):
    """The plug-in point of sweeps: a factory `(spec) -> Sampler` behind an entry point."""

    def suggest(self, history: Sequence[Trial], number: int) -> dict[str, object]:
        """Return a value for each dimension of the space.

        Deterministic: the same spec, history and `number` (from 1) give the same values on any machine. Trials of the
        history that are not told are still running. Under 1 s for 1,000 trials.
        """
        ...


def random(spec: SweepSpec) -> Sampler:
    """Return a sampler that draws each trial alone; the history does not matter."""
    return _Random(spec)


def grid(spec: SweepSpec) -> Sampler:
    """Return a sampler that goes through a grid; ranges of numbers are divided so that about `trials` points result."""
    return _Grid(spec)


def tpe(spec: SweepSpec) -> Sampler:
    """Return the Tree-structured Parzen Estimator (Bergstra et al., NIPS 2011), as Optuna has it."""
    return _Tpe(spec)


class _Random:
    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        check_space(spec.space)

    def suggest(self, history: Sequence[Trial], number: int) -> dict[str, object]:  # noqa: ARG002 the contract has it
        draw = np.random.default_rng([abs(self._spec.seed), int(self._spec.seed < 0), number])
        return {one.name: _drawn(one, draw) for one in self._spec.space}


class _Grid:
    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        check_space(spec.space)

    def suggest(self, history: Sequence[Trial], number: int) -> dict[str, object]:  # noqa: ARG002 the contract has it
        axes = axes_of(self._spec)
        size = math.prod(len(axis) for axis in axes)
        place = (number - 1) % size
        if self._spec.trials < size:  # too few trials for all points: stride through them instead of filling a corner
            place = place * _stride(size) % size
        chosen: list[object] = []
        for axis in reversed(axes):
            place, digit = divmod(place, len(axis))
            chosen.append(axis[digit])
        return {one.name: value for one, value in zip(self._spec.space, reversed(chosen), strict=True)}


class _Tpe:
    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._by_chance = _Random(spec)
        self._distributions = {one.name: _distribution(one) for one in spec.space}

    def suggest(self, history: Sequence[Trial], number: int) -> dict[str, object]:
        running = sum(trial.told_at is None for trial in history)
        has_choices = any(one.kind == "choice" for one in self._spec.space)
        if has_choices and running >= WIDE and number % RANDOM_EVERY == 0:
            # Over choices, many suggestions from one state of knowledge are the same one; some are drawn instead.
            return self._by_chance.suggest(history, number)
        seed = int(np.random.SeedSequence([abs(self._spec.seed), int(self._spec.seed < 0), number]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        direction = StudyDirection.MAXIMIZE if self._spec.is_maximized else StudyDirection.MINIMIZE
        study = optuna.create_study(sampler=sampler, direction=direction)
        for trial in self._learned_from(history):
            found = self._frozen(trial)
            if found is not None:
                study.add_trial(found)
        asked = study.ask(self._distributions).params
        return {one.name: _plain(one, asked[one.name]) for one in self._spec.space}

    def _learned_from(self, history: Sequence[Trial]) -> list[Trial]:
        ordered = sorted(history, key=lambda trial: trial.number)
        told = [trial for trial in ordered if trial.told_at is not None][-LEARNED_FROM:]
        return told + [trial for trial in ordered if trial.told_at is None]

    def _frozen(self, trial: Trial) -> FrozenTrial | None:
        """Return the row as Optuna's trial, None for one that is not of this space."""
        params = _indexed(self._spec.space, trial.params)
        if params is None:
            return None
        if trial.told_at is None:
            return create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions)
        if trial.value is None or not math.isfinite(trial.value):
            return create_trial(state=TrialState.FAIL, params=params, distributions=self._distributions)
        return create_trial(value=trial.value, params=params, distributions=self._distributions)


def _drawn(one: Dimension, draw: np.random.Generator) -> object:
    if one.kind == "choice":
        return one.choices[int(draw.integers(len(one.choices)))]
    if one.kind == "int":
        return int(draw.integers(int(one.low), int(one.high), endpoint=True))
    if one.kind == "log":
        value = math.exp(draw.uniform(math.log(one.low), math.log(one.high)))
    else:
        value = float(draw.uniform(one.low, one.high))
    return min(max(value, one.low), one.high)


def _distribution(one: Dimension) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution(range(len(one.choices)))  # by place: True and 1 are equal, and both may be listed
    if one.kind == "int":
        return IntDistribution(int(one.low), int(one.high))
    return FloatDistribution(one.low, one.high, log=one.kind == "log")


def _plain(one: Dimension, value: object) -> object:
    if one.kind == "choice":
        return one.choices[int(str(value))]
    return value


def _indexed(space: Sequence[Dimension], params: Mapping[str, object]) -> dict[str, object] | None:
    """Return `params` as Optuna has them (choices by place), None if one is missing or outside the space."""
    found: dict[str, object] = {}
    for one in space:
        value = params.get(one.name)
        if one.kind == "choice":
            places = [place for place, option in enumerate(one.choices) if (type(option), option) == (type(value), value)]
            if not places:
                return None
            found[one.name] = places[0]
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not one.low <= value <= one.high:
            return None
        found[one.name] = value
    return found


def _stride(size: int) -> int:
    """Return a step of about the golden part of `size` that meets every point before it repeats."""
    step = max(1, round(size * 0.6180339887))
    while math.gcd(step, size) != 1:
        step += 1
    return step
