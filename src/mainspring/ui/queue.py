"""`/queue`: who waits, in the order of planning, and why."""

from __future__ import annotations

from mainspring.core.queries import RunFilter
from mainspring.core.records import RunState
from mainspring.services import clusters, runs
from mainspring.ui import parts
from mainspring.ui.live import Live
from mainspring.ui.runs import asks
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_ROWS = 500


async def page(view: View) -> None:
    """Draw the queue."""
    live = Live(view.ctx, every_s=2.0)
    with page_frame("Queue", view):
        await live.block(lambda: waiting(view), "runs", "nodes")
    live.start()


def waiting(view: View) -> str:
    """Return the sentence, then the runs that wait, the next one first."""
    found = clusters.queue(view.ctx, view.actor)
    if not found:
        return '<p class="ms-sentence">Nobody waits.</p>'
    queued = RunFilter(project=view.project, states=(RunState.QUEUED.value,), order="oldest")
    known = {str(one.id): one for one in runs.page(view.ctx, view.actor, queued, limit=MAX_ROWS).items}
    people: dict[str, int] = {}
    for one in found:
        people[one.owner] = people.get(one.owner, 0) + 1
    many = f"{len(found):,} {'run waits' if len(found) == 1 else 'runs wait'}"
    who = ", ".join(f"{number} of {name}" for name, number in sorted(people.items(), key=lambda item: -item[1])[:4])
    next_one = found[0]
    because = next_one.reason.sentence if next_one.reason else "It is planned with the next plan."
    rows = []
    for position, one in enumerate(found[:MAX_ROWS], 1):
        run = known.get(one.run)
        rows.append(
            (
                str(position),
                parts.link(one.name, view.url(f"/runs/{one.run}")),
                parts.text(one.owner),
                str(one.priority),
                asks(run) if run else "",
                parts.span(run.created_at, None) if run else "",
                f'<div class="ms-why">{parts.text(one.reason.sentence if one.reason else "Not planned yet.")}</div>',
            )
        )
    table = parts.table(
        ("Place", "Run", "Owner", "Priority", "Asks for", "Waits for", "Why"),
        rows,
        empty="Nobody waits.",
        label="Waiting runs",
        numeric=("Priority", "Waits for"),
    )
    more = parts.note(f"The first {MAX_ROWS} of {len(found):,}.") if len(found) > MAX_ROWS else ""
    sentence = f'<p class="ms-sentence">{parts.text(f"{many} ({who}). Next is {next_one.name}: {because}")}</p>'
    return f'{sentence}<div style="margin-top:16px">{table}{more}</div>'
