"""Checkpoints of PyTorch programs: everything with a `state_dict`, in one file that is renamed into place. Loads torch late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mainspring.core.errors import UsageError
from mainspring.sdk.checkpoints import checkpoint_folder, is_resumed, saves_here, should_checkpoint
from mainspring.sdk.extras import need
from mainspring.sdk.tracking import should_stop

NAME = "torch.pt"


class TorchCheckpoint:
    """What is saved and restored together. `step` is how many steps were done."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._torch = need("torch", "ms.torch_checkpoint()")
        self._parts = parts
        self.step = 0
        folder = checkpoint_folder()
        if folder is not None and is_resumed() and (folder / NAME).exists():
            self._load(folder / NAME)

    def steps(self, count: int, *, every: int = 1) -> Iterator[int]:
        """Yield the steps from the one to go on with up to `count`; saves after `every` steps and when somebody asks.

        Ends early, after saving, when the run is asked to end.
        """
        if every < 1:
            raise UsageError(f"every is {every}.", hint="After how many steps to save, 1 or more.")
        while self.step < count:
            yield self.step
            self.step += 1
            if should_checkpoint() or self.step % every == 0 or self.step == count:
                self.save()
            if should_stop():
                return

    def save(self) -> None:
        """Save now. Outside a run, and in a replica other than the first, nothing is done."""
        folder = checkpoint_folder()
        if folder is None or not saves_here():
            return
        draft = folder / f"{NAME}.{os.getpid()}"
        states = [part.state_dict() for part in self._parts]
        self._torch.save({"step": self.step, "states": states, "random": self._torch.get_rng_state()}, draft)
        draft.rename(folder / NAME)

    def _load(self, path: Any) -> None:
        # before PyTorch 2 that mode cannot read an optimizer's numbers, or is not there; the file is this run's own
        limits = {"weights_only": True} if int(self._torch.__version__.split(".")[0]) >= 2 else {}
        found = self._torch.load(path, map_location="cpu", **limits)
        if len(found["states"]) != len(self._parts):
            raise UsageError(
                f"The checkpoint holds {len(found['states'])} states, and {len(self._parts)} are to be restored.",
                hint="Give ms.torch_checkpoint() what it was given when it was saved, in that order.",
            )
        for part, state in zip(self._parts, found["states"], strict=True):
            part.load_state_dict(state)
        self._torch.set_rng_state(found["random"])
        self.step = int(found["step"])


def torch_checkpoint(*parts: Any) -> TorchCheckpoint:
    """Restore a model, an optimizer, and whatever else has a `state_dict`, from the last try if there was one.

    `for step in ms.torch_checkpoint(model, optimizer).steps(1000, every=100): ...` is all that a loop needs.
    Raises UsageError without PyTorch, or without parts.
    """
    if not parts or not all(hasattr(part, "state_dict") for part in parts):
        raise UsageError("ms.torch_checkpoint() takes a model, an optimizer, or other things with a state_dict.")
    return TorchCheckpoint(parts)
