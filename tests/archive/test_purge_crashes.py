"""A purge that a power cut stops anywhere ends as it would have ended, and takes no more."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentaudit.archive.retention import standing
from tests import tries
from tests.archive.crashes import Disk, State, Tape, in_one_process, parts
from tests.archive.purging import hold
from tests.archive.recording import Site, new_site, recover, rows
from tests.archive.test_crash_points import pulled, pulls
from tests.archive.test_purge import CRASHES, apply, contents, entries_of, require_proven, split

FULL = pytest.mark.full


class Purged:
    """A purge on a tape, and what it leaves where nothing stops it."""

    def __init__(self, policy: bytes) -> None:
        with TemporaryDirectory() as folder:
            self.site = new_site(Path(folder) / "site")
            ids = split(self.site, policy)
            self.held = ids["ana"]
            hold(self.site, session=str(self.held))
            self.kept = self.events_of(self.site)
            self.tape = Tape(self.site.folder)
            with in_one_process(self.tape), self.tape.recording():
                apply(self.site)
            self.tape.require_complete()
            self.wanted = contents(self.site)
            self.intents = len(entries_of(self.site, "purge_intent"))
            assert self.intents == 1

    def events_of(self, site: Site) -> list[tuple[object, ...]]:
        """What the held session has said, whole."""
        return [
            (row["event_no"], row["text"], row["payload"])
            for row in rows(site, "events")
            if row["session_id"] == self.held
        ]

    def require_the_same_end(self, folder: Path, state: State) -> None:
        state.write_to(folder)
        site = Site(folder, self.site.vkey)
        with in_one_process():
            recover(site)
            assert standing(site.log_entries()).unfinished() == []
            assert self.events_of(site) == self.kept
            if not entries_of(site, "purge_intent"):
                apply(site)
            require_proven(site)
            assert contents(site) == self.wanted
            assert self.events_of(site) == self.kept
            assert list(site.archive.rglob("*.tmp")) == []
        shutil.rmtree(folder)


@cache
def purged(what: str) -> Purged:
    return Purged(CRASHES[what])


# What hypothesis is given is a fixture's folder, empty again after each example.
ANY = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def require_any_pull_survived(data: st.DataObject, memory: Path) -> None:
    purge = purged(data.draw(st.sampled_from(list(CRASHES))))
    disk = Disk(purge.tape.nodes)
    end = data.draw(st.integers(1, len(purge.tape.entries)))
    for index, entry in enumerate(purge.tape.entries[:end]):
        disk.apply(index, entry)
    state = data.draw(pulled(disk))
    if data.draw(st.booleans()):
        purge.require_the_same_end(memory / "crashed", state)
        return
    # The start that finishes the purge is stopped itself.
    folder = memory / "again"
    state.write_to(folder)
    again = Tape(folder, state.numbers, since=len(purge.tape.entries))
    with in_one_process(again), again.recording():
        recover(Site(folder, purge.site.vkey))
    shutil.rmtree(folder)
    disk = Disk(again.nodes)
    end = data.draw(st.integers(0, len(again.entries)))
    for index, entry in enumerate(again.entries[:end], len(purge.tape.entries)):
        disk.apply(index, entry)
    purge.require_the_same_end(memory / "crashed", data.draw(pulled(disk)))


@settings(ANY, max_examples=20)
@given(data=st.data())
def test_a_purge_survives_any_power_cut_and_one_in_its_recovery(
    data: st.DataObject, memory: Path
) -> None:
    require_any_pull_survived(data, memory)


@FULL
@pytest.mark.timeout(1800)
@settings(ANY, max_examples=tries.of(200, share=15))
@given(data=st.data())
def test_a_purge_survives_any_power_cut_and_one_in_its_recovery_tried_for_long(
    data: st.DataObject, memory: Path
) -> None:
    require_any_pull_survived(data, memory)


@pytest.mark.parametrize("part", parts(32, every=3))
@pytest.mark.parametrize("what", list(CRASHES))
def test_a_purge_that_a_power_cut_stopped_is_finished_by_the_next_start(
    what: str, part: slice, memory: Path
) -> None:
    purge = purged(what)
    disk = Disk(purge.tape.nodes)
    states: dict[bytes, tuple[int, State]] = {}
    for index, entry in enumerate(purge.tape.entries):
        disk.apply(index, entry)
        for state in pulls(disk, 2):
            states.setdefault(state.digest(), (index, state))
    assert len(states) > 100
    for index, state in list(states.values())[part]:
        try:
            purge.require_the_same_end(memory / "crashed", state)
        except Exception as error:
            raise AssertionError(
                f"after operation {index}, {purge.tape.entries[index]}: {error}"
            ) from error
