"""What runners tell of environments becomes rows; nonsense does not."""

from __future__ import annotations

import json

KEY, LOCK = "k" * 32, "a" * 64


def tell(world, attempt, *lines, at=0):
    """Append events; return where the stream ends."""
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    return world.store.attempts.append(attempt.id, 0, [("events", at, data)], now=world.clock.now())["events"]


def used(**more):
    """Return the line of a use."""
    told = {"kind": "environment_used", "key": KEY, "lock": LOCK, "version": "3.11.7", "platform": "linux", "tool": "uv"}
    return {**told, "size_bytes": 1000, "built_at": 1.0, "took_s": 0.1, "is_kept": True, **more}


def test_uses_are_counted_and_what_is_used_now_is_in_use(world):
    node = world.node()
    first, second = world.launch(world.start(world.run(), node)), world.launch(world.start(world.run("b"), node))
    tell(world, first, used())
    tell(world, second, used(size_bytes=2000))
    (found,) = world.store.environments.all()
    assert (found.node, found.key, found.lock, found.uses, found.size_bytes) == (node.id, KEY, LOCK, 2, 2000)
    assert (found.run, found.python, found.is_in_use) == (second.run, "3.11.7", True)
    assert world.store.attempts.get(first.id).replicas[0].environment_key == KEY
    world.end(first)
    assert world.store.environments.all()[0].is_in_use
    world.end(second)
    assert not world.store.environments.all()[0].is_in_use


def test_what_is_to_go_is_asked_for_until_it_is_told_gone_and_a_use_takes_it_back(world):
    node = world.node()
    attempt = world.launch(world.start(world.run(), node))
    end = tell(world, attempt, used())
    world.store.environments.ask_to_go(world.store.environments.all(), now=world.clock.now())
    assert world.store.environments.unwanted(node.id) == (KEY,)
    assert world.store.environments.unwanted("another") == ()
    end = tell(world, attempt, used(), at=end)
    assert world.store.environments.unwanted(node.id) == ()
    tell(world, attempt, {"kind": "environment_removed", "key": KEY}, at=end)
    assert world.store.environments.all() == []


def test_what_was_seen_is_named_and_its_blob_is_kept(world):
    attempt = world.launch(world.start(world.run(), world.node()))
    tell(world, attempt, {"kind": "environment_seen", "digest": "d" * 64})
    assert world.store.attempts.get(attempt.id).replicas[0].environment == "d" * 64
    assert "d" * 64 in set(world.store.blobs.named())


def test_nonsense_and_what_ends_with_its_attempt_is_no_row(world):
    attempt = world.launch(world.start(world.run(), world.node()))
    lines = (
        used(is_kept=False),
        used(lock="../../etc"),
        used(key=""),
        used(key="x" * 5000),
        used(size_bytes="many"),
        used(built_at=1e300),
        {"kind": "environment_seen", "digest": "no digest"},
        {"kind": "environment_other"},
        b'{"kind": "environment_used", "key": ',
    )
    tell(world, attempt, *lines)
    assert world.store.environments.all() == []
    assert world.store.attempts.get(attempt.id).replicas[0].environment == ""
