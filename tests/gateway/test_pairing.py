"""What the server says it ran is what the archive says was run, one row an execution.

The server's log is the oracle: it knows each statement, its parameters and its SQLSTATE, and it
knows nothing of the gateway. PostgreSQL 15 and 18 both testify.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from tests import tries
from tests.gateway.hosted import Hosted, hosted
from tests.gateway.recorded import Row, read
from tests.gateway.scripts import SETUP, Item, Speaker, executions, frames, scripts
from tests.peers.gateway import GatewayFactory
from tests.peers.issuers import SigningIssuer
from tests.peers.serverlog import Line, TellingPostgres
from tests.protocols import wire

EXECUTIONS = 10_000

Ended = tuple[str, tuple[str | None, ...] | None, str]
"""Text, parameters and outcome of an execution: `ok` or a SQLSTATE."""

# Nobody knows the text of what names a statement or portal that is not there.
_NAMELESS = {"26000": "no such statement", "34000": "no such portal"}
_NUMBERED = re.compile(r"SELECT (?:note|fail)\((\d+)")
_RAISED = re.compile(r"(?:ran|failed) (\d+)\Z")


def as_told(lines: Iterable[Line]) -> Iterator[Ended]:
    """Yield how each execution ended that the server tells of, in order."""
    for line in lines:
        if line.ran is not None:
            if not _NUMBERED.match(line.ran):  # of several, each one speaks for itself
                yield line.ran, line.params, "ok"
        elif line.has_failed:
            yield _failed(line), line.params, line.sqlstate
        elif raised := _RAISED.match(line.message):
            yield f"note or fail {raised[1]}", None, "ok"


def _failed(line: Line) -> str:
    if line.sqlstate in _NAMELESS:
        return _NAMELESS[line.sqlstate]
    # In a failed transaction the first of several is refused.
    found = _RAISED.match(line.message) or _NUMBERED.match(line.query)
    return f"note or fail {found[1]}" if found else line.query


def as_recorded(rows: Iterable[Row]) -> Iterator[Ended]:
    """Yield the same of rows, in the order of the commands; `incomplete` ones have not run."""
    for row in rows:
        outcome = "ok" if row["status"] == "ok" else row["error_code"] or row["status"]
        found = _NUMBERED.match(row["text"])
        text = f"note or fail {found[1]}" if found else row["text"]
        params = None if row["params"] is None else tuple(row["params"])
        yield _NAMELESS.get(outcome, text), params or None, outcome


def without_params(ended: Iterable[Ended]) -> Counter[tuple[str, str]]:
    return Counter((text, outcome) for text, _, outcome in ended)


@pytest.fixture(scope="module")
def issuer_of_module() -> Iterator[SigningIssuer]:
    issuer = SigningIssuer()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def told_gateway(
    telling_postgres: TellingPostgres,
    issuer_of_module: SigningIssuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hosted]:
    """A gateway before the server that tells, for all examples of a property."""
    telling_postgres.execute(*SETUP, database=telling_postgres.database)
    folder = tmp_path_factory.mktemp("told")
    with hosted(
        folder, telling_postgres.target(), issuer=issuer_of_module, durability="relaxed"
    ) as gateway:
        yield gateway
    telling_postgres.execute(
        "DROP TABLE copied; DROP FUNCTION note, fail", database=telling_postgres.database
    )


def pairs_with_the_servers_log(
    script: list[Item],
    server: TellingPostgres,
    gateway: Hosted,
    token: str,
    *,
    in_turns: bool,
) -> None:
    name = f"pairs-{secrets.token_hex(6)}"
    said = frames(script)
    with Speaker(gateway, token, name) as client:
        if in_turns:
            for frame, item in zip(said, script, strict=True):
                client.say(frame)
                if item.end == "sync":
                    client.wait()
        else:
            client.say(b"".join(said))
        client.wait()
        client.say(wire.query(f"ROLLBACK /* {name} */"))
        client.hear("Z")
        client.leave()

    lines = [one for one in server.told(f"ROLLBACK /* {name} */") if one.application == name]
    told = list(as_told(lines))
    recorded = read(gateway.archive)
    rows = recorded.commands_of(recorded.session(client_app=name))
    ran = list(as_recorded(row for row in rows if row["status"] != "incomplete"))
    assert without_params(ran) == without_params(told)
    # Where the server says what the parameters were, they are the recorded ones.
    known = {(text, outcome): params for text, params, outcome in told if params is not None}
    for text, params, outcome in ran:
        if "/* prepared" not in text and (text, outcome) in known:
            assert params == known[text, outcome]
    assert Counter(r for r in ran if r[2] == "ok" and "/* prepared" in r[0]) == Counter(
        t for t in told if t[2] == "ok" and "/* prepared" in t[0]
    )
    # One after the other, as the server ran them.
    assert [one[0] for one in ran if one[2] == "ok"] == [one[0] for one in told if one[2] == "ok"]
    # What the server skipped is a row too; what it refused to prepare is one more.
    answers = {event["event_no"] for event in recorded.events if event["side"] == "target"}
    asked = [row for row in rows if row["first_event_no"] not in answers]
    marks = [row for row in asked if row["text"] == "/* mark */"]
    assert len(asked) - len(marks) == executions(b"".join(said)) + 1
    assert {row["status"] for row in rows} <= {"ok", "error", "incomplete", "cancelled"}


@pytest.mark.parametrize("in_turns", [False, True])
@pytest.mark.parametrize(
    "examples",
    [
        25,
        pytest.param(
            tries.of(100, share=40), id="many", marks=[pytest.mark.full, pytest.mark.timeout(900)]
        ),
    ],
)
def test_pipelines_of_good_and_failing_statements_pair_with_the_servers_log(
    examples: int,
    in_turns: bool,
    telling_postgres: TellingPostgres,
    told_gateway: Hosted,
    issuer_of_module: SigningIssuer,
) -> None:
    token = issuer_of_module.token()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scripts)
    def holds(script: list[Item]) -> None:
        pairs_with_the_servers_log(script, telling_postgres, told_gateway, token, in_turns=in_turns)

    holds()


# --- one statement, very often

NOTE = "INSERT INTO notes VALUES ($1, $2)"


def with_psycopg(dsn: str, name: str, first: int, last: int) -> None:
    """Run it alone, each time, prepared by the driver."""
    with psycopg.connect(dsn, application_name=name, autocommit=True) as connection:
        for n in range(first, last):
            values = (n, f"note {n}")
            connection.execute("INSERT INTO notes VALUES (%s, %s)", values, prepare=True)


def with_pipeline(dsn: str, name: str, first: int, last: int) -> None:
    """Run it in a pipeline, all asked before the first answer is read."""
    with (
        psycopg.connect(dsn, application_name=name, autocommit=True) as connection,
        connection.pipeline(),
        connection.cursor() as cursor,
    ):
        values = [(n, f"note {n}") for n in range(first, last)]
        cursor.executemany("INSERT INTO notes VALUES (%s, %s)", values)


def with_asyncpg(dsn: str, name: str, first: int, last: int) -> None:
    """Run it as one executemany, with binary parameters."""
    parts = dict(part.split("=", 1) for part in dsn.replace("'", "").split(" "))

    async def work() -> None:
        connection = await asyncpg.connect(
            host=parts["host"],
            port=int(parts["port"]),
            user=parts["user"],
            password=parts["password"],
            database=parts["dbname"],
            server_settings={"application_name": name},
        )
        await connection.executemany(NOTE, [(n, f"note {n}") for n in range(first, last)])
        await connection.close()

    asyncio.run(work())


def test_ten_thousand_executions_of_one_statement_are_ten_thousand_rows_with_their_parameters(
    telling_postgres: TellingPostgres, gateway: GatewayFactory, signing_issuer: SigningIssuer
) -> None:
    server, name = telling_postgres, f"often-{secrets.token_hex(6)}"
    server.execute("CREATE TABLE notes (id int, body text)", database=server.database)
    server.execute("GRANT ALL ON notes TO PUBLIC", database=server.database)
    gw = gateway(server.target(), issuer=signing_issuer, durability="relaxed")
    dsn = gw.dsn("orders", signing_issuer.token())

    with_psycopg(dsn, name, 0, 2_000)
    with_pipeline(dsn, name, 2_000, 6_000)
    with_asyncpg(dsn, name, 6_000, EXECUTIONS)

    gw.wait_until_idle()
    assert gw.terminate() == 0
    server.execute(f"DROP TABLE notes /* {name} */", database=server.database)
    told = [one for one in server.told(f"DROP TABLE notes /* {name} */") if one.application == name]
    ran = [line.params for line in told if line.ran == NOTE]
    assert ran == [(str(n), f"note {n}") for n in range(EXECUTIONS)]
    rows = [row for row in by_start(read(gw.archive).commands) if row["text"] == NOTE]
    assert [tuple(row["params"]) for row in rows] == ran
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["rows_affected"] for row in rows} == {1}


def by_start(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["first_event_no"], row["command_no"]))
