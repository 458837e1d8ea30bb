"""Loading a module without what it would bring along and nobody here uses: memory that a server keeps for ever."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType


def load_without(name: str, unused: Sequence[str]) -> ModuleType:
    """Import the module `name`, and none of `unused` with it; who wants one of those later can import it.

    For packages that others import where they find them and do without where they do not. Raises ModuleNotFoundError.
    """
    kept_out = [one for one in unused if one not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # None: "not to be found"
    try:
        return importlib.import_module(name)
    finally:
        for one in kept_out:
            del sys.modules[one]
