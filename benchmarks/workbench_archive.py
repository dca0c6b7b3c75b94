"""Ten million made-up commands: Parquet files with the archive's columns, written by DuckDB.

The archive's own code would write events and leaves too, and take an hour. What a workbench reads
are the tables `commands` and `sessions`, so those are made, in files like those of sealed segments,
with the schema and row groups that the sealer writes. Nothing signs them: no log, nothing verifies.
The same seed gives the same rows.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from agentaudit.archive.segment import ROW_GROUP_ROWS, SCHEMAS
from agentaudit.archive.snapshot import Snapshot

USERS, AGENTS, TARGETS = 20, 8, 4
COMMANDS_A_SESSION = 250
WEEKS = 12
BEGAN_US = 1_767_571_200_000_000  # 5 January 2026, a Monday, UTC
SEGMENT_ROWS = 1_000_000

_TABLES = 60
_HOUR = 3_600_000_000


def write(folder: Path, commands: int, seed: int) -> Snapshot:
    """Write the files below `folder`; return what a reader of an archive would find there."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET memory_limit = '2GB'")
    connection.execute("SET threads = 2")
    connection.execute(f"SET temp_directory = '{folder}/spill'")
    # The hash of one number is as good as drawn; that of several is not: they come out alike.
    connection.execute(
        f"CREATE MACRO drawn(number, salt) AS "
        f"hash(number * 32 + salt + {seed} * 1000000007) / 18446744073709551616.0::DOUBLE"
    )
    _sessions(connection, commands, seed)
    files: dict[str, list[Path]] = {table: [] for table in SCHEMAS}
    sessions = _typed("sessions", connection.sql(_SESSION_ROWS).to_arrow_table())
    files["sessions"].append(_write(folder, "sessions", 0, [sessions]))
    (count,) = connection.execute("SELECT max(last) FROM s").fetchall()[0]
    ordered = _COMMANDS.format(seed=seed, tables=_TABLES)
    connection.execute(f"CREATE TABLE made AS {ordered}")
    for number, first in enumerate(range(0, count, SEGMENT_ROWS)):
        rows = connection.sql(
            f"SELECT * EXCLUDE (r) FROM made WHERE r >= {first} AND r < {first + SEGMENT_ROWS} "
            "ORDER BY r"
        ).to_arrow_table()
        files["commands"].append(_write(folder, "commands", number, [_typed("commands", rows)]))
    connection.close()
    return snapshot(folder)


def snapshot(folder: Path) -> Snapshot:
    """Return what `write` has left in `folder`."""
    files = {table: sorted((folder / table).glob("*.parquet")) for table in SCHEMAS}
    live = {table: schema.empty_table() for table, schema in SCHEMAS.items()}
    return Snapshot(folder, files, live, {}, [], [])


def _typed(name: str, rows: pa.Table) -> pa.Table:
    schema = SCHEMAS[name]
    arrays = []
    for field in schema:
        if field.name not in rows.column_names:
            empty = [] if pa.types.is_list(field.type) or pa.types.is_map(field.type) else None
            arrays.append(pa.array([empty] * rows.num_rows, field.type))
            continue
        column = rows.column(field.name).combine_chunks()
        if field.type == pa.uuid() and column.type != pa.uuid():
            column = pa.ExtensionArray.from_storage(field.type, column.cast(pa.binary(16)))
        arrays.append(column if column.type == field.type else column.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _write(folder: Path, table: str, number: int, parts: list[pa.Table]) -> Path:
    path = folder / table / f"{number:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(
        path, SCHEMAS[table], compression="zstd", compression_level=3, use_dictionary=True
    ) as writer:
        for part in parts:
            writer.write_table(part, row_group_size=ROW_GROUP_ROWS)
    return path


