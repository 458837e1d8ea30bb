"""Mark and sweep: a blob goes when no record names it and nobody has asked for it during the grace.

Order is what makes it safe: list the old blobs, *then* read what is named, *then* remove, and only what was not renewed since
it was listed. `put` and `missing` renew, so a client that was told "that one is here" has the whole grace to name it.
A crash at any point leaves too much, never too little: a pack's living blobs are durable elsewhere before it goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from mainspring.blobs.objects import Objects, Stat
from mainspring.blobs.packs import MAX_PACK_BYTES, Packs
from mainspring.core.errors import UsageError

DEAD_SHARE = 0.5
SMALL_PACK_BYTES = 1 << 20
MANY_SMALL_PACKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection did: blobs and bytes removed, packs written anew, blobs named (with the files of named manifests)."""

    removed: int = 0
    freed_bytes: int = 0
    rewritten: int = 0
    kept: int = 0


def sweep(
    objects: Objects,
    packs: Packs,
    named: Callable[[], Iterable[str]],
    *,
    files_of: Callable[[str], Iterable[str]],
    grace_s: float,
    now: datetime,
) -> Collected:
    """Remove what nobody names; `files_of` gives the digests that a named manifest keeps alive.

    One sweep at a time (the caller's lease). Raises what `named` and `files_of` raise, before anything is removed.
    """
    if grace_s < 2 * objects.renew_after_s:
        raise UsageError(
            f"A grace of {grace_s:g} s is too short for this store.", hint=f"Give {2 * objects.renew_after_s:g} s or more."
        )
    limit = now.timestamp() - grace_s
    objects.tidy(limit)
    packs.refresh()
    loose = [stat for stat in objects.list("objects/") if stat.modified < limit]
    packed = [stat for stat in objects.list("packs/") if stat.modified < limit]
    if not loose and not packed:
        return Collected()
    alive: set[bytes] = set()
    for digest in named():
        alive.add(bytes.fromhex(digest))
        alive.update(bytes.fromhex(file) for file in files_of(digest))
    removed = freed = 0
    for stat in loose:
        if bytes.fromhex(stat.key.rpartition("/")[2]) not in alive and objects.remove(stat.key, stat.modified):
            removed, freed = removed + 1, freed + stat.size
    from_packs = _sweep_packs(packs, packed, alive)
    return Collected(
        removed=removed + from_packs.removed,
        freed_bytes=freed + from_packs.freed_bytes,
        rewritten=from_packs.rewritten,
        kept=len(alive),
    )


def _sweep_packs(packs: Packs, old: list[Stat], alive: set[bytes]) -> Collected:
    removed = freed = 0
    sparse: list[tuple[Stat, str, list[str]]] = []
    full_small: list[tuple[Stat, str, list[str]]] = []
    for stat in old:
        pack = stat.key.removeprefix("packs/").removesuffix(".pack")
        members = packs.members(pack)
        living = [digest for digest in members if bytes.fromhex(digest) in alive and packs.is_canonical(digest, pack)]
        living_bytes = sum(members[digest].size for digest in living)
        total = sum(place.size for place in members.values())
        if not members:  # damaged, or another version's: for an operator to look at
            continue
        if not living:
            if packs.remove(pack, stat.modified):
                removed, freed = removed + len(members), freed + stat.size
        elif len(members) - len(living) and living_bytes <= (1 - DEAD_SHARE) * total:
            sparse.append((stat, pack, living))
        elif stat.size < SMALL_PACK_BYTES:
            full_small.append((stat, pack, living))
    if len(full_small) >= MANY_SMALL_PACKS:
        sparse.extend(full_small)
    return _rewrite(packs, sparse, removed, freed)


def _rewrite(packs: Packs, sparse: list[tuple[Stat, str, list[str]]], removed: int, freed: int) -> Collected:
    """Write the living blobs of `sparse` anew, about one new pack at a time, then remove the old ones."""
    rewritten = 0
    while sparse:
        batch: list[tuple[str, bytes]] = []
        done: list[tuple[Stat, str, int]] = []
        held = 0
        while sparse and held < MAX_PACK_BYTES:
            stat, pack, living = sparse.pop()
            members = packs.members(pack)
            blobs = [(digest, packs.read(members[digest])) for digest in living]
            if any(hashlib.sha256(data).hexdigest() != digest for digest, data in blobs):
                continue  # damaged: left as it is, the next read of that blob puts it into quarantine
            batch += blobs
            held += sum(len(data) for _, data in blobs)
            done.append((stat, pack, len(members) - len(living)))
        if batch:
            packs.write(batch)
        for stat, pack, dead in done:
            if packs.remove(pack, stat.modified):
                rewritten, removed, freed = rewritten + 1, removed + dead, freed + stat.size
        freed -= sum(len(data) for _, data in batch)
    return Collected(removed=removed, freed_bytes=max(freed, 0), rewritten=rewritten)
