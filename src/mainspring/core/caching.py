"""A cache that never lies: a run may take the outputs of another only where everything that travels is the same.

`cache_parts` names what a run's outputs depend on; the key is the digest of all of it. What has no part in it: names, tags,
priority, limits of time and tries, and how much CPU, memory and disk was asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mainspring.core.codec import encode
from mainspring.core.resources import Resources
from mainspring.core.specs import RunSpec, Value

SAME_THING = ("function", "command")


def cache_parts(spec: RunSpec, secrets: Mapping[str, bytes], version: str) -> dict[str, str]:
    """Return what the outputs of `spec` depend on, by names for people; values are digests where they may be long.

    `secrets` are the sealed values, `version` is Mainspring's own: it calls the function and saves the result.
    """
    entry, code, where = spec.entry, spec.code, spec.environment
    asked = spec.resources
    parts = {
        "function": "" if entry is None else f"{entry.module}:{entry.function}",
        "function body": "" if entry is None else entry.pickled,
        "command": " ".join(spec.command[:1]),
        "command line": _digest(spec.command) if spec.command else "",
        "code": code.manifest,
        "working folder": code.folder,
        "interpreter": where.interpreter,
        "packages": where.packages,
        "lock file": where.lock,
        "wheels": where.wheels,
        "image": where.image,
        "GPUs": " | ".join(_gpus(one) for one in (asked, *spec.alternatives)).strip(" |"),
        "replicas": f"{spec.min_replicas}..{spec.replicas}" if spec.min_replicas else str(spec.replicas),
        "Mainspring": version,
    }
    parts |= {f"argument {name}": _digest(value) for name, value in spec.args.items()}
    parts |= {f"parameter {name}": _digest(value) for name, value in spec.params.items() if name not in spec.args}
    parts |= {f"variable {name}": _digest(value) for name, value in spec.env.items()}
    parts |= {f"secret {name}": hashlib.sha256(sealed).hexdigest() for name, sealed in secrets.items()}
    return {name: value for name, value in parts.items() if value}


def cache_key(project: str, parts: Mapping[str, str]) -> str:
    """Return the digest of all parts; runs of another project never agree."""
    return hashlib.sha256(encode([project, dict(parts)])).hexdigest()


def changed_parts(parts: Mapping[str, str], earlier: Mapping[str, str]) -> list[str]:
    """Return the names of the parts in which two runs differ, sorted."""
    return sorted(name for name in {*parts, *earlier} if parts.get(name) != earlier.get(name))


def compare_outputs(first: Mapping[str, Value], second: Mapping[str, Value]) -> dict[str, bool]:
    """Return, for each name in the outputs of two runs, whether both have it with the same content."""
    return {
        name: name in first and name in second and _content(first[name]) == _content(second[name])
        for name in sorted({*first, *second})
    }


def _content(value: Value) -> tuple[str, str, str]:
    return str(value.kind), value.digest, _digest(value.json)


def is_same_thing(parts: Mapping[str, str], earlier: Mapping[str, str]) -> bool:
    """Say whether two runs call the same function or program, so that comparing them tells something."""
    return all(parts.get(name) == earlier.get(name) for name in SAME_THING)


def _digest(value: object) -> str:
    return hashlib.sha256(encode(value)).hexdigest()


def _gpus(asked: Resources) -> str:
    return f"{asked.gpu_milli} {asked.gpu_memory_bytes} {' '.join(asked.gpu_models)}" if asked.is_gpu() else ""
