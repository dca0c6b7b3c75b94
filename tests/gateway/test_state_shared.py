"""The gateway's state among others: many at once, other releases, databases that fail."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from agentaudit.errors import (
    AgentauditError,
    NotPending,
    SettingsError,
    StateError,
    WindowClosed,
)
from agentaudit.gateway import migrations
from agentaudit.gateway.state import Request, State, Window
from agentaudit.gateway.state_database import Database
from agentaudit.gateway.state_tables import SCHEMA, metadata, requests
from tests.peers.postgres import PostgresPeer
from tests.peers.states import (
    DIGEST,
    HOUR,
    NOW,
    SECOND,
    a_request,
    an_access,
    approved_access,
    enter,
    postgres_url,
    vote,
)

# --- many at a time


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make all calls at once; return what each returned, or the error of ours that it raised."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except AgentauditError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_many_that_open_an_empty_database_at_once_make_it_once(
    state_url: str, tmp_path: Path
) -> None:
    states = together([lambda: State.open(state_url, base=tmp_path)] * 6)
    assert [each.revision() for each in states] == [0] * 6
    for each in states:
        each.close()


def test_of_two_that_decide_at_once_one_does(open_state: Callable[[], State]) -> None:
    states = [open_state() for _ in range(4)]
    for _ in range(10):
        request = a_request()
        states[0].file(request, most_pending=4)
        answers = together(
            [
                partial(vote, each, request.id, name)
                for each, name in zip(states, "abcd", strict=True)
            ]
        )
        assert [type(each).__name__ for each in answers].count("NotPending") == 3
        (decided,) = (each for each in answers if isinstance(each, Request))
        assert states[0].request(request.id) == decided
        assert len(decided.votes) == 1


def test_one_person_that_decides_twice_at_once_counts_once(open_state: Callable[[], State]) -> None:
    states = [open_state() for _ in range(3)]
    request = an_access(approvals=2)
    states[0].file(request, most_pending=4)
    answers = together([partial(vote, each, request.id, "anna") for each in states])
    assert [type(each).__name__ for each in answers].count("AlreadyVoted") == 2
    assert states[0].outcomes([request.id]) == {}


def test_a_vote_or_the_end_of_a_hold_comes_first_and_stands(
    open_state: Callable[[], State],
) -> None:
    reviewer, gateway = open_state(), open_state()
    for _ in range(20):
        request = a_request()
        gateway.file(request, most_pending=4)
        voted, settled = together(
            [
                partial(vote, reviewer, request.id, "anna"),
                partial(gateway.settle, request.id, "cancelled", now_us=NOW),
            ]
        )
        if isinstance(voted, NotPending):
            assert (settled.state, settled.votes) == ("cancelled", ())
        else:
            assert settled == voted


def test_a_limit_holds_for_all_who_file_at_once(open_state: Callable[[], State]) -> None:
    states = [open_state() for _ in range(8)]
    answers = together([partial(each.file, a_request(), most_pending=3) for each in states])
    assert answers.count(None) == 3
    assert len(states[0].requests(state="pending")) == 3


def test_one_token_opens_one_window_however_many_come_at_once(
    open_state: Callable[[], State],
) -> None:
    states = [open_state() for _ in range(6)]
    answers = together([partial(enter, each, is_single=True) for each in states])
    assert len({each.id for each in answers}) == 1
    late = {"now_us": NOW + HOUR, "ends_us": NOW + 2 * HOUR, "is_single": True}
    answers = together([partial(enter, each, **late) for each in states])
    assert {type(each) for each in answers} == {WindowClosed}


def test_a_grant_that_is_revoked_meanwhile_leaves_no_open_window(
    open_state: Callable[[], State],
) -> None:
    admin, gateway = open_state(), open_state()
    for number in range(10):
        grant = approved_access(admin)
        entered, _ = together(
            [
                partial(enter, gateway, grant_id=grant.id, token=f"race-{number}"),
                partial(admin.revoke, grant.id, by="anna", now_us=NOW + 2 * SECOND),
            ]
        )
        if isinstance(entered, Window):
            ended = gateway.ended_windows([entered.id], NOW + 2 * SECOND)
            assert ended == {entered.id: "revoked"}
        else:
            assert entered.reason == "revoked"


def test_access_expires_for_one_of_many_who_look(open_state: Callable[[], State]) -> None:
    states = [open_state() for _ in range(4)]
    states[0].file(an_access(expires_us=NOW + 1), most_pending=4)
    answers = together([partial(each.expire, NOW + 1) for each in states])
    assert sorted(map(len, answers)) == [0, 0, 0, 1]


def test_whoever_reads_sees_one_moment(
    state_url: str, tmp_path: Path, open_state: Callable[[], State]
) -> None:
    other = open_state()
    database = Database(state_url, base=tmp_path)
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(requests)
    with database.reading() as connection:
        assert connection.execute(count).scalar() == 0
        other.file(a_request(), most_pending=4)
        assert connection.execute(count).scalar() == 0
    with database.reading() as connection:
        assert connection.execute(count).scalar() == 1
    database.close()


VOTER = """
import sys
from pathlib import Path
from uuid import UUID
from agentaudit.errors import NotPending
from agentaudit.gateway.state import State, Vote
from agentaudit.model import Actor

