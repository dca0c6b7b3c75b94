"""Connections are counted over all workers, whatever becomes of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentaudit.gateway import places
from agentaudit.gateway.places import Places, Shared, SharedPlaces

ANA, BEN = ("https://idp.test", "ana"), ("https://idp.test", "ben")


@pytest.fixture
def memory() -> Iterator[int]:
    fd = places.create(3)
    yield fd
    os.close(fd)


def nobody(worker: int) -> None:
    raise AssertionError(worker)


def test_what_one_worker_gave_another_cannot_give_again(memory: int) -> None:
    shared = Shared(memory, 3)
    first, second = (SharedPlaces(shared, own, nobody) for own in (0, 1))

    assert first.take(ANA, 2)
    assert second.take(ANA, 2)
    assert not first.take(ANA, 2)
    assert not second.take(ANA, 2)
    assert first.take(BEN, 2)

    second.give_back(ANA)
    assert first.take(ANA, 2)


def test_what_a_dead_worker_held_is_free_once_it_is_cleared(memory: int) -> None:
    shared = Shared(memory, 3)
    first, second = (SharedPlaces(shared, own, nobody) for own in (0, 1))
    assert first.take(ANA, 1)
    first.enter()
    first.end()

    shared.clear(0)

    assert second.take(ANA, 1)
    assert shared.ended(0) == 0
    second.enter()
    assert not second.make_room(1)


Step = tuple[int, int, bool]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.booleans()), max_size=60))
def test_shared_counts_are_those_of_one_process(steps: list[Step]) -> None:
    memory = places.create(3)
    shared = Shared(memory, 3)
    workers = [SharedPlaces(shared, own, nobody) for own in range(3)]
    alone = Places()
    held: Counter[tuple[int, int]] = Counter()
    for worker, user, is_take in steps:
        who = ("https://idp.test", str(user))
        if is_take:
            took = workers[worker].take(who, 4)
            assert took == alone.take(who, 4)
            held[worker, user] += took
        elif held[worker, user]:
            held[worker, user] -= 1
            workers[worker].give_back(who)
            alone.give_back(who)
    os.close(memory)


def test_the_worker_with_most_anonymous_connections_makes_room(memory: int) -> None:
    shared = Shared(memory, 3)
    asked: list[int] = []
    first, second = (SharedPlaces(shared, own, asked.append) for own in (0, 1))
    for _ in range(3):
        first.enter()
    second.enter()

    assert not second.make_room(4)
    assert asked == []
    assert not second.make_room(3)
    assert asked == [0]
    assert first.make_room(3)
    first.leave()
    assert not first.make_room(3)


COUNT = """
import sys
from agentaudit.gateway.places import Shared, SharedPlaces
places = SharedPlaces(Shared(int(sys.argv[1]), 3), int(sys.argv[2]), print)
for _ in range(1000):
    while not places.take(("i", "ana"), 2): pass
    places.give_back(("i", "ana"))
assert places.take(("i", "ana"), 1000)
print("done", flush=True)
sys.stdin.read()
"""


def test_processes_count_at_once_and_a_killed_one_locks_nobody_out(memory: int) -> None:
    counting = [
        subprocess.Popen(
            [sys.executable, "-c", COUNT, str(memory), str(own)],
            pass_fds=[memory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for own in (0, 1)
    ]
    third = SharedPlaces(Shared(memory, 3), 2, nobody)
    for one in counting:
        assert one.stdout is not None
        assert one.stdout.readline() == b"done\n"
    assert not third.take(("i", "ana"), 2)
    for one in counting:
        one.send_signal(signal.SIGKILL)
        one.communicate()
    assert not third.take(("i", "ana"), 2)
    Shared(memory, 3).clear(0)
    assert third.take(("i", "ana"), 2)
