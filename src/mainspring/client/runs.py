"""Runs over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mainspring.client.inside import Forward, Shell, open_shell
from mainspring.client.streams import LogPart, follow_log
from mainspring.client.transport import Query, Transport, new_key, to_record
from mainspring.core.codec import to_plain
from mainspring.core.lifecycle import TERMINAL_RUN
from mainspring.core.queries import Page
from mainspring.core.records import Attempt, Run
from mainspring.core.specs import Environment, RunSpec

POLL_S = 25.0


@dataclass(frozen=True, slots=True)
class LogBytes:
    """Some bytes of one attempt's log, where they begin, and where the next ones do."""

    data: bytes
    offset: int
    next_offset: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Runs:
    """What can be asked about runs; `ref` is an id, the unique beginning of one, or a name (the newest)."""

    transport: Transport

    def submit(self, spec: RunSpec, *, key: str = "") -> Run:
        """Submit a run; returns after it is stored. The same `key` never makes a second one."""
        return self.transport.post("/runs", spec, key=key or new_key()).record(Run)

    def get(self, ref: str, *, project: str = "") -> Run:
        """Return the run."""
        return self.transport.get(_path(ref), {"project": project}).record(Run)

    def page(
        self,
        *,
        project: str = "default",
        states: Sequence[str] = (),
        owner: str = "",
        tag: str = "",
        text: str = "",
        link: str = "",
        order: str = "newest",
        is_archived: bool = False,
        cursor: str = "",
        limit: int = 100,
    ) -> Page[Run]:
        """Return one page of runs."""
        query: Query = {
            "project": project, "state": ",".join(states), "owner": owner, "tag": tag, "text": text, "link": link,
            "order": order, "archived": is_archived, "cursor": cursor, "limit": limit,
        }  # fmt: skip
        plain = self.transport.get("/runs", query).plain()
        return Page(
            items=tuple(to_record(one, Run) for one in plain["items"]),
            cursor=plain.get("cursor", ""),
            total=plain.get("total", 0),
        )

    def attempts(self, ref: str) -> list[Attempt]:
        """Return the attempts of a run, oldest first."""
        return [to_record(one, Attempt) for one in self.transport.get(_path(ref, "attempts")).plain()]

    def wait(self, ref: str, timeout_s: float | None = None) -> Run:
        """Return the run when it is done, or as it stands after `timeout_s`. Blocks."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = POLL_S if until is None else max(0.0, min(POLL_S, until - time.monotonic()))
            run = self.transport.get(_path(ref, "wait"), {"timeout_s": f"{left:.3f}"}).record(Run)
            if run.state in TERMINAL_RUN or (until is not None and time.monotonic() >= until):
                return run

    def why(self, ref: str) -> dict[str, Any]:
        """Return `{run, name, state, sentence, reason, ahead, attempt}`."""
        return _dict(self.transport.get(_path(ref, "why")).plain())

    def native(self, ref: str) -> dict[str, Any]:
        """Return the engine's own objects of the newest attempt."""
        return _dict(self.transport.get(_path(ref, "native")).plain()["native"])

    def lineage(self, ref: str) -> dict[str, Any]:
        """Return `{nodes, edges}` of what the run read and wrote."""
        return _dict(self.transport.get(_path(ref, "lineage")).plain())

    def log(self, ref: str, *, attempt: int | None = None, replica: int = 0, offset: int = 0, limit: int = 1 << 20) -> LogBytes:
        """Return bytes of a log; a negative offset counts from its end."""
        query = {"attempt": attempt, "replica": replica, "offset": offset, "limit": limit}
        answer = self.transport.get(_path(ref, "logs"), query)
        head = answer.headers
        begin = int(head.get("x-offset", "0"))
        return LogBytes(
            answer.data, begin, int(head.get("x-next-offset", str(begin + len(answer.data)))), int(head.get("x-attempt", "0"))
        )

    def told(self, ref: str, *, attempt: int | None = None, replica: int = 0) -> list[dict[str, Any]]:
        """Return what the runner and the engine told of an attempt: `[{"kind": "image", "digest": ...}, …]`."""
        query = {"attempt": attempt, "replica": replica, "stream": "events"}
        lines = self.transport.get(_path(ref, "logs"), query).data.splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]

    def follow(self, ref: str, *, attempt: int | None = None, replica: int = 0, offset: int = 0) -> Iterator[LogPart]:
        """Yield the log as it is written, until the run ends."""
        return follow_log(self.transport, ref, attempt=attempt, replica=replica, offset=offset)

    def metrics(self, ref: str) -> dict[str, Any]:
        """Return `{name: {last, min, max, count, step}}`."""
        return _dict(self.transport.get(_path(ref, "metrics")).plain())

    def points(self, ref: str, name: str, *, points: int = 1000) -> list[list[float]]:
        """Return `[[step, value, unix_seconds], …]` of one metric, thinned to about `points`."""
        found = self.transport.get(_path(ref, "metrics") + "/" + quote(name, safe="/"), {"points": points}).plain()["points"]
        return list(found)

    def usage(self, ref: str, *, points: int = 300) -> list[dict[str, Any]]:
        """Return samples of CPU, memory and GPU use."""
        return list(self.transport.get(_path(ref, "usage"), {"points": points}).plain()["points"])

    def params(self, ref: str) -> dict[str, Any]:
        """Return the parameters: those of the spec, then those the run logged."""
        return _dict(self.transport.get(_path(ref, "params")).plain())

    def cancel(self, ref: str, *, grace_s: float | None = None) -> Run:
        """Want the run cancelled."""
        return self._act(ref, "cancel", {} if grace_s is None else {"grace_s": grace_s})

    def pause(self, ref: str) -> Run:
        """Hold the run until it is resumed."""
        return self._act(ref, "pause", {})

    def resume(self, ref: str) -> Run:
        """Let a paused run be planned again."""
        return self._act(ref, "resume", None)

    def archive(self, ref: str) -> Run:
        """Put an ended run out of sight."""
        return self._act(ref, "archive", None)

    def unarchive(self, ref: str) -> Run:
        """Bring an archived run back."""
        return self._act(ref, "unarchive", None)

    def checkpoint(self, ref: str) -> Run:
        """Ask the running code for a checkpoint."""
        return self._act(ref, "checkpoint", None)

    def rerun(
        self,
        ref: str,
        *,
        set_params: Mapping[str, object] | None = None,
        args: Sequence[str] | None = None,
        environment: Environment | None = None,
        path: str = "",
        cache: bool = True,
    ) -> Run:
        """Submit the run's spec again, with parameters changed, a script's arguments replaced, or in another environment.

        `path` goes in front of its PYTHONPATH; `cache` false computes it.
        """
        body: dict[str, object] = {"set": dict(set_params or {}), "args": None if args is None else list(args), "cache": cache}
        if environment is not None:
            body |= {"environment": to_plain(environment), "path": path}
        return self.transport.post(_path(ref, "rerun"), body, key=new_key()).record(Run)

    def edit(
        self, ref: str, *, add_tags: Sequence[str] = (), remove_tags: Sequence[str] = (), priority: int | None = None
    ) -> Run:
        """Change tags and priority."""
        body = {"add_tags": list(add_tags), "remove_tags": list(remove_tags), "priority": priority}
        return self.transport.send("PATCH", _path(ref), body=body, is_repeatable=True).record(Run)

    def remove(self, ref: str) -> None:
        """Delete an ended run with its logs and metrics."""
        self.transport.send("DELETE", _path(ref))

    def shell(
        self,
        ref: str,
        command: Sequence[str] = (),
        *,
        replica: int = 0,
        terminal: tuple[int, int] | None = None,
        term: str = "xterm",
    ) -> Shell:
        """Begin a command inside the running run, on a terminal of (rows, columns) or on pipes; see `inside.open_shell`."""
        return open_shell(self.transport, ref, command, replica=replica, terminal=terminal, term=term)

    def forward(self, ref: str, port: int, *, replica: int = 0, local: int = 0) -> Forward:
        """Return a forward of a port inside the run: `with` it, or start it."""
        return Forward(self.transport, ref, port, replica, local)

    def _act(self, ref: str, action: str, body: object) -> Run:
        return self.transport.post(_path(ref, action), body, is_repeatable=True).record(Run)


def _path(ref: str, tail: str = "") -> str:
    return f"/runs/{quote(ref, safe='')}" + (f"/{tail}" if tail else "")


def _dict(plain: Any) -> dict[str, Any]:
    return plain if isinstance(plain, dict) else {}