url, base, id, digest, subject, now_us = sys.argv[1:]
state = State.open(url, base=Path(base))
actor = Actor(user=subject, subject=subject, issuer="https://idp.example.com")
vote = Vote(approver=actor, verdict="approve", reason="", at_us=int(now_us))
print("ready", flush=True)
sys.stdin.readline()
try:
    print(state.vote(UUID(id), vote, digest=digest, now_us=int(now_us)).state)
except NotPending:
    print("too late")
"""


def test_of_two_processes_that_decide_at_once_one_does(
    state_url: str, tmp_path: Path, state: State
) -> None:
    request = a_request()
    state.file(request, most_pending=4)
    command = [sys.executable, "-c", VOTER, state_url, str(tmp_path), str(request.id), DIGEST]
    with contextlib.ExitStack() as stack:
        voters = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, subject, str(NOW + 1)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for subject in ("anna", "bert")
        ]
        for each in voters:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in voters:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        answers = [each.communicate(timeout=60)[0] for each in voters]
    assert sorted(answers) == ["approved\n", "too late\n"]


# --- the schema


@contextlib.contextmanager
def engine_of(url: str, base: Path) -> Iterator[sqlalchemy.Engine]:
    """The test's database as it is, past the state."""
    if url.startswith("sqlite"):
        url = f"sqlite:///{base / 'state.db'}"
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        yield engine
    finally:
        engine.dispose()


def description(engine: sqlalchemy.Engine) -> dict[str, Any]:
    """Return all that a database says of its tables; Alembic compares no checks, for one."""
    inspector = sqlalchemy.inspect(engine)
    questions = (
        inspector.get_columns,
        inspector.get_foreign_keys,
        inspector.get_unique_constraints,
        inspector.get_check_constraints,
        inspector.get_indexes,
    )
    return {
        table: [
            inspector.get_pk_constraint(table),
            *(sorted(map(spelt, question(table))) for question in questions),
        ]
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def spelt(part: Any) -> str:
    """Return the words for a part of a table: types and conditions are objects without equality."""
    options = {key: str(value) for key, value in part.get("dialect_options", {}).items()}
    return str({**part, "type": str(part.get("type")), "dialect_options": options})


def test_the_migrations_make_what_the_tables_say(
    state_url: str, tmp_path: Path, state: State
) -> None:
    with engine_of(state_url, tmp_path) as engine:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": True})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == SCHEMA
        migrated = description(engine)
        with engine.begin() as connection:
            metadata.drop_all(connection)
            metadata.create_all(connection)
        assert description(engine) == migrated
    assert set(migrated) == set(metadata.tables)


def test_the_newest_migration_is_the_one_that_is_known_as_such() -> None:
    (folder,) = migrations.__path__
    assert ScriptDirectory(folder).get_current_head() == SCHEMA


def test_what_was_kept_is_there_at_the_next_start(state_url: str, tmp_path: Path) -> None:
    request = a_request()
    first = State.open(state_url, base=tmp_path)
    first.file(request, most_pending=4)
    first.close()
    second = State.open(state_url, base=tmp_path)
    assert second.requests() == [request]
    second.close()


def test_a_state_of_the_first_release_is_brought_here_with_what_it_kept(
    state_url: str, tmp_path: Path, state: State
) -> None:
    request = a_request()
    state.file(request, most_pending=4)
    migrations_since = {"certificates"}
    with engine_of(state_url, tmp_path) as engine:
        now = description(engine)
        with engine.begin() as connection:
            for table in migrations_since:
                connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        with contextlib.closing(State.open(state_url, base=tmp_path)) as newer:
            assert newer.requests() == [request]
        assert description(engine) == now


def test_a_state_that_a_newer_release_has_made_is_refused(
    state_url: str, tmp_path: Path, state: State
) -> None:
    with engine_of(state_url, tmp_path) as engine, engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StateError, match=r"'9999'.*'0002'") as refused:
        State.open(state_url, base=tmp_path)
    assert "newer" in refused.value.hint


