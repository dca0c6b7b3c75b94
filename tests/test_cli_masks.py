"""Masks from the command line: what they would hide, and which a real database needs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentaudit.cli import main
from agentaudit.demo.gateways import Gateway
from agentaudit.settings.masks import Mask
from tests.peers.gateway import GatewayFactory
from tests.peers.postgres import PostgresPeer

SAMPLE = Path(__file__).parents[1] / "sample_data" / "archive"
RULES = """
[[mask]]
name = "addresses"
detect = ["email"]

[[mask]]
name = "numbers"
columns = ["*.customers.ssn"]
action = "partial"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return path


# --- preview


def test_a_text_is_shown_before_and_after(run: Run, rules: Path) -> None:
    status, out, _ = run("mask", "preview", "--rules", rules, "--text", "from ada@example.com")
    assert status == 0
    assert "- from ada@example.com" in out
    assert "+ from [masked:email]" in out


def test_that_nothing_would_be_hidden_is_an_answer_too(run: Run, rules: Path) -> None:
    status, out, _ = run("mask", "preview", "--rules", rules, "--text", "hello")
    assert status == 0
    assert out.startswith("nothing would be hidden")


def test_what_a_terminal_would_obey_is_written_out(run: Run, rules: Path) -> None:
    text = "a@example.com \x1b]0;owned\x07 \u202e"
    for extra in ((), ("--json",)):
        _, out, _ = run("mask", "preview", "--rules", rules, "--text", text, *extra)
        assert "owned" in out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_a_file_of_rows_is_told_by_column(run: Run, rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "customers.csv"
    file.write_text("id,ssn,contact\n1,123-45-6789,ada@example.com\n2,,by post\n")
    status, out, _ = run("mask", "preview", "--rules", rules, file, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["by_column"] == {"customers.ssn": 1, "customers.contact": 1}
    assert [hit["row"] for hit in found["hits"]] == [1, 1]


def test_an_archive_is_looked_at_by_session(run: Run, rules: Path) -> None:
    words = ("mask", "preview", "--rules", rules, "--archive", SAMPLE, "--json")
    status, out, err = run(*words, "--since", "2026-11-22", "--agent", "copilot-7")
    found = json.loads(out)
    assert status == 0
    assert "access:" in err
    assert found["by_rule"]["numbers"] > 1_000
    (session, *_) = {hit["session"] for hit in found["hits"]}
    _, out, _ = run(*words, "--session", session)
    assert 0 < json.loads(out)["hidden"] <= found["hidden"]


def test_detectors_may_be_named_instead_of_rules(run: Run, rules: Path) -> None:
    words = ("mask", "preview", "--detect", "email", "--detect", "phone")
    _, out, _ = run(*words, "--text", "ada@example.com +14155552671", "--json")
    assert json.loads(out)["by_detector"] == {"email": 1, "phone": 1}
    status, _, err = run(*words, "--rules", rules, "--text", "x")
    assert (status, "found both" in err) == (2, True)


def test_two_sets_of_rules_are_compared(run: Run, rules: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[[mask]]\nname = "phones"\ndetect = ["phone"]\n')
    text = "ada@example.com +14155552671"
    _, out, _ = run("mask", "preview", "--rules", rules, "--against", other, "--text", text)
    assert "only a hides: 1" in out
    assert "only b hides: 1" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "one of FILE, --text and --archive, none was given"),
        (("--text", "x", "-"), "found FILE and --text"),
        (("--text", "x", "--user", "ada"), "--user chooses sessions"),
        (("nowhere.csv",), "nowhere.csv: no such file"),
        (("--archive", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_looked_at_is_said_with_status_2(
    run: Run, rules: Path, words: tuple[str, ...], error: str
) -> None:
    status, out, err = run("mask", "preview", "--rules", rules, *words)
    assert (status, out) == (2, "")
    assert error in err


def test_rules_that_are_wrong_are_said_with_status_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[mask]]\nname = "x"\ndetect = ["emial"]\n')
    status, _, err = run("mask", "preview", "--rules", path, "--text", "x")
    assert status == 2
    assert "the nearest is email" in err


# --- suggest

TABLES = (
    "DROP SCHEMA IF EXISTS crm CASCADE",
    "CREATE SCHEMA crm",
    "CREATE TABLE crm.people (id bigint, contact text, ssn text, born_on date, order_no text)",
    "INSERT INTO crm.people SELECT n, 'person' || n || '@example.com', '219-09-' || 1000 + n,"
    " '1990-01-01', '4242424242424242' FROM generate_series(1, 40) AS n",
    'CREATE TABLE crm.notes (id int, body text, "x\x1b[2J secret" text)',
    "INSERT INTO crm.notes SELECT n, CASE WHEN n % 4 = 0 THEN"
    " 'please write to reader' || n || '@example.org as soon as it is done' ELSE 'done' END, 'k'"
    " FROM generate_series(1, 40) AS n",
    "CREATE TABLE crm.closed (password text)",
    "INSERT INTO crm.closed VALUES ('correct horse battery staple')",
    "CREATE TABLE crm.large AS SELECT 'reader' || n || '@example.net' AS who"
    " FROM generate_series(1, 60000) AS n",
    "GRANT USAGE ON SCHEMA crm TO inspector, scram",
    "GRANT SELECT ON crm.people, crm.notes, crm.large TO inspector, scram",
    "ANALYZE",
)


@pytest.fixture
def people(gateway: GatewayFactory, postgres18: PostgresPeer) -> Any:
    """Return what makes the settings of a gateway, which is not started, beside a database."""
    postgres18.execute(*TABLES, database="orders")

    def made(*, inspector: bool = True, **tables: Any) -> Gateway:
        target = postgres18.target(**(postgres18.inspector() if inspector else {}))
        return gateway(target, issuer=[], start=False, tables=tables)

    yield made
    postgres18.execute("DROP SCHEMA crm CASCADE", database="orders")


def test_columns_of_a_database_are_proposed_with_reasons(run: Run, people: Any) -> None:
    config = people().config
    status, out, err = run("mask", "suggest", "orders", "--config", config)

    assert status == 0, err
    masks = {each["name"]: Mask.model_validate(each) for each in tomllib.loads(out)["mask"]}
    assert set(masks["contact data"].columns) == {"crm.people.contact", "crm.large.who"}
    assert masks["national identifiers"].columns == ("crm.people.ssn",)
    assert masks["found in texts"].detect == ("email",)
    assert "crm.closed.password" in masks["passwords and keys"].columns
    assert "100 % of 40 sampled values look like email" in out
    assert "25 %" in out
    assert "order_no" not in out
    # Nothing of it is a value, and nothing is obeyed by a terminal.
    assert "person1@" not in out + err
    assert "219-09-1001" not in out + err
    assert "\x1b" not in out + err
    assert "crm.closed: the login may not read it" in err
    assert "as inspector" in err


def test_what_a_mask_covers_already_is_told_and_not_proposed(run: Run, people: Any) -> None:
    mask = {"name": "ids", "columns": ["*.people.ssn"], "detect": ["email"]}
    config = people(mask=[mask]).config
    _, out, err = run("mask", "suggest", "orders", "--config", config)
    assert "ssn" not in out
    assert "found in texts" not in out
    assert 'covered: crm.people.ssn, by the mask "ids"' in err
    assert 'covered: crm.notes.body (email), by the mask "ids"' in err


def test_names_alone_will_do_and_the_login_is_told(run: Run, people: Any) -> None:
    config = people(inspector=False).config
    status, out, err = run("mask", "suggest", "orders", "--config", config, "--sample", 0, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["login"], found["is_inspector"], found["sampled_rows"]) == ("scram", False, 0)
    assert "crm.people.ssn" in {each["column"] for each in found["proposals"]}
    assert "crm.people.contact" not in {each["column"] for each in found["proposals"]}


def test_a_large_table_is_sampled_and_never_read_whole(run: Run, people: Any) -> None:
    config = people().config
    _, out, _ = run("mask", "suggest", "orders", "--config", config, "--sample", 100, "--json")
    found = json.loads(out)
    assert found["sampled_rows"] <= 300
    (large,) = [each for each in found["proposals"] if each["column"] == "crm.large.who"]
    assert "100 % of 100 sampled values look like email" in large["reasons"]


def test_nothing_of_a_tables_owner_runs_as_the_login_that_samples_it(
    run: Run, people: Any, postgres18: PostgresPeer
) -> None:
    config = people().config
    postgres18.execute(
        "CREATE TABLE crm.reads (who text)",
        "GRANT ALL ON crm.reads TO PUBLIC",
        "CREATE FUNCTION crm.noted() RETURNS boolean LANGUAGE sql VOLATILE"
        " AS $$INSERT INTO crm.reads VALUES (current_user) RETURNING true$$",
        "ALTER TABLE crm.notes ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY noted ON crm.notes USING (crm.noted())",
        database="orders",
    )
    status, out, err = run("mask", "suggest", "orders", "--config", config)
    assert status == 0
    assert "crm.notes: the inspecting login may not read it, so its columns' names alone" in err
    assert "crm.people.ssn" in out
    with postgres18.connect() as client:
        assert client.execute("SELECT count(*) FROM crm.reads").fetchone() == (0,)


def test_every_question_is_asked_in_a_transaction_that_can_only_read(
    run: Run, people: Any, postgres18: PostgresPeer
) -> None:
    config = people().config
    before = len(postgres18.logged())
    run("mask", "suggest", "orders", "--config", config)
    said = [
        each.text for each in postgres18.logged()[before:] if "mask suggest" in each.application
    ]
    assert said[0].startswith("SET default_transaction_read_only = on; SET row_security = off")
    asked = said[1:]
    assert len(asked) >= 4 * 3
    assert set(asked[::3]) == {"BEGIN READ ONLY"}
    assert set(asked[2::3]) == {"ROLLBACK"}


def test_a_target_that_is_not_there_is_said_with_status_2(run: Run, people: Any) -> None:
    config = people().config
    status, _, err = run("mask", "suggest", "order", "--config", config)
    assert status == 2
    assert "one of orders expected" in err
    status, _, err = run("mask", "suggest", "orders", "--config", config, "--sample", 10**6)
    assert status == 2
