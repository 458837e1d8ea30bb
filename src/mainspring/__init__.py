"""Mainspring: one fair queue over every machine a team owns, from the business question to the monitored endpoint.

Nothing is loaded and nothing starts on import: names are looked up when they are first used (PEP 562); `__init__.pyi`
tells type checkers what they are.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_NAMES = {
    "mainspring.core.records": ("GateResult",),
    "mainspring.core.spaces": ("choice", "integers", "loguniform", "uniform"),
    "mainspring.core.errors": (
        "AccessDeniedError", "ArtifactError", "AuthError", "CannotFitError", "ConflictError", "IntegrityError", "MainspringError",
        "NotFoundError", "QuotaError", "RunCancelledError", "RunError", "RunFailedError", "ServerError",
        "ServerUnreachableError", "SpecError", "StateError", "UnsupportedError", "UsageError", "VersionMismatchError",
    ),
    "mainspring.client.connection": ("connect",),
    "mainspring.sdk.checkpoints": ("checkpoint", "checkpoint_dir", "is_resumed", "should_checkpoint", "writing_checkpoint"),
    "mainspring.sdk.datasets": ("Dataset", "dataset"),
    "mainspring.sdk.deploy": ("Endpoint", "deploy", "deploy_async", "endpoint"),
    "mainspring.sdk.environments": ("environment", "environments", "prune_environments"),
    "mainspring.sdk.forecasts": ("forecast", "what_if", "why"),
    "mainspring.sdk.gates": ("gate",),
    "mainspring.sdk.keras_callback": ("keras_callback",),
    "mainspring.sdk.models": ("Model", "model"),
    "mainspring.sdk.objectives": ("Objective",),
    "mainspring.sdk.pipelines": ("Pipeline", "PipelineRun", "cron", "on_dataset", "on_push", "pipeline"),
    "mainspring.sdk.policies": ("policy", "rehearse"),
    "mainspring.sdk.runs": ("Run", "find_runs", "get_run", "wait_all", "wait_all_async"),
    "mainspring.sdk.shares": ("share", "usage"),
    "mainspring.sdk.sweeps": ("Study", "sweep", "sweep_async"),
    "mainspring.sdk.task": ("Task", "task"),
    "mainspring.sdk.torch_checkpoint": ("TorchCheckpoint", "torch_checkpoint"),
    "mainspring.sdk.tracking": ("log_artifact", "log_metric", "log_metrics", "log_params", "should_stop"),
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> object:
    """Load the module that has `name`, once."""
    if name not in _HOME:
        raise AttributeError(f"module 'mainspring' has no attribute {name!r}")
    found: object = getattr(_import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return what can be asked for."""
    return list(__all__)
