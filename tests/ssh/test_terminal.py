"""A shell of a real server, through the gateway: what its terminal showed can be seen again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import agentaudit as aa
from agentaudit.analysis.film import Film
from agentaudit.analysis.seen import seen
from agentaudit.demo.processes import until
from tests.analysis.test_asciicast import read
from tests.ssh.client import OpenSsh, Started, connected, recorded

SECRET = "AKIAIOSFODNN7EXAMPLE"


def follow(archive: Path) -> None:
    """Look at a shell that is still open, until all that was said is there."""
    case = aa.load(archive)
    ((session_id,),) = case.sessions().project("session_id").fetchall()
    film = Film(case.session(session_id).terminal())

    def is_there() -> bool:
        film.refresh()
        rows = dict(row for frame in film.page(film.pages - 1) for row in frame["rows"])
        return ["row 90."] in rows.values()

    until(is_there, "the last line, on the screen of a live session")


async def use(client: OpenSsh, archive: Path) -> str:
    """Use a shell as a person does; return what its terminal was sent."""
    said = ""
    async with connected(client) as connection:
        shell = await connection.create_process(
            term_type="xterm-256color", term_size=(100, 30), stderr=asyncio.subprocess.STDOUT
        )

        async def hear(text: str) -> None:
            nonlocal said
            while text not in said.partition("TYPED")[2]:
                said += await asyncio.wait_for(shell.stdout.read(4096), 30)

        shell.stdin.write("PS1='> '; stty -echo; echo TY''PED\n")
        await hear("> ")
        # What is painted piece by piece, out of order, and what scrolls by.
        shell.stdin.write(
            "printf 'sec\\033[31mret \\033[0mwo'; printf 'rd\\n'; seq -f 'row %g.' 90\n"
        )
        await hear("row 90.")
        await asyncio.to_thread(follow, archive)
        shell.stdin.write(f"echo key {SECRET} end\n")
        await hear(f"{SECRET} end")
        shell.change_terminal_size(60, 20)
        shell.stdin.write("until stty size | grep -q '20 60'; do :; done; echo re''sized; exit 5\n")
        await hear("resized")
        assert (await asyncio.wait_for(shell.wait(), 30)).exit_status == 5
    return said


def test_what_a_terminal_showed_is_seen_again(started: Started) -> None:
    mask = {"name": "keys", "detect": ["secrets"], "action": "redact", "apply": ["archive"]}
    gw, client = started(mask=[mask])
    said = asyncio.run(use(client, gw.archive))
    assert SECRET in said
    case = recorded(gw)
    ((session_id,),) = case.sessions().project("session_id").fetchall()
    session = case.session(session_id)
    terminal = session.terminal()
    assert (terminal.kind, terminal.size) == ("xterm-256color", (100, 30))

    film = Film(terminal)
    last = film.page(film.pages - 1)
    assert [frame["size"] for frame in last if "size" in frame][-1] == (60, 20)
    lines = list(terminal.lines())
    assert "secret word" in lines
    assert [f"row {n}." for n in range(1, 91)] == [line for line in lines if line.startswith("row")]
    masked = [
        each
        for page in range(film.pages)
        for frame in film.page(page)
        for _, row in frame["rows"]
        for each in row
        if not isinstance(each, str) and each[1] & 1 << 16
    ]
    assert masked
    assert all(text.startswith("[masked:") for text, _ in masked)
    assert "resized" in "".join(terminal.last().text()[-2:])

    for text in ("SECRET WORD", "row 31."):
        ((hit,), is_cut) = seen(terminal, text)
        assert (hit.text, is_cut) == (text.lower(), False)
        assert 0 <= hit.first_us <= hit.last_us <= terminal.duration_us
    assert seen(terminal, SECRET) == ([], False)
    assert [row[6] for row in case.search_screens("secret word").fetchall()] == ["secret word"]

    cast = read("".join(session.asciicast()))
    assert cast.said("x") == "5"
    assert [data for _, code, data in cast.events if code == "r"] == ["60x20"]
    assert SECRET not in cast.said("o")
    assert "sec\x1b[31mret \x1b[0mword" in cast.said("o")
