"""The only door to the database."""

from mainspring.store.database import NewEvent
from mainspring.store.store import Store

__all__ = ["NewEvent", "Store"]
