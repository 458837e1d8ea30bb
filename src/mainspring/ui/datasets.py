"""`/datasets` and `/datasets/{name}`: versions by content, their files, what changed from one to the next, who made them."""

from __future__ import annotations

from nicegui import run as threads
from nicegui import ui

from mainspring.core.manifests import FileEntry
from mainspring.core.records import DatasetVersion
from mainspring.core.units import counted, show_bytes
from mainspring.services import datasets
from mainspring.ui import parts
from mainspring.ui.live import Live
from mainspring.ui.theme import page_frame
from mainspring.ui.view import View

MAX_FILES = 200


async def page(view: View) -> None:
    """Draw the list of data sets."""
    live = Live(view.ctx)
    with page_frame("Data sets", view):
        await live.block(lambda: listed(view), "events")
    live.start()


def listed(view: View) -> str:
    """Return every data set with its newest version."""
    rows = []
    for dataset, version in datasets.all(view.ctx, view.actor, project=view.project):
        told = ("", "", "", "", "")
        if version is not None:
            told = (
                f"v{version.number}",
                f"{version.files:,}",
                show_bytes(version.size_bytes),
                parts.text(version.created_by),
                parts.moment(version.created_at),
            )
        rows.append((parts.link(dataset.name, view.url(f"/datasets/{dataset.name}")), *told, parts.text(dataset.description)))
    return parts.table(
        ("Data set", "Newest", "Files", "Size", "By", "When", "Description"),
        rows,
        empty="No data set yet. Type: mainspring data add NAME DIR",
        label="Data sets",
        numeric=("Newest", "Files", "Size"),
    )


async def one_page(view: View) -> None:
    """Draw one data set and the version that the address names."""
    found = await threads.io_bound(datasets.versions, view.ctx, view.actor, view.ref, project=view.project)
    asked = view.query.get("version", "latest")
    chosen = await threads.io_bound(datasets.get, view.ctx, view.actor, view.ref, asked, project=view.project)
    if not found or chosen is None:
        return
    live = Live(view.ctx)
    with page_frame(view.ref, view, "/datasets"):
        with ui.element("section"):
            ui.html(f'<h2 class="ms-title">{parts.text(view.ref)}</h2>', sanitize=False)
            size = f"{counted(chosen.files, 'file')}, {show_bytes(chosen.size_bytes)}"
            parts.sentence(f'Version {chosen.number} of {len(found)}: {size}. In code: ms.dataset("{view.ref}@v{chosen.number}")')
        with ui.element("section"):
            parts.heading("Versions")
            await live.block(lambda: versions(view, chosen.number), "events")
        with ui.element("section"):
            parts.heading(f"Files of version {chosen.number}, and what changed")
            await live.block(lambda: files(view, chosen))
    live.start()


def versions(view: View, chosen: int) -> str:
    """Return the versions, newest first."""
    found = datasets.versions(view.ctx, view.actor, view.ref, project=view.project)
    rows = [
        (
            parts.link(f"v{one.number}", view.url(f"/datasets/{view.ref}", version=str(one.number)))
            + (" " + parts.tags(("shown",)) if one.number == chosen else ""),
            f"{one.files:,}",
            show_bytes(one.size_bytes),
            parts.short_id(one.manifest, 12),
            parts.text(one.created_by),
            parts.link("its run", view.url(f"/runs/{one.producer}")) if one.producer else "",
            parts.moment(one.created_at),
            parts.text(one.message[:200]),
        )
        for one in reversed(found)
    ]
    heads = ("Version", "Files", "Size", "Digest", "By", "Made by", "When", "Message")
    return parts.table(heads, rows, empty="", label="Versions", numeric=("Files", "Size"))


def files(view: View, chosen: DatasetVersion) -> str:
    """Return the files of a version, those first that differ from the version before."""
    now = {one.path: one for one in datasets.load_manifest(view.ctx, chosen.manifest).files}
    every = datasets.versions(view.ctx, view.actor, view.ref, project=view.project)
    before_version = next((one for one in reversed(every) if one.number < chosen.number), None)
    before: dict[str, FileEntry] = {}
    if before_version is not None:
        before = {one.path: one for one in datasets.load_manifest(view.ctx, before_version.manifest).files}
    listed_files = [(_changed(one, before, before_version is not None), one) for one in now.values()]
    gone = [("removed", one) for path, one in before.items() if path not in now]
    ranked = sorted([*listed_files, *gone], key=lambda pair: (pair[0] == "", pair[1].path))
    counts = {word: sum(change == word for change, _ in ranked) for word in ("added", "changed", "removed")}
    told = ", ".join(f"{number:,} {word}" for word, number in counts.items() if number)
    sentence = parts.note(f"Against v{before_version.number}: {told or 'nothing changed'}.") if before_version else ""
    rows = [
        (
            parts.text(one.path),
            show_bytes(one.size),
            change,
            _take(one) if change != "removed" else "",
            parts.short_id(one.digest, 12),
        )
        for change, one in ranked[:MAX_FILES]
    ]
    more = parts.note(f"The first {MAX_FILES} of {len(ranked):,}.") if len(ranked) > MAX_FILES else ""
    heads = ("File", "Size", "Change", "", "Digest")
    return sentence + parts.table(heads, rows, empty="It is empty.", label="Files", numeric=("Size",)) + more


def _changed(one: FileEntry, before: dict[str, FileEntry], has_before: bool) -> str:
    if not has_before:
        return ""
    old = before.get(one.path)
    return "added" if old is None else "changed" if old.digest != one.digest else ""


def _take(one: FileEntry) -> str:
    return f'<a href="/api/v1/blobs/{one.digest}" download="{parts.text(one.path.rpartition("/")[2])}">download</a>'