def _sessions(connection: duckdb.DuckDBPyConnection, commands: int, seed: int) -> None:
    """Make table `s`: who, when, and how many commands of each session.

    A few people and agents do most of it. Most of it is done from 7 to 19 on working days; agents
    that run by themselves work at night too.
    """
    sessions = max(1, commands // COMMANDS_A_SESSION)
    connection.execute(f"""
        CREATE TABLE s AS
        WITH lots AS (
            SELECT i,
                drawn(i, 1) AS a,
                drawn(i, 2) AS b,
                drawn(i, 3) AS c,
                drawn(i, 4) AS d,
                drawn(i, 5) AS e,
                drawn(i, 6) AS f
            FROM range({sessions}) AS _(i)
        ),
        timed AS (
            SELECT *,
                -- Days of the week: the last two have a sixth of the others.
                if(d < 0.94, floor(d / 0.94 * 5), 5 + floor((d - 0.94) / 0.06 * 2)) AS day,
                if(f < 0.85, 7 + f / 0.85 * 12, (19 + (f - 0.85) / 0.15 * 12) % 24) AS hour
            FROM lots
        ),
        sized AS (
            SELECT *, greatest(1, round(-ln(1 - e * 0.999) * {COMMANDS_A_SESSION}))::BIGINT AS n
            FROM timed
        )
        SELECT i,
            md5(concat('{seed}-', i)) AS hex,
            'user-' || lpad(floor(pow(a, 2.5) * {USERS})::BIGINT::VARCHAR, 2, '0') AS person,
            'agent-' || floor(pow(b, 2) * {AGENTS})::BIGINT::VARCHAR AS agent,
            'target-' || floor(pow(c, 1.5) * {TARGETS})::BIGINT::VARCHAR AS target,
            ({BEGAN_US} + ((floor(drawn(i, 7) * {WEEKS}) * 7 + day)
                * 24 + hour) * {_HOUR} + i)::BIGINT AS opened,
            n, sum(n) OVER (ORDER BY i)::BIGINT AS last
        FROM sized
        """)


_SESSION_ROWS = """
    SELECT unhex(hex) AS session_id, 'gw1' AS gateway, person AS "user",
        'https://idp.example.com' AS issuer, agent, target, 'postgres' AS protocol,
        '127.0.0.1:50000' AS client_addr, 'psycopg' AS client_app, 6432 AS gateway_port,
        make_timestamptz(opened) AS opened_at, make_timestamptz(opened + n * 10000000) AS closed_at,
        'client' AS close_reason, n AS commands, n * 3 AS events, TRUE AS is_final
    FROM s ORDER BY opened
"""

# What an agent does: most of it reads one of a few tables again and again, with other constants.
_COMMANDS = """
    WITH rows AS (
        SELECT s.hex, s.i, s.person, s.agent, s.target, s.opened, s.n AS of, k,
            drawn(s.i * 100000 + k, 11) AS a,
            drawn(s.i * 100000 + k, 12) AS b,
            drawn(s.i * 100000 + k, 13) AS c,
            drawn(s.i * 100000 + k, 14) AS d,
            hash((s.i * 100000 + k) * 32 + 15 + {seed} * 1000000007) AS e
        FROM s, unnest(range(s.n)) AS _(k)
    ),
    chosen AS (
        SELECT *,
            CASE WHEN a < 0.72 THEN 'SELECT' WHEN a < 0.80 THEN 'UPDATE' WHEN a < 0.87 THEN 'INSERT'
                WHEN a < 0.89 THEN 'DELETE' WHEN a < 0.93 THEN 'BEGIN' WHEN a < 0.97 THEN 'COMMIT'
                WHEN a < 0.985 THEN 'SET' WHEN a < 0.997 THEN 'SHOW' WHEN a < 0.9985 THEN 'ALTER TABLE'
                WHEN a < 0.9995 THEN 'DROP TABLE' ELSE 'GRANT' END AS operation,
            -- A session works on five tables of sixty.
            'public.table_' || lpad(((i * 7 + floor(pow(b, 2) * 5)) % {tables})::BIGINT::VARCHAR, 2, '0')
                AS name
        FROM rows
    ),
    said AS (
        SELECT *,
            CASE operation
                WHEN 'SELECT' THEN 'read' WHEN 'SHOW' THEN 'session' WHEN 'SET' THEN 'session'
                WHEN 'BEGIN' THEN 'session' WHEN 'COMMIT' THEN 'session' WHEN 'GRANT' THEN 'admin'
                WHEN 'ALTER TABLE' THEN 'schema' WHEN 'DROP TABLE' THEN 'schema' ELSE 'write'
            END AS class,
            CASE WHEN c < 0.0005 OR (operation = 'DROP TABLE' AND c < 0.9) THEN 'deny'
                WHEN c < 0.001 OR (operation IN ('ALTER TABLE', 'GRANT') AND c < 0.5) THEN 'hold'
                ELSE 'allow' END AS decision,
            CASE WHEN operation IN ('SELECT', 'UPDATE', 'INSERT', 'DELETE') THEN
                -- Nine texts of ten come again and again, in any session.
                CASE WHEN d < 0.9 THEN (e % 400)::VARCHAR ELSE (e % 100000000)::VARCHAR END
                ELSE '' END AS constant
        FROM chosen
    )
    SELECT row_number() OVER (ORDER BY t, hex, command_no) - 1 AS r, * EXCLUDE (t, hex, i),
        unhex(hex) AS session_id, make_timestamptz(t) AS started_at,
        make_timestamptz(t + duration_us) AS ended_at
    FROM (
        SELECT hex, i, k::INTEGER AS command_no, 'gw1' AS gateway, 'https://idp.example.com' AS issuer,
            person AS "user", agent, target, 'postgres' AS protocol,
            -- Ten seconds a command, in bursts.
            opened + (k * 10000000 + floor(b * 9000000))::BIGINT AS t,
            (200 + floor(-ln(1 - c * 0.9999) * 4000))::BIGINT AS duration_us,
            operation, class, md5(operation || name) AS fingerprint,
            CASE operation
                WHEN 'SELECT' THEN 'SELECT id, name, email, state, updated_at FROM ' || name
                    || ' WHERE id = ' || constant || ' AND state IN (''open'', ''held'') ORDER BY id LIMIT 50'
                WHEN 'UPDATE' THEN 'UPDATE ' || name || ' SET state = ''closed'', updated_at = now() WHERE id = '
                    || constant
                WHEN 'INSERT' THEN 'INSERT INTO ' || name || ' (id, name, state) VALUES (' || constant
                    || ', ''made by an agent'', ''open'') RETURNING id'
                WHEN 'DELETE' THEN 'DELETE FROM ' || name || ' WHERE id = ' || constant
                WHEN 'DROP TABLE' THEN 'DROP TABLE ' || name || ' CASCADE'
                WHEN 'ALTER TABLE' THEN 'ALTER TABLE ' || name || ' ADD COLUMN note text'
                WHEN 'GRANT' THEN 'GRANT ALL ON ' || name || ' TO public'
                WHEN 'SET' THEN 'SET application_name = ''' || agent || ''''
                ELSE operation || ' /* ' || agent || ' */' END AS text,
            if(class = 'session', [], [name]) AS resources,
            CASE WHEN decision = 'deny' THEN 'denied' WHEN d < 0.03 THEN 'error'
                WHEN d < 0.031 THEN 'cancelled' ELSE 'ok' END AS status,
            if(operation = 'SELECT', floor(pow(d, 12) * 2500)::BIGINT, 0) AS rows_returned,
            if(class = 'write', floor(pow(d, 20) * 3000)::BIGINT, 0) AS rows_affected,
            length(name) + 120 AS bytes_in,
            if(operation = 'SELECT', floor(pow(d, 12) * 2500)::BIGINT * 130, 60) AS bytes_out,
            if(operation = 'SELECT' AND b < 0.02, 1 + (e % 9)::INTEGER, 0)::INTEGER AS masked,
            CASE WHEN operation = 'DROP TABLE' THEN ['drops', 'cascades']
                WHEN operation IN ('UPDATE', 'DELETE') AND c < 0.02 THEN ['no where']
                WHEN operation = 'SELECT' AND c < 0.1 THEN ['no limit'] ELSE [] END AS risk,
            'certain' AS confidence, decision, if(decision = 'allow', 'none', 'careful') AS rule,
            'made up' AS parser
        FROM said
    )
"""
