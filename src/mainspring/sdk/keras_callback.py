"""A callback for Keras 3: metrics, checkpoints that count, and going on after the last epoch. Keras is loaded when it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mainspring.core.errors import UsageError
from mainspring.sdk.checkpoints import checkpoint_folder, is_resumed, saves_here, should_checkpoint
from mainspring.sdk.extras import need
from mainspring.sdk.tracking import log_metrics, should_stop

LOOK_S = 1.0  # how often, between batches, it is looked whether somebody asks
PREFIX, SUFFIX = "keras-", ".weights.h5"


def keras_callback(*, every: int = 1) -> Any:
    """Return a callback for `model.fit(..., callbacks=[ms.keras_callback()])`.

    Logs the metrics of each epoch; saves weights and optimizer after `every` epochs, when a checkpoint is asked for and when the
    run is to end, which it then does; begins after the newest saved epoch in a later try. Build the model before `fit`.
    A part of an epoch is kept too, but that epoch begins again. Raises UsageError without Keras.
    """
    if every < 1:
        raise UsageError(f"every is {every}.", hint="After how many epochs to save, 1 or more.")
    made: Any = type("MainspringCallback", (_Callback, need("keras", "ms.keras_callback()").callbacks.Callback), {})
    return made(every)


class _Callback:
    """What the callback does; Keras's own class gives it `model`."""

    model: Any

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every
        self._epoch = 0
        self._looked = time.monotonic()

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Go on from the newest checkpoint, if an earlier try left one."""
        del logs
        newest = _newest() if is_resumed() else None
        if newest is None:
            return
        if not self.model.built:
            raise UsageError(
                "The model is not built, so its weights cannot be restored.", hint="Give it an Input, or call build."
            )
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self.model.load_weights(newest)
        self._epoch = _epochs_of(newest)
        self.model._initial_epoch = self._epoch  # as Keras's own BackupAndRestore does it

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Remember where training is."""
        del logs
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save between epochs when somebody asks, and end when that is asked."""
        del batch, logs
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._answer(is_due=False)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's metrics and save."""
        self._epoch = epoch + 1
        log_metrics({name: float(value) for name, value in (logs or {}).items()}, step=epoch)
        self._answer(is_due=self._epoch % self._every == 0)

    def _answer(self, *, is_due: bool) -> None:
        if should_checkpoint() or is_due:
            self._save()
        if should_stop():
            self.model.stop_training = True

    def _save(self) -> None:
        folder = checkpoint_folder()
        if folder is None or not saves_here():
            return
        target = folder / f"{PREFIX}{self._epoch:08d}{SUFFIX}"
        draft = folder / f"draft-{os.getpid()}{SUFFIX}"
        self.model.save_weights(draft, overwrite=True)
        draft.rename(target)
        for older in folder.glob(f"{PREFIX}*{SUFFIX}"):
            if older != target:
                older.unlink(missing_ok=True)


def _newest() -> Path | None:
    folder = checkpoint_folder()
    return max(folder.glob(f"{PREFIX}*{SUFFIX}"), key=_epochs_of, default=None) if folder is not None else None


def _epochs_of(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX).removesuffix(SUFFIX))
