"""The command line, as scripts: what is typed, what is printed, and the exit status.

A script's lines: `$` what is typed; `>` and `!` a line of standard output and standard error, in
order, where `…` stands for anything; `=` the exit status, 0 unless said. Lines that a script does
not name may stand between those that it does.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentaudit.cli import main, parser
from tests.analysis.recording import Recorded, recorded

__all__ = ["recorded"]

SCRIPTS = sorted((Path(__file__).parent / "cli").glob("*.txt"))


def steps(script: str) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Yield what is typed, expected lines of both outputs, and the status, of each step."""
    for part in re.split(r"^\$ ", script, flags=re.MULTILINE)[1:]:
        typed, *rest = [line for line in part.split("\n") if line and not line.startswith("#")]
        status = [int(line[2:]) for line in rest if line.startswith("= ")]
        yield (
            typed,
            [line[2:] for line in rest if line.startswith("> ")],
            [line[2:] for line in rest if line.startswith("! ")],
            status[0] if status else 0,
        )


def assert_in_order(expected: list[str], printed: str) -> None:
    lines = iter(printed.split("\n"))
    for wanted in expected:
        pattern = ".*".join(re.escape(part) for part in wanted.split("…"))
        assert any(re.fullmatch(pattern, line) for line in lines), f"{wanted!r} not in {printed}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_command_line_does_what_the_script_says(
    script: Path,
    recorded: Recorded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CONTROL", "TOKEN", "CLIENT_SECRET"):
        monkeypatch.delenv(f"AGENTAUDIT_{name}", raising=False)
    (tmp_path / "archive").symlink_to(recorded.path)
    (tmp_path / "keys").symlink_to(recorded.path.parent / "keys")
    named = {"FIRST": recorded.sessions[0], "SECOND": recorded.sessions[1]}
    text = script.read_text("utf-8")
    assert list(steps(text))
    for typed, output, errors, status in steps(text):
        for name, value in named.items():
            typed = typed.replace(name, value)
            output = [line.replace(name, value) for line in output]
            errors = [line.replace(name, value) for line in errors]
        try:
            ended = main(shlex.split(typed)[1:])
        except SystemExit as exit_:
            ended = exit_.code
        printed = capsys.readouterr()
        assert_in_order(output, printed.out)
        assert_in_order(errors, printed.err)
        assert ended == status, f"{typed}: {printed.err}"


def test_each_verb_of_the_contract_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = [
        "init",
        "check",
        "gateway",
        "keygen",
        "witness",
        "verify",
        "drill",
        "retention",
        "erase",
        "legal-hold",
        "rules",
        "mask",
        "sessions",
        "commands",
        "search",
        "export",
        "replay",
        "prove",
        "demo",
        "lab",
        "tail",
        "login",
        "request",
        "grants",
        "revoke",
        "ticket",
        "ssh-cert",
        "connect",
        "end",
        "block",
        "unblock",
        "pending",
        "approve",
        "deny",
        "pull",
        "report",
    ]
    for verb in verbs:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert f"usage: agentaudit {verb}" in capsys.readouterr().out
    assert set(re.findall(r"^    ([a-z-]+)(?= |$)", parser().format_help(), re.MULTILINE)) == set(
        verbs
    )


