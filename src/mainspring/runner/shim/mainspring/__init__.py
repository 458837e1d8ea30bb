"""What user code imports as `mainspring` where Mainspring is not installed: logging, parameters, folders. Python 3.9, no more.

Where it is installed too, the installed one takes this one's place as soon as it is imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _yield_to_installed() -> bool:
    """Put our folder last on the path; become the installed Mainspring if there is one."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE] + [_HERE]
    for finder in sys.meta_path:
        spec = finder.find_spec("mainspring", None)
        if spec is not None and spec.loader is not None and not str(spec.origin).startswith(_HERE):
            module = importlib.util.module_from_spec(spec)
            sys.modules["mainspring"] = module
            spec.loader.exec_module(module)
            return True
    return False


if not _yield_to_installed():
    from ._checkpoints import checkpoint, checkpoint_dir, is_resumed, should_checkpoint, writing_checkpoint
    from ._graphs import find as __getattr__  # noqa: F401 (PEP 562)
    from ._graphs import pipeline
    from ._stops import should_stop
    from ._tracking import (
        Dataset,
        Model,
        log_artifact,
        log_metric,
        log_metrics,
        log_params,
        task,
    )

    __all__ = [
        "Dataset",
        "Model",
        "checkpoint",
        "checkpoint_dir",
        "is_resumed",
        "log_artifact",
        "log_metric",
        "log_metrics",
        "log_params",
        "pipeline",
        "should_checkpoint",
        "should_stop",
        "task",
        "writing_checkpoint",
    ]
