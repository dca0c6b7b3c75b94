"""Every byte of every channel is recorded as it passed, in both directions and in its order."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import asyncssh

from tests.ssh.client import Started, connected, recorded

CHANNELS = 24


def sizes(random: Random) -> list[int]:
    """Return how large pieces are: mostly small, a few larger than any packet."""
    return [int(random.paretovariate(0.4)) % 300_000 for _ in range(random.randrange(20))]


async def test_many_channels_at_once_are_recorded_as_both_ends_saw_them(
    started: Started, tmp_path: Path
) -> None:
    random = Random(seed := os.urandom(4).hex())
    said = {kind: [b""] * CHANNELS for kind in ("in", "out", "err")}
    statuses = [random.randrange(256) for _ in range(CHANNELS)]
    pieces = [[random.randbytes(size) for size in sizes(random)] for _ in range(CHANNELS)]
    for number in range(CHANNELS):
        for kind in ("out", "err"):
            said[kind][number] = b"".join(random.randbytes(size) for size in sizes(random))
            (tmp_path / f"{kind}{number}").write_bytes(said[kind][number])
    gw, client = started()

    async def work(connection: asyncssh.SSHClientConnection, number: int) -> None:
        at = f"{tmp_path}/"
        script = (
            f"cat {at}out{number} & cat {at}err{number} >&2 & cat > {at}in{number};"
            f" wait; exit {statuses[number]}"
        )
        async with connection.create_process(script, encoding=None) as process:

            async def feed() -> None:
                for piece in pieces[number]:
                    process.stdin.write(piece)
                    await process.stdin.drain()
                process.stdin.write_eof()

            out, err, _ = await asyncio.gather(process.stdout.read(), process.stderr.read(), feed())
            await process.wait()
        assert (out, err) == (said["out"][number], said["err"][number]), seed
        assert process.exit_status == statuses[number], seed

    async with connected(client) as connection:
        await asyncio.gather(*(work(connection, number) for number in range(CHANNELS)))
    for number in range(CHANNELS):
        said["in"][number] = (tmp_path / f"in{number}").read_bytes()
        assert said["in"][number] == b"".join(pieces[number]), seed

    case = recorded(gw)
    assert case.verify(key=gw.verifier_key).ok
    rows = case.sql(
        "SELECT text, command_no, error_code, bytes_in, bytes_out, session_id FROM commands"
    ).fetchall()
    assert len(rows) == CHANNELS
    session = case.session(str(rows[0][-1]))
    for text, command_no, code, bytes_in, bytes_out, _ in rows:
        number = int(text.rpartition("/in")[2].partition(";")[0])
        sent = b"".join(session.stream("client", command_no=command_no))
        assert sent == text.encode() + said["in"][number], seed
        both = b"".join(session.stream("target", command_no=command_no))
        assert len(both) == bytes_out, seed
        # Two streams have one order here, and each its own.
        got = {None: b"", 1: b""}
        for status, stored_len in case.sql(
            "SELECT status, stored_len FROM events WHERE kind IN ('response', 'content')"
            f" AND side = 'target' AND command_no = {command_no} ORDER BY seq"
        ).fetchall():
            got[status] += both[:stored_len]
            both = both[stored_len:]
        assert (got[None], got[1]) == (said["out"][number], said["err"][number]), seed
        assert bytes_in == len(sent), seed
        assert int(code or 0) == statuses[number], seed
