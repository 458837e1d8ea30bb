"""Models: an estimator saved as ONNX where that was verified on sample rows, else as it is; registered, named, opened again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mainspring.client.client import Client
from mainspring.client.connection import connect
from mainspring.core.errors import ArtifactError, UsageError
from mainspring.core.records import ModelVersion
from mainspring.core.specs import Value, ValueKind
from mainspring.sdk.awaiting import in_thread, within
from mainspring.sdk.extras import need
from mainspring.sdk.folders import copy_content, fetched, temporary, upload_folder
from mainspring.sdk.onnx import OnnxModel, convert, signature_of
from mainspring.sdk.progress import check_wanted


class Model:
    """A model with its signature: an estimator here, or a model on the server that is fetched when it is used.

    `sample` are rows it predicts on (a frame, or an array): they give the signature and verify the conversion.
    Without a sample the model is kept as it is, and `signature` must say what it takes if it is to be deployed.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        sample: Any = None,
        name: str = "",
        signature: Mapping[str, object] | None = None,
        run: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.version = 0
        self.run = run
        self.metrics = dict(metrics or {})
        self.aliases: tuple[str, ...] = ()
        self._estimator = estimator
        self._sample = sample
        self._signature = dict(signature) if signature is not None else None
        self._path: Path | None = None
        self._digest = ""
        self._told: dict[str, Any] = {}
        self._engine: Any = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, name: str = "") -> Model:
        """Return the model that was saved to a folder."""
        made = cls(name=name)
        made._path = Path(path).absolute()
        return made

    @classmethod
    def of_digest(
        cls,
        digest: str,
        *,
        name: str = "",
        meta: Mapping[str, object] | None = None,
        run: str = "",
        metrics: Mapping[str, float] | None = None,
    ) -> Model:
        """Return the model behind a manifest on the server; nothing is fetched yet."""
        made = cls(name=name, run=run, metrics=metrics)
        made._digest = digest
        made._told = dict(meta or {})
        return made

    @classmethod
    def of_version(cls, record: ModelVersion) -> Model:
        """Return a registered model."""
        meta = {"format": record.format, "signature": record.signature, "verification": record.verification}
        made = cls.of_digest(record.manifest, name=record.model, meta=meta, run=record.run, metrics=record.metrics)
        made.version, made.aliases = record.number, record.aliases
        return made

    @property
    def path(self) -> str:
        """Return the folder with `model.json`; saves or fetches the model first."""
        if self._path is None:
            if self._digest:
                self._path = fetched(connect(), self._digest, "models")
            else:
                self._path = temporary("mainspring-model-")
                self.save(self._path)
        return str(self._path)

    @property
    def format(self) -> str:
        """Return `onnx` (verified) or `native`."""
        return str(self._file().get("format", "native"))

    @property
    def signature(self) -> dict[str, Any]:
        """Return `{"inputs": [{name, dtype}], "outputs": [...]}`."""
        found = self._file().get("signature")
        return dict(found) if isinstance(found, Mapping) else {}

    @property
    def verification(self) -> dict[str, Any]:
        """Return `{rows, max_abs_difference, is_verified, note}`: how the converted model compared with the original."""
        found = self._file().get("verification")
        return dict(found) if isinstance(found, Mapping) else {}

    @property
    def is_verified(self) -> bool:
        """Say whether the converted model agreed with the original on the sample."""
        return bool(self.verification.get("is_verified"))

    @property
    def estimator(self) -> Any:
        """Return the original object; opens a pickle when the model was fetched. Raises ArtifactError when it was not kept."""
        if self._estimator is None:
            self._estimator = _unpickled(Path(self.path))
        return self._estimator

    def predict(self, rows: Any) -> Any:
        """Return the predictions for rows; by ONNX when the model was fetched and is verified."""
        return self._predictor().predict(rows)

    def predict_proba(self, rows: Any) -> Any:
        """Return class probabilities (rows, classes)."""
        return self._predictor().predict_proba(rows)

    def register(self, name: str = "", *, aliases: Sequence[str] = (), project: str = "default") -> Model:
        """Make this the next version of model `name`; moves `aliases` to it. Each call makes another version.

        Blocks until it is saved, converted, and what the server lacks is sent, with live progress on a terminal.
        Raises UsageError without a name, and for an estimator that cannot be saved.
        """
        called = name or self.name
        if not called:
            raise UsageError("A registered model needs a name.", hint="model.register('delays')")
        client = connect()
        digest = self.upload(client)
        check_wanted()
        record = client.models.add_version(
            called,
            digest,
            format=self.format,
            run=self.run,
            signature=self.signature,
            metrics=self.metrics,
            verification=self.verification,
            aliases=aliases,
            project=project,
        )
        made = Model.of_version(record)
        made._path, made._estimator = self._path, self._estimator
        return made

    async def register_async(
        self, name: str = "", *, aliases: Sequence[str] = (), project: str = "default", timeout: float | None = None
    ) -> Model:
        """Register as `register` does, without blocking the event loop.

        Raises as `register`, and TimeoutError after `timeout` seconds: it is given up then, as when it is cancelled. Where the
        last answer was under way the version may have been made.
        """
        work = in_thread(self.register, name, aliases=aliases, project=project)
        return await within(timeout, f"Registering {name or self.name}", work)

    def alias(self, alias: str, *, project: str = "default") -> Model:
        """Let `alias` mean this version; returns the model."""
        if not self.version:
            raise UsageError("Only a registered model can have an alias.", hint="model.register(NAME, aliases=['champion'])")
        record = connect().models.set_alias(self.name, alias, self.version, project=project)
        self.aliases = record.aliases
        return self

    @property
    def reference(self) -> str:
        """Return `name@version` of a registered model."""
        if not self.version:
            raise UsageError("This model is not registered.", hint="model.register(NAME)")
        return f"{self.name}@{self.version}"

    def upload(self, client: Client) -> str:
        """Send what the server lacks; return the digest of the manifest."""
        if not self._digest:
            self._digest, _ = upload_folder(client, Path(self.path))
        return self._digest

    def to_value(self, client: Client) -> Value:
        """Return the reference that travels as an argument."""
        return Value(kind=ValueKind.MODEL, digest=self.upload(client), meta=self._meta())

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `model.json` with `model.onnx` (verified) and `model.pkl` into a folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if self._estimator is None:
            copy_content(Path(self.path), target)
            return
        verification: dict[str, object] = {
            "rows": 0,
            "max_abs_difference": None,
            "is_verified": False,
            "note": "no sample was given",
        }
        data = b""
        if self._sample is not None:
            converted = convert(self._estimator, self._sample)
            data, verification = converted.data, converted.verification
        signature = self._signature
        if signature is None:
            signature = signature_of(self._sample, self._estimator) if self._sample is not None else {"inputs": [], "outputs": []}
        if data:
            (target / "model.onnx").write_bytes(data)
        try:
            (target / "model.pkl").write_bytes(_pickled(self._estimator))
        except UsageError:
            if not data:
                raise
        file = {
            "format": "onnx" if data else "native",
            "name": self.name or type(self._estimator).__name__,
            "signature": signature,
            "loader": "pickle",
            "verification": verification,
        }
        (target / "model.json").write_text(json.dumps(file, indent=2))
        self._told = dict(file)

    def _file(self) -> dict[str, Any]:
        """Return what `model.json` says."""
        if "format" not in self._told:
            folder = Path(self.path)  # saving tells as well
            if "format" not in self._told:
                try:
                    self._told = json.loads((folder / "model.json").read_text())
                except (OSError, ValueError) as wrong:
                    raise ArtifactError(f"{folder} holds no model: {wrong}.", hint="ms.Model(estimator, sample=X)") from wrong
        return self._told

    def _meta(self) -> dict[str, object]:
        meta: dict[str, object] = {"format": self.format, "signature": self.signature, "verification": self.verification}
        return {**meta, "name": self.name, "version": self.version} if self.name else meta

    def _predictor(self) -> Any:
        if self._estimator is not None:
            return self._estimator
        if self._engine is None:
            file = Path(self.path) / "model.onnx"
            self._engine = OnnxModel(file) if self.format == "onnx" and file.exists() else self.estimator
        return self._engine

    def __mainspring_save__(self, folder: str) -> dict[str, object]:
        """Write the model into `folder`; how a task returns one."""
        self.save(folder)
        return {"kind": "model", "meta": self._meta()}

    @classmethod
    def __mainspring_load__(cls, path: str, meta: Mapping[str, object] | None = None) -> Model:
        """Return the model whose files the runner put under `path`; how a task receives one."""
        told = dict(meta or {})
        made = cls.open(path, name=str(told.get("name", "")))
        version = told.get("version")
        made.version = version if isinstance(version, int) else 0
        return made

    def __repr__(self) -> str:
        if self.version:
            return f"Model({self.reference})"
        return f"Model({type(self._estimator).__name__ if self._estimator is not None else self._digest[:12] or self._path})"


def model(reference: str, *, project: str = "default") -> Model:
    """Return a registered model: `delays` (the newest version), `delays@champion`, `delays@3`."""
    name, _, ref = reference.partition("@")
    return Model.of_version(connect().models.get(name, ref or "latest", project=project))


def _pickled(estimator: Any) -> bytes:
    """Return the pickle; a class from the run's own code goes by value, since a replica does not have that code."""
    cloudpickle = need("cloudpickle", "Saving this model")
    module = sys.modules.get(type(estimator).__module__)
    is_own = _is_own(module)
    if is_own:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(estimator))
    except Exception as wrong:  # somebody's __reduce__ may raise anything
        raise UsageError(
            f"A {type(estimator).__name__} cannot be saved: {wrong}.", hint="Return the fitted estimator itself."
        ) from wrong
    finally:
        if is_own:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or module is None or module.__name__ == "__main__":
        return False
    return "site-packages" not in file and Path(file).is_relative_to(Path.cwd())


def _unpickled(folder: Path) -> Any:
    path = folder / "model.pkl"
    if not path.exists():
        raise ArtifactError("The original estimator was not kept.", hint="model.predict works; it uses ONNX.")
    return need("cloudpickle", "Opening this model").loads(path.read_bytes())
