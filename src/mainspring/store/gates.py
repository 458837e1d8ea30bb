"""Gates: judgements of objectives, passed and refused ones alike, and the objectives themselves."""

from __future__ import annotations

from sqlalchemy import delete, select

from mainspring.core.objectives import Objective
from mainspring.core.records import GateResult
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.tables import gates, objectives


class Gates:
    """Reads and writes of gate results."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, result: GateResult, objective: Objective, *, event: NewEvent | None = None) -> GateResult:
        """Write a judgement; the objective as it was judged becomes the project's newest of that name."""

        def work(tx: Transaction) -> GateResult:
            tx.conn.execute(gates.insert(), values_of(result, gates))
            same = (objectives.c.project == result.project) & (objectives.c.name == objective.name)
            tx.conn.execute(delete(objectives).where(same))
            row = {"project": result.project, "name": objective.name, "objective": objective}
            tx.conn.execute(objectives.insert(), row)
            tx.tell(event)
            return result

        return self._db.write(work)

    def all(self, project: str, *, objective: str = "", model: str = "", run: str = "", limit: int = 1000) -> list[GateResult]:
        """Return judgements, newest first."""
        asked = (
            select(gates).where(gates.c.project == project).order_by(gates.c.created_at.desc(), gates.c.id.desc()).limit(limit)
        )
        for column, wanted in ((gates.c.objective, objective), (gates.c.model, model), (gates.c.run, run)):
            if wanted:
                asked = asked.where(column == wanted)
        return self._db.read(lambda conn: [record_of(GateResult, gates, row) for row in conn.execute(asked).mappings()])

    def objectives(self, project: str) -> list[Objective]:
        """Return the objectives of a project by name."""
        asked = select(objectives.c.objective).where(objectives.c.project == project).order_by(objectives.c.name)
        return self._db.read(lambda conn: list(conn.execute(asked).scalars()))
