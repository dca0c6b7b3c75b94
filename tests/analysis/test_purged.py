"""What was purged shows as purged, and all that is left can be asked for as before."""

from __future__ import annotations

from pathlib import Path

import pytest

import agentaudit
from agentaudit.errors import QuestionError
from agentaudit.widgets.still import still
from tests.archive.purging import apply, apply_for_days, recorded, split
from tests.archive.recording import new_site, retention


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions are gone, the payloads of one, and segments as a whole."""
    site = new_site(tmp_path_factory.mktemp("purged") / "site")
    policy = retention(orders={"keep": 30}, billing={"keep": 4000, "payload_keep": 30})
    split(site, policy)
    recorded(site, policy)
    apply_for_days(site)
    return site.archive


def test_a_session_that_was_purged_is_in_no_answer(archive: Path) -> None:
    case = agentaudit.load(archive)
    users = {row[0] for row in case.sql('SELECT DISTINCT "user" FROM sessions').fetchall()}
    assert users == {"", "pay0", "other0"}
    assert case.search("secret of bob").fetchall() == []
    assert case.commands(user="bob").fetchall() == []
    for view in ("events", "commands", "sessions", "decisions", "access", "fates"):
        case.sql(f"SELECT count(*) FROM {view}").fetchall()


def test_purged_payloads_are_said_to_be_purged(archive: Path) -> None:
    case = agentaudit.load(archive)
    ((session_id,),) = case.sql(
        "SELECT session_id FROM sessions WHERE \"user\" = 'pay0'"
    ).fetchall()
    session = case.session(session_id)
    assert session.is_purged
    assert session.count == 2
    assert session.cuts()[0].is_purged
    assert session.cuts()[0].words() == "purged under retention: 1,048,576 bytes"
    assert list(session.stream("target")) == []
    assert session.result(0).num_columns == 0
    assert session.statement(1).startswith("select 'secret of pay0'")
    told = session.transcript()
    assert "select 'secret of pay0'" in told
    assert told.count("purged under retention: ") == 2
    assert "purged under retention" in still(session)


def test_other_sessions_of_a_purged_segment_read_as_before(archive: Path) -> None:
    case = agentaudit.load(archive)
    ((session_id,),) = case.sql(
        "SELECT session_id FROM sessions WHERE \"user\" = 'other0'"
    ).fetchall()
    session = case.session(session_id)
    assert not session.is_purged
    assert session.cuts() == {}
    assert b"".join(session.stream("target")) == b"\xb7" * 9000 + b"\xb7" * 9000 + b"other0"


def test_a_session_that_is_purged_while_it_is_in_hand_says_so(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    ids = split(site, retention(orders={"keep": 30}))
    session = agentaudit.load(site.archive).session(ids["bob"])
    apply(site)
    with pytest.raises(QuestionError, match=f"session {ids['bob']}: no longer in the archive"):
        next(session.told())
