"""Blob stores over a folder and over a real S3 server: the same tests run on both."""

from __future__ import annotations

import secrets
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore, S3Store

from mainspring.blobs import BlobStore


class Home:
    """Where a store lies: opens it as often as wanted, and reaches behind its back."""

    def __init__(self, url: str, folder: Path, config: dict[str, str], raw: LocalStore | S3Store) -> None:
        self.url, self.folder, self.config, self.raw = url, folder, config, raw
        self.is_s3 = bool(config)

    def open(self) -> BlobStore:
        """Open the store as another process would."""
        return BlobStore.open(self.url, folder=self.folder, config=self.config)

    def listing(self, prefix: str = "") -> list[str]:
        """Return all keys below `prefix`."""
        return sorted(meta["path"] for page in obstore.list(self.raw, prefix or None) for meta in page)

    def read(self, key: str) -> bytes:
        """Return an object as it lies there."""
        return bytes(obstore.get(self.raw, key).bytes())

    def overwrite(self, key: str, data: bytes) -> None:
        """Damage an object."""
        obstore.put(self.raw, key, data)


@pytest.fixture
def disk_home(tmp_path: Path) -> Home:
    """A store in a folder."""
    root = tmp_path / "blobs"
    root.mkdir()
    return Home(str(root), tmp_path / "scratch", {}, LocalStore(root))


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.engine)])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A store in a folder, or under a prefix of its own in a bucket."""
    if request.param == "disk":
        made: Home = request.getfixturevalue("disk_home")
        return made
    server = request.getfixturevalue("s3_server")
    prefix = secrets.token_hex(6)
    raw = S3Store(server.bucket, prefix=prefix, config=server.config(), client_options={"allow_http": True})
    return Home(f"s3://{server.bucket}/{prefix}", tmp_path / "scratch", server.config(), raw)


@pytest.fixture
def store(home: Home) -> BlobStore:
    """An open, empty store."""
    return home.open()
