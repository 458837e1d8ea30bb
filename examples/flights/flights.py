"""Will this flight be more than 15 minutes late? Three tasks: prepare features, train a model, judge it in dollars.

Plain functions: called directly they are ordinary Python; submitted, each runs where its resources are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

import mainspring as ms

CAUGHT_USD, ALERT_USD = 50.0, 15.0  # a caught late flight saves 50, each alert costs 15
ALERT_ABOVE = ALERT_USD / CAUGHT_USD
CATEGORIES = ("carrier", "origin", "dest")
WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
NUMBERS = ("month", "hour", "minute", "weekday", "distance", "arrival_hour", *WEATHER)
FEATURES = (*CATEGORIES, *NUMBERS)


@ms.task(cpus=1, memory="2GiB")
def prepare(flights: ms.Dataset) -> ms.Dataset:
    """Join flights with the weather at their origin and write features, labels and days of the month."""
    folder = Path(flights.path)
    frame = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("flights-*.csv"))], ignore_index=True)
    weather = pd.read_csv(folder / "weather.csv")
    frame = frame[frame["arr_delay"].notna()]
    codes = {name: sorted(frame[name].unique().tolist()) for name in CATEGORIES}
    out = Path("features")
    out.mkdir()
    np.savez(
        out / "features.npz",
        x=features(frame, weather, codes),
        late=(frame["arr_delay"].to_numpy() > 15).astype(np.int8),
        day=frame["day"].to_numpy(np.int16),
    )
    (out / "codes.json").write_text(json.dumps(codes))
    return ms.Dataset.from_path(out)


@ms.task(cpus=1, gpus=1, memory="2GiB")
def train(data: ms.Dataset, learning_rate: float = 0.1, leaves: int = 31, trees: int = 80, rows: int = 30_000) -> ms.Model:
    """Fit gradient boosting on four of five days and report the AUC on the held-out fifth."""
    from lightgbm import LGBMClassifier
    from sklearn.metrics import roc_auc_score

    x, late, is_held_out = load(data)
    known = np.flatnonzero(~is_held_out)
    chosen = np.random.default_rng(0).choice(known, min(rows, len(known)), replace=False)
    model = LGBMClassifier(
        learning_rate=learning_rate, num_leaves=leaves, n_estimators=trees, n_jobs=1, random_state=0, verbose=-1
    )
    model.fit(x[chosen], late[chosen])
    ms.log_metric("roc_auc", float(roc_auc_score(late[is_held_out], model.predict_proba(x[is_held_out])[:, 1])))
    return ms.Model(model, sample=pd.DataFrame(x[chosen[:200]], columns=list(FEATURES)))


@ms.task(cpus=1, memory="1GiB")
def evaluate(model: ms.Model, data: ms.Dataset) -> dict[str, float]:
    """Return what the model's alerts are worth on the held-out days, and its AUC."""
    from sklearn.metrics import roc_auc_score

    x, late, is_held_out = load(data)
    late_probability = np.asarray(model.predict_proba(x[is_held_out]))[:, 1]
    return {
        "value_usd": value_usd(late_probability, late[is_held_out]),
        "roc_auc": float(roc_auc_score(late[is_held_out], late_probability)),
    }


def features(frame: pd.DataFrame, weather: pd.DataFrame, codes: dict[str, list[str]]) -> np.ndarray:
    """Return the (n_flights, n_features) float32 matrix of what is known before departure."""
    keys = ["origin", "month", "day", "hour"]
    joined = frame[keys].merge(weather.drop_duplicates(keys)[keys + list(WEATHER)], on=keys, how="left")
    date = pd.to_datetime(frame[["year", "month", "day"]])
    columns = {
        **{name: frame[name].map({code: n for n, code in enumerate(codes[name])}).fillna(-1) for name in CATEGORIES},
        "month": frame["month"],
        "hour": frame["hour"],
        "minute": frame["minute"],
        "weekday": date.dt.weekday,
        "distance": frame["distance"],
        "arrival_hour": frame["sched_arr_time"] // 100,
        **{name: joined[name].fillna(-1.0) for name in WEATHER},
    }
    return np.column_stack([np.asarray(columns[name], dtype=np.float32) for name in FEATURES])


def load(data: ms.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (features, late, is_held_out); every fifth day of a month is held out, since rows of one day leak its weather."""
    arrays = np.load(Path(data.path) / "features.npz")
    return arrays["x"], arrays["late"], arrays["day"] % 5 == 0


def value_usd(late_probability: np.ndarray, late: np.ndarray) -> float:
    """Return the dollars that alerting above `ALERT_ABOVE` earns."""
    alert = late_probability > ALERT_ABOVE
    return float(CAUGHT_USD * np.sum(alert & (late == 1)) - ALERT_USD * np.sum(alert))
