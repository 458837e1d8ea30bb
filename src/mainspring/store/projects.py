"""Projects and the rights in them."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select, update

from mainspring.core.errors import ConflictError, NotFoundError
from mainspring.core.records import Project, Role
from mainspring.store.columns import record_of, values_of
from mainspring.store.database import Database, NewEvent, Transaction
from mainspring.store.statements import Statement
from mainspring.store.tables import members, projects, users

_BY_NAME = Statement(select(projects).where(projects.c.name == bindparam("of")))


class Projects:
    """Reads and writes of projects and memberships."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, project: Project, *, event: NewEvent | None = None) -> Project:
        """Write a new project. Raises ConflictError when the name is taken."""

        def work(tx: Transaction) -> Project:
            if tx.conn.execute(select(projects.c.name).where(projects.c.name == project.name)).first() is not None:
                raise ConflictError(f"There is a project {project.name!r} already.")
            tx.conn.execute(projects.insert(), values_of(project, projects))
            tx.tell(event)
            return project

        return self._db.write(work)

    def edit(self, project: Project, *, event: NewEvent | None = None) -> Project:
        """Write what may be changed of a project. Raises NotFoundError."""

        def work(tx: Transaction) -> Project:
            row = values_of(project, projects)
            del row["name"], row["created_at"]
            if tx.conn.execute(update(projects).where(projects.c.name == project.name).values(**row)).rowcount == 0:
                raise NotFoundError(f"There is no project {project.name!r}.")
            tx.tell(event, "nodes")
            return project

        return self._db.write(work)

    def get(self, name: str) -> Project | None:
        """Return the project of this name."""
        found = self._db.ask(_BY_NAME, {"of": name})
        return record_of(Project, projects, found[0]) if found else None

    def all(self) -> list[Project]:
        """Return the projects by name."""
        asked = select(projects).order_by(projects.c.name)
        return self._db.read(lambda conn: [record_of(Project, projects, row) for row in conn.execute(asked).mappings()])

    def grant(self, project: str, user: str, role: Role, *, event: NewEvent | None = None) -> None:
        """Give `user` the right `role`, in place of any other. Raises NotFoundError."""

        def work(tx: Transaction) -> None:
            if tx.conn.execute(select(projects.c.name).where(projects.c.name == project)).first() is None:
                raise NotFoundError(f"There is no project {project!r}.")
            if tx.conn.execute(select(users.c.name).where(users.c.name == user)).first() is None:
                raise unknown_user(user)
            tx.conn.execute(delete(members).where(members.c.project == project, members.c.user == user))
            tx.conn.execute(members.insert(), {"project": project, "user": user, "role": role})
            tx.tell(event)

        self._db.write(work)

    def revoke(self, project: str, user: str, *, event: NewEvent | None = None) -> bool:
        """Take the rights of `user` in a project away; say whether there were any."""

        def work(tx: Transaction) -> bool:
            gone = tx.conn.execute(delete(members).where(members.c.project == project, members.c.user == user)).rowcount == 1
            if gone:
                tx.tell(event)
            return gone

        return self._db.write(work)

    def roles_of(self, user: str) -> dict[str, Role]:
        """Return the rights of `user` by project."""
        asked = select(members.c.project, members.c.role).where(members.c.user == user)
        return self._db.read(lambda conn: {project: role for project, role in conn.execute(asked).tuples()})

    def members(self, project: str) -> dict[str, Role]:
        """Return the rights in a project by user."""
        asked = select(members.c.user, members.c.role).where(members.c.project == project).order_by(members.c.user)
        return self._db.read(lambda conn: {user: role for user, role in conn.execute(asked).tuples()})


def unknown_user(name: str) -> NotFoundError:
    """Return the error that names a user who is not there."""
    return NotFoundError(f"There is no user {name[:60]!r}.", hint=f"mainspring user ls, or mainspring user add {name[:60]}")