# --- faults


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "state.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///state.db?key=geheim",
        "sqlite://geheim/state.db",
        "mysql://user:geheim@host/state",
        "postgresql+asyncpg://user:geheim@host/state",
        "postgresql://user:ge@heim@host/state",
        "postgresql://user:x@host:geheim/state",
    ],
)
def test_a_url_that_the_state_cannot_be_at_is_refused_in_words_without_it(
    wrong: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as refused:
        State.open(wrong, base=tmp_path)
    assert "heim" not in f"{refused.value} {refused.value.hint}"
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch(mode=0o644)
    state = State.open("sqlite:///state.db", base=tmp_path)
    state.file(a_request(), most_pending=4)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm"], 0o600)
    state.close()
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]
    absolute = State.open(f"sqlite:///{tmp_path}/state.db", base=Path("/nowhere"))
    assert len(absolute.requests()) == 1
    absolute.close()


@pytest.mark.parametrize("fault", ["no folder", "a folder", "no database"])
def test_a_file_that_is_no_database_is_no_state(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "below/state.db"
    if fault != "no folder":
        path.parent.mkdir()
    if fault == "a folder":
        path.mkdir(mode=0o755)
    if fault == "no database":
        path.write_bytes(b"geheim" * 1000)
    with pytest.raises(StateError) as refused:
        State.open("sqlite:///below/state.db", base=tmp_path)
    assert "geheim" not in str(refused.value)
    if fault == "a folder":
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_file_that_may_not_be_written_is_no_state() -> None:
    nobody = 65534
    folder = Path(tempfile.mkdtemp(prefix="agentaudit-state-"))
    try:
        State.open("sqlite:///state.db", base=folder).close()
        (folder / "state.db").chmod(0o400)
        if os.geteuid() == 0:
            # Modes say nothing to root.
            for path in (folder, *folder.iterdir()):
                os.chown(path, nobody, nobody)
            os.seteuid(nobody)
        with pytest.raises(StateError, match=r"SQLITE_(READONLY|CANTOPEN)"):
            State.open("sqlite:///state.db", base=folder).file(a_request(), most_pending=4)
    finally:
        os.seteuid(os.getuid())
        shutil.rmtree(folder)


def test_a_disk_that_takes_no_more_stops_what_writes_and_nothing_else(tmp_path: Path) -> None:
    state = State.open("sqlite:///state.db", base=tmp_path)
    request = a_request()
    state.file(request, most_pending=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(StateError, match=r"SQLITE_(FULL|IOERR)"):
            state.file(a_request(), most_pending=4)
        assert state.requests() == [request]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert vote(state, request.id, "anna").state == "approved"
    state.close()


def test_a_database_that_was_away_serves_again_once_it_is_back(
    own_postgres18: PostgresPeer, tmp_path: Path
) -> None:
    own_postgres18.execute("CREATE DATABASE state OWNER scram")
    url = postgres_url(own_postgres18, "state")
    state = State.open(url, base=tmp_path)
    request = a_request()
    state.file(request, most_pending=4)
    own_postgres18.stop()
    for call in (state.revision, state.requests, lambda: vote(state, request.id, "anna")):
        with pytest.raises(StateError) as down:
            call()
        assert own_postgres18.passwords["scram"] not in f"{down.value} {down.value.hint}"
    with pytest.raises(StateError):
        State.open(url, base=tmp_path)
    own_postgres18.start()
    assert vote(state, request.id, "anna").state == "approved"
    # This time nobody asked while it was away: the connection is dead and looks alive.
    own_postgres18.stop()
    own_postgres18.start()
    assert state.requests(state="approved")[0].id == request.id
    state.close()


def test_a_wrong_password_stands_in_no_error(postgres18: PostgresPeer, tmp_path: Path) -> None:
    for url in (
        f"postgresql://scram:geheim@{postgres18.host}:{postgres18.port}/orders",
        f"postgresql://scram@{postgres18.host}:{postgres18.port}/orders?password=geheim",
        f"postgresql://scram@/orders?host={postgres18.host}&port=1&password=geheim",
    ):
        with pytest.raises(StateError) as refused:
            State.open(url, base=tmp_path)
        assert "geheim" not in f"{refused.value} {refused.value.hint}"
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__


def test_an_error_of_the_database_says_its_kind_and_no_content(
    state_url: str, tmp_path: Path, state: State
) -> None:
    request = a_request(reason="geheim")
    state.file(request, most_pending=4)
    with pytest.raises(StateError, match=r"IntegrityError (SQLITE_CONSTRAINT|23505)") as failed:
        state.file(request, most_pending=4)
    assert "geheim" not in str(failed.value)
    assert str(request.id) not in str(failed.value)