@pytest.mark.parametrize("verb", ["sessions", "commands", "replay FIRST", "verify"])
def test_json_is_one_object_a_line_and_nothing_but_ascii(
    verb: str, recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [str(recorded.path)] if verb == "verify" else ["--archive", str(recorded.path)]
    words = verb.replace("FIRST", recorded.sessions[1]).split()
    main([*words, *where, "--json"])
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.isascii()
    answers = [json.loads(line) for line in printed.splitlines()]
    assert answers
    assert all(isinstance(answer, dict) for answer in answers)


def test_raw_writes_the_recorded_bytes_and_nothing_else(recorded: Recorded) -> None:
    from tests.analysis.recording import investigation

    written = run("replay", recorded.sessions[0], "--archive", recorded.path, "--raw")
    assert written.stdout == b"".join(one.answered for one in investigation().exchanges)
    asked = run(
        "replay", recorded.sessions[0], "--archive", recorded.path, "--raw", "--side", "client",
        "--command", "4",
    )  # fmt: skip
    assert asked.stdout == investigation().exchanges[4].asked


def test_a_reader_that_leaves_early_is_no_accident(recorded: Recorded) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = run("sessions", "--archive", recorded.path, stdout=closed)
    assert ended.returncode == 2
    assert ended.stderr == b""


def run(*words: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [sys.executable, "-m", "agentaudit.cli", *map(str, words)],
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


# --- rules ---------------------------------------------------------------------------------------


RULES = """
[gateway]
name = "gw1"
origin = "audit.example.com"
[[target]]
name = "orders"
address = "db:5432"
database = "orders"
user = "app"
default = "deny"
[[rule]]
name = "the DBA's"
when = { groups = ["dba"], class = ["schema"] }
action = "allow"
"""

STATEMENTS = """
-- allow
SELECT 1; -- a comment; of no statement
-- DENY
DELETE FROM t WHERE a = 'x;y';
-- deny
DROP TABLE t;
no sql '\x1b[2J';
"""


@pytest.mark.parametrize(("group", "status", "mark"), [("agents", 0, "ok"), ("dba", 1, "FAIL")])
def test_rules_are_tried_on_a_file_of_statements(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    group: str,
    status: int,
    mark: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agentaudit.toml").write_text(RULES)
    Path("statements.sql").write_text(STATEMENTS)

    assert main(["rules", "test", "statements.sql", "--group", group]) == status
    _, *lines = capsys.readouterr().out.splitlines()
    decision, rule = ("deny", "default") if status == 0 else ("allow", "the DBA's")
    assert [line.split(maxsplit=1)[0] for line in lines] == ["ok", "ok", mark, "ok"]
    assert re.fullmatch(rf"{mark} +{decision} +{rule} +schema +DROP TABLE t", lines[2])
    assert "\x1b" not in lines[3]

    assert main(["rules", "test", "statements.sql", "--group", group, "--json"]) == status
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["class"] for one in said] == ["read", "write", "schema", "unknown"]
    assert (said[2]["action"], said[2]["rule"], said[2]["ok"]) == (decision, rule, status == 0)
    assert said[1]["text"] == "DELETE FROM t WHERE a = 'x;y'"

    for broken in ("SELECT 'x;\n-- deny\nDROP TABLE t;\n", "\\set x 1\n-- deny\nDELETE FROM t;\n"):
        Path("broken.sql").write_text(broken)
        assert main(["rules", "test", "broken.sql"]) == 2
        assert "it cannot be told where this ends" in capsys.readouterr().err

    assert main(["rules", "test", "statements.sql", "--target", "order"]) == 2
    assert 'target "order": one of orders expected' in capsys.readouterr().err


SHELL_RULES = """
[gateway]
name = "gw1"
origin = "audit.example.com"
[[target]]
name = "host-1"
protocol = "ssh"
address = "host:22"
user = "agents"
key_file = "key"
host_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGGoLGKKxlPeIYQnO2ZnZv8QGXHWWDvxVuGSRAeAdKGU"]
default = "allow"
[[rule]]
name = "no removals"
when = { operation = ["rm"] }
action = "deny"
"""

COMMANDS = """
# deny
cd /srv && sudo rm -rf data

# allow
cat <<END
rm -rf /
END
# allow
find . -delete
"""


def test_rules_are_tried_on_a_file_of_shell_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agentaudit.toml").write_text(SHELL_RULES)
    Path("commands.sh").write_text(COMMANDS)
    assert main(["rules", "test", "commands.sh", "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["action"], one["class"]) for one in said] == [
        ("deny", "admin"),
        ("allow", "read"),
        ("allow", "write"),
    ]
    Path("commands.sh").write_text("# allow\nrm x\necho 'a\n")
    assert main(["rules", "test", "commands.sh"]) == 2
    assert "does not end" in capsys.readouterr().err


# --- who needs what -------------------------------------------------------------------------------


def import_without(absent: str, statement: str) -> None:
    """Run `statement` in a fresh interpreter in which modules are not installed."""
    code = f"import sys\nfor name in {absent.split()!r}: sys.modules[name] = None\n{statement}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_gateway_needs_no_analysis() -> None:
    import_without(
        "duckdb polars anywidget ipywidgets jupyterlab",
        "import agentaudit, agentaudit.cli, agentaudit.gateway.server",
    )


def test_an_analyst_needs_no_gateway(recorded: Recorded) -> None:
    import_without(
        "uvloop asyncssh scramp jwt pglast structlog anywidget",
        f"import agentaudit\ncase = agentaudit.load({str(recorded.path)!r})\n"
        f"assert case.session({recorded.sessions[0]!r}).result(1).num_rows == 3",
    )


def test_who_decides_needs_neither_a_gateway_nor_the_analysis() -> None:
    import_without(
        "duckdb polars fastapi uvicorn sqlalchemy alembic uvloop jwt pglast structlog psycopg",
        "import agentaudit.cli.shown, agentaudit.client.control, agentaudit.client.login\n"
        "from agentaudit.cli import main\n"
        "assert main(['pending', '--control', 'http://127.0.0.1:1', '--token-file', 'no']) == 2",
    )


def test_a_missing_part_is_named_with_what_installs_it(recorded: Recorded) -> None:
    code = (
        "import sys\nsys.modules['duckdb'] = None\nfrom agentaudit.cli import main\n"
        f"sys.exit(main(['sessions', '--archive', {str(recorded.path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert b"pip install 'agentaudit[analysis]'" in done.stderr
