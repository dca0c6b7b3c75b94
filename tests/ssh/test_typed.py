"""What is typed at a prompt is decided about before Enter goes on, and is recorded as it ran."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentaudit as aa
from agentaudit.risk.shell import classify
from tests.gateway.test_holds import Reviewers, meanwhile
from tests.ssh.client import OpenSsh, Started, connected, recorded
from tests.ssh.terminal import Terminal
from tests.ssh.test_rules import EVASIONS, WRITES

REMOVALS = {
    "name": "removals",
    "when": {"operation": ["rm"]},
    "action": "hold",
    "approvers": ["dba"],
}
NO_REMOVALS = {"name": "removals", "when": {"operation": ["rm"]}, "action": "deny"}
UNKNOWN = {"name": "who knows", "when": {"class": ["unknown"]}, "action": "deny"}
ECHO_OFF = {
    "name": "echo off",
    "when": {"class": ["unknown"], "text": "^stty -?echo$"},
    "action": "allow",
}


Opened = Callable[[OpenSsh], Terminal]


@pytest.fixture
def at() -> Iterator[Opened]:
    """Open terminals, and wait for their first prompts."""
    opened: list[Terminal] = []

    def open_one(client: OpenSsh) -> Terminal:
        opened.append(Terminal(client))
        opened[-1].wait()
        return opened[-1]

    yield open_one
    for each in opened:
        each.hang_up()


def lines(case: aa.Case, *columns: str) -> list[Any]:
    """Return what the rows of lines have, in order: their texts alone where no more is asked."""
    rows = case.sql(
        f"SELECT {', '.join(columns or ['text'])} FROM commands"
        " WHERE operation = 'line' ORDER BY started_at"
    ).fetchall()
    return rows if columns else [text for (text,) in rows]


def is_sound(case: aa.Case, key: Any) -> bool:
    return case.verify(key=key, deep=True).ok


def test_a_held_line_runs_when_somebody_has_approved_and_not_before(
    started: Started, at: Opened, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS, UNKNOWN)
    reviewed.append(Reviewers(gw))
    (reviewers,) = reviewed
    terminal = at(client)
    removal = f"rm -rf {data}"

    # Approved, it runs; what was typed behind it comes behind it.
    terminal.send(f"{removal}\recho 4''2\r")
    terminal.wait_for("^C takes it back")
    (request,) = reviewers.wait_for()
    (shown,) = request.shown["statements"]
    assert (shown["operation"], shown["class"], shown["text"]) == (
        "line",
        classify(removal).cls,
        removal,
    )
    assert (data / "file").read_text() == "kept"
    reviewers.decide(request)
    terminal.see("42")
    assert not data.exists()

    # Denied, the client hears why, and the shell lives on.
    data.mkdir()
    terminal.type(f"{removal}\r")
    reviewers.deny_next()
    assert "not on a Friday" in terminal.refused(3)
    assert "alive" in terminal.run("echo alive")
    assert data.exists()

    # Spread over lines, it is one.
    terminal.type(f"rm -rf \\\r{data}\r")
    reviewers.deny_next()
    terminal.refused(5)
    assert data.exists()

    # Taken back, nobody decides any more; what was typed before that is gone.
    terminal.type(f"{removal}\r")
    terminal.wait_for("^C takes it back")
    reviewers.wait_for()
    terminal.type("echo lost\r\x03")
    assert "taken back" in terminal.refused(6)
    assert "alive" in terminal.run("echo still alive")
    assert terminal.end() == 0

    case = recorded(gw)
    assert lines(case, "text", "decision", "status", "confidence") == [
        (removal, "hold", "ok", "certain"),
        ("echo 4''2", "allow", "ok", "certain"),
        (removal, "hold", "denied", "certain"),
        ("echo alive", "allow", "ok", "certain"),
        (f"rm -rf \\\n{data}", "hold", "denied", "certain"),
        (removal, "hold", "cancelled", "certain"),
        ("echo still alive", "allow", "ok", "certain"),
    ]
    states = case.sql("SELECT state FROM decisions ORDER BY requested_at").fetchall()
    assert [state for (state,) in states] == ["approved", "denied", "denied", "cancelled"]
    assert is_sound(case, gw.verifier_key)


def test_a_line_that_may_not_run_is_taken_back_and_the_shell_lives_on(
    started: Started, at: Opened, data: Path
) -> None:
    gw, client = started(ECHO_OFF, UNKNOWN, NO_REMOVALS)
    terminal = at(client)

    # Of a paste each line is decided about by itself.
    terminal.send(f"echo one\rrm -rf {data}\recho th''ree\r")
    terminal.see("one")
    assert 'denied by rule "removals"' in terminal.wait_for("command 2)")
    terminal.see("three")
    terminal.wait()
    assert (data / "file").exists()

    # Nothing that is not shown is taken for what it may not be.
    terminal.type("stty -echo\r")
    terminal.wait()
    terminal.type(f"rm -rf {data}\r")
    assert 'denied by rule "who knows"' in terminal.refused(5)
    assert (data / "file").exists()
    terminal.end()

    case = recorded(gw)
    rows = lines(
        case, "text", "class", "decision", "status", "list_contains(risk, 'not recognised')"
    )
    assert rows[:4] == [
        ("echo one", "session", "allow", "ok", False),
        (f"rm -rf {data}", classify(f"rm -rf {data}").cls, "deny", "denied", False),
        ("echo th''ree", "session", "allow", "ok", False),
        ("stty -echo", "unknown", "allow", "ok", False),
    ]
    assert rows[4][1:] == ("unknown", "deny", "denied", True)
    assert is_sound(case, gw.verifier_key)


def test_no_key_but_enter_runs_a_line_and_no_screen_hides_one(
    started: Started, at: Opened, data: Path
) -> None:
    gw, client = started(UNKNOWN, NO_REMOVALS)
    terminal = at(client)
    # Readline runs what is in a line as it expands it, and in an editor of its own.
    for number, key in enumerate(("\x1b\x05", "\x18\x05", "\x0f")):
        terminal.type(f"echo $(rm -rf {data})" + key)
        terminal.refused(number + 1)
        assert (data / "file").exists()
    terminal.type("printf '\\033[?1049h'\r")
    terminal.wait_for("\x1b[?1049h")
    terminal.send(f"rm -rf {data}\r")
    assert 'denied by rule "who knows"' in terminal.wait_for("command 5)")
    terminal.hang_up()
    assert (data / "file").exists()
    assert lines(recorded(gw), "class", "status")[4] == ("unknown", "denied")


def test_whoever_hangs_up_while_a_line_waits_runs_nothing(
    started: Started, at: Opened, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS)
    reviewed.append(Reviewers(gw))
    terminal = at(client)
    terminal.type(f"rm -rf {data}\r")
    terminal.wait_for("^C takes it back")
    reviewed[0].wait_for()
    terminal.hang_up()

    # Nor does a line that the host has drawn over.
    terminal = at(client)
    terminal.run("(sleep 1; printf '\\rls -l\\033[K') &")
    terminal.type(f"rm -rf {data}\r")
    assert "the host has changed the line meanwhile" in terminal.refused(2)
    terminal.end()

    case = recorded(gw)
    rows = case.sql("SELECT status FROM commands WHERE list_contains(risk, 'contains rm')")
    assert rows.fetchall() == [("cancelled",), ("cancelled",)]
    assert case.sql("SELECT state FROM decisions").fetchall() == [("cancelled",), ("cancelled",)]
    assert (data / "file").read_text() == "kept"


def test_what_was_typed_ahead_and_its_end_wait_behind_a_held_line(
    started: Started, data: Path, reviewed: list[Reviewers]
) -> None:
    gw, client = started(REMOVALS)
    reviewed.append(Reviewers(gw))
    with meanwhile(reviewed[0].approve_next):
        done = client.ssh("-tt", input=f"rm -rf {data}\necho a''live\nexit 3\n".encode())
    assert done.returncode == 3
    assert b"alive" in done.stdout
    assert not data.exists()
    assert lines(recorded(gw), "text", "decision", "confidence") == [
        (f"rm -rf {data}", "hold", "certain"),
        ("echo a''live", "allow", "certain"),
        ("exit 3", "allow", "certain"),
    ]


def test_lines_are_what_ran_whatever_was_typed(
    started: Started, at: Opened, tmp_path: Path
) -> None:
    gw, client = started(NO_REMOVALS)  # so each line is waited for, also on a busy machine
    (tmp_path / "a-long-name").write_text("inside\n")
    terminal = at(client)
    terminal.run(f"cd {tmp_path}")
    terminal.run("echo fist\x1b[D\x1b[Dr")
    terminal.type("cat a-lo\t")
    terminal.wait_for("a-long-name ")
    terminal.run("")
    terminal.type("\x1b[A\x1b[A")
    terminal.wait_for("first")
    terminal.run(" again")
    terminal.run("wrong\x15echo right")

    # Programs that take the screen get their keys, and nothing in them is a line.
    terminal.type("vi made\r")
    terminal.child.expect('"made"')
    terminal.type("ihello\x1b:wq\r")
    terminal.wait()
    terminal.type("less made\r")
    terminal.wait_for("(END)")
    terminal.type("q")
    terminal.wait()
    terminal.end()
    assert (tmp_path / "made").read_text() == "hello\n"

    # So it is in a shell that a command has asked for.
    terminal = Terminal(client, "exec sh -i")
    try:
        terminal.wait()
        assert "in sh" in terminal.run("echo 'in sh'")
    finally:
        terminal.hang_up()

    case = recorded(gw)
    # What completion puts behind a word may or may not be on the screen yet.
    assert [line.rstrip() for line in lines(case)] == [
        f"cd {tmp_path}",
        "echo first",
        "cat a-long-name",
        "echo first again",
        "echo right",
        "vi made",
        "less made",
        "echo 'in sh'",
    ]
    assert set(lines(case, "list_contains(risk, 'not recognised')")) == {(False,)}
    said = case.sql(
        "SELECT text FROM events WHERE kind = 'notice' AND starts_with(text, 'line')"
        " ORDER BY event_no"
    ).fetchall()
    numbers = [*range(1, 8), 1]
    assert said == [(f"line {number} recognised",) for number in numbers]


PASSWORDS = {
    f"correct-horse-{number}": prompt
    for number, prompt in enumerate(
        ["Password: ", "[sudo] password for ana: ", "ana@host's password: "]
        + ["Enter passphrase for key 'id_ed25519': "]
    )
}


@pytest.mark.parametrize("rules", [(), (UNKNOWN,)], ids=["no rules", "rules"])
def test_a_password_that_is_typed_at_its_prompt_is_in_no_file(
    started: Started, at: Opened, rules: tuple[dict[str, Any], ...]
) -> None:
    gw, client = started(*rules)
    terminal = at(client)
    asked = list(PASSWORDS.items())[: 1 if rules else None]
    for secret, prompt in asked:
        terminal.type(f'read -s -p "{prompt}" x\r')
        terminal.child.expect(rf"[\r\n]{re.escape(prompt)}$")
        terminal.type(secret + "\r")
        if rules:
            # Nothing that is known asks for a password there, so it may be anything.
            assert 'denied by rule "who knows"' in terminal.refused(2)
            continue
        terminal.wait()
        # It comes back in two pieces.
        said = terminal.run('printf "${x:0:9}"; sleep 0.1; printf "${x:9}\\n"')
        assert secret in said
    terminal.end()
    case = recorded(gw)
    assert case.verify(key=gw.verifier_key, deep=True).ok
    seen = b"".join(path.read_bytes() for path in gw.directory.rglob("*") if path.is_file())
    rows = case.sql("SELECT coalesce(payload::VARCHAR, '') || coalesce(text, '') FROM events")
    seen += "".join(row for (row,) in rows.fetchall()).encode()
    assert [secret for secret in PASSWORDS if secret.encode() in seen] == []
    assert b"horse" not in seen
    assert b"orse-" not in seen
    assert b"password-prompt" in seen
    assert len(lines(case)) == 2 * len(asked)


def test_no_disguise_of_a_removal_passes_at_a_prompt(
    started: Started, at: Opened, data: Path
) -> None:
    gw, client = started(UNKNOWN, WRITES)
    terminal = at(client)
    terminal.run("true")  # what is unfinished is told of a bash that is known to be one
    for text in EVASIONS:
        terminal.type(text.format(data).replace("\n", "\r") + "\r")
        terminal.wait_for("agentaudit: denied by rule")
        terminal.wait_for("^C")
        terminal.wait()
        assert (data / "file").read_text() == "kept", text
    terminal.type(f"ls {data}\r")
    terminal.see("file")
    terminal.wait()
    terminal.end()
    case = recorded(gw)
    statuses = [status for (status,) in lines(case, "status")]
    assert statuses.count("denied") == len(EVASIONS)
    assert len(statuses) == len(EVASIONS) + 3  # the first, the one that is two, and the last


async def test_what_is_recorded_of_a_terminal_is_what_both_ends_saw(
    started: Started, at: Opened, data: Path
) -> None:
    gw, client = started(UNKNOWN, NO_REMOVALS)
    typed = [b"echo one\r", b"echo two\recho ", b"three\r", f"rm -rf {data}\r".encode(), b"exit\r"]
    async with connected(client) as connection:
        process = await connection.create_process(
            term_type="xterm", term_size=(90, 20), encoding=None
        )
        got = b""

        async def read(until: bytes) -> None:
            nonlocal got
            start = len(got)
            while until not in got[start:]:
                got += await asyncio.wait_for(process.stdout.read(65536), 30)

        await read(b"# " if b"# " in got or Path.home() == Path("/root") else b"$ ")
        for keys, until in zip(
            typed, [b"\rone\r\n", b"\rtwo\r\n", b"\rthree\r\n", b"^C"], strict=False
        ):
            process.stdin.write(keys)
            await read(until)
        process.stdin.write(typed[-1])
        process.stdin.write(b"never read")
        got += await process.stdout.read()
        await process.wait()
    case = recorded(gw)
    ((session,),) = case.sql("SELECT DISTINCT session_id FROM commands").fetchall()
    of = case.session(str(session))
    assert b"".join(of.stream("target", command_no=0)) == got
    sent = b"".join(of.stream("client", command_no=0))
    assert sent.replace(b"\x05\x15\x03", b"") == b"".join(typed) + b"never [masked:undecided]"
    assert is_sound(case, gw.verifier_key)


def test_a_line_behind_much_output_is_known_again(
    started: Started, at: Opened, tmp_path: Path
) -> None:
    gw, client = started(UNKNOWN)
    (tmp_path / "big").write_bytes(b"no prompt: $ rm -rf /\n" * 200_000)
    terminal = at(client)
    terminal.run(f"cd {tmp_path}")
    terminal.run("cat big; echo do''ne")
    terminal.child.expect("done\r\n")
    terminal.wait()
    assert "seen" in terminal.run("echo seen")
    terminal.end()
    assert lines(recorded(gw), "text", "status")[-1] == ("echo seen", "ok")


def test_a_client_changes_neither_the_terminal_nor_the_line_behind_the_screen(
    started: Started,
) -> None:
    gw, client = started()

    async def typed() -> str:
        async with connected(client) as connection:
            process = await connection.create_process(
                term_type="xterm",
                # RFC 4254, section 8: no interrupt, no echo, capitals for all that is typed.
                term_modes={1: 255, 53: 0, 37: 1, 3: 127},
                encoding="utf-8",
            )
            seen = ""

            async def until(pattern: str) -> None:
                nonlocal seen
                while not re.search(pattern, seen):
                    said = await asyncio.wait_for(process.stdout.read(4096), 10)
                    assert said, seen
                    seen += said

            await until(r"[$#] $")
            process.send_signal("WINCH")
            process.stdin.write("stty -a | tr ';' ','\r")
            await until(r"echok[^$#]*[$#] $")
            process.stdin.write("exit\r")
            await process.wait_closed()
            return seen

    seen = asyncio.run(asyncio.wait_for(typed(), 60))
    assert "intr = ^C" in seen
    assert re.search(r"(?<!-)echo\b", seen.partition("echok")[0])
    case = recorded(gw)
    said = "SELECT text FROM events WHERE kind = 'notice' AND starts_with(text, 'line 1 ')"
    assert case.sql(said).fetchall() == [(r"line 1 uncertain a\x20signal\x20was\x20sent",)]
