"""Operations: what people ask of engines, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from mainspring.core.operations import Operation, OperationState
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.fleet_tables import operations

TOPIC = "operations"
KEPT = timedelta(days=7)


class Operations:
    """Reads and writes of operations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ask(self, operation: Operation, *, now: datetime, event: NewEvent | None = None) -> Operation:
        """Write what is asked; what ended a week ago is forgotten with it."""

        def work(tx: Transaction) -> Operation:
            tx.conn.execute(delete(operations).where(operations.c.ended_at < now - KEPT))
            tx.conn.execute(operations.insert(), values_of(operation, operations))
            tx.tell(event, TOPIC)
            return operation

        return self._db.write(work)

    def get(self, id: str) -> Operation | None:
        """Return the operation with this id."""
        asked = select(operations).where(operations.c.id == id)
        row = self._db.read(lambda conn: conn.execute(asked).mappings().first())
        return None if row is None else record_of(Operation, operations, row)

    def pending(self) -> list[Operation]:
        """Return what nobody has answered yet, oldest first."""
        asked = (
            select(operations)
            .where(operations.c.state == OperationState.PENDING)
            .order_by(operations.c.created_at, operations.c.id)
        )
        return self._db.read(lambda conn: [record_of(Operation, operations, row) for row in conn.execute(asked).mappings()])

    def end(
        self,
        id: str,
        *,
        now: datetime,
        result: Mapping[str, object] | None = None,
        error: Mapping[str, object] | None = None,
        event: NewEvent | None = None,
    ) -> bool:
        """Record what came of it, once: False, and nothing done, when it has ended already."""
        state = OperationState.FAILED if error else OperationState.DONE
        new = {"state": state, "ended_at": now, "result": result or {}, "error": error or {}}

        def work(tx: Transaction) -> bool:
            mine = (operations.c.id == id) & (operations.c.state == OperationState.PENDING)
            is_first = tx.conn.execute(update(operations).where(mine).values(**new)).rowcount == 1
            if is_first:
                tx.tell(event, TOPIC)
            return is_first

        return self._db.write(work)
