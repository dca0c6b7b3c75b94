"""What masks would hide, on texts, files, results and recorded sessions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import agentaudit
from agentaudit.analysis.masking import compare, preview
from agentaudit.analysis.masking_rules import is_digest, of_policy, parse, rules_of, written
from agentaudit.analysis.masking_sources import CHUNK_BYTES
from agentaudit.errors import QuestionError, SettingsError
from agentaudit.masking.checks import is_card
from agentaudit.masking.masks import Masks
from tests.analysis.recording import JSONB, TEXT, Recorded, Script, record

EMAIL = [{"name": "addresses", "detect": ["email"]}]
ALL = [{"name": "everything", "detect": ["all"]}]


def mask(**keys: Any) -> list[dict[str, Any]]:
    return [{"name": "it"} | keys]


# --- texts


def test_a_text_is_told_line_by_line_with_what_is_around() -> None:
    found = preview(EMAIL, "first line\nto: ada@example.com, soon\nlast")
    (hit,) = found.hits
    assert (hit.place, hit.rule, hit.detector, hit.how) == (
        "line 2",
        "addresses",
        "email",
        "detector",
    )
    assert hit.before == "to: ada@example.com, soon"
    assert hit.before[hit.start : hit.stop] == "ada@example.com"
    assert hit.after == "to: [masked:email], soon"
    assert hit.after[hit.after_start : hit.after_stop] == "[masked:email]"


def test_offsets_are_of_characters_whatever_their_bytes() -> None:
    (hit,) = preview(EMAIL, "größe 漢字 🙂: ada@example.com").hits
    assert hit.before[hit.start : hit.stop] == "ada@example.com"


def test_what_else_is_hidden_in_a_value_is_hidden_in_each_excerpt() -> None:
    found = preview(EMAIL, "ada@example.com and grace@example.com")
    assert [hit.after for hit in found.hits] == ["[masked:email] and [masked:email]"] * 2
    assert [hit.before[hit.start : hit.stop] for hit in found.hits] == [
        "ada@example.com",
        "grace@example.com",
    ]


def test_a_password_in_its_place_is_hidden_without_any_rule() -> None:
    found = preview([], "ALTER ROLE ada PASSWORD 'hunter2-hunter2'")
    assert found.counts.by_rule == {"credentials": 1}
    assert "hunter2" not in found.hits[0].after


def test_a_private_key_stays_whole_wherever_a_file_is_cut(tmp_path: Path) -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 2] * 20)
    key = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    line = "nothing to see here\n"
    for before in (CHUNK_BYTES - 500, CHUNK_BYTES - 10, CHUNK_BYTES + 5):
        path = tmp_path / "long.txt"
        padding = line * (before // len(line))
        path.write_text(padding + key + "after\n")
        found = preview(ALL, path)
        assert [hit.detector for hit in found.hits] == ["private_key"]
        assert found.hits[0].row == padding.count("\n") + 1
        assert len(found.hits[0].before) < 400


def test_of_many_hits_the_first_are_kept_and_all_are_counted() -> None:
    text = "".join(f"p{n}@example.com\n" for n in range(5_000))
    found = preview(EMAIL, text, limit=10)
    assert (len(found.hits), found.more, found.hidden) == (10, 4_990, 5_000)
    assert found.counts.by_rule["addresses"] == 5_000
    assert "4,990 more hits were counted and are not kept" in found.notes


def test_what_a_terminal_would_obey_is_written_out_in_the_text() -> None:
    found = preview(EMAIL, "ada@example.com \x1b[2J\u202e")
    assert "\\x1b[2J\\u202e" in found.text
    assert not {"\x1b", "\u202e"} & set(found.text)


# --- columns of files and results


def test_a_rule_about_a_column_hides_the_whole_of_its_values() -> None:
    table = pa.table({"id": [1, 2], "Ssn": ["219-09-9999", None]})
    found = preview(mask(columns=["people.ssn"], action="partial"), table, table="people")
    (hit,) = found.hits
    assert (hit.column, hit.row, hit.how, hit.after) == ("people.Ssn", 1, "column", "[masked:it]")
    assert preview(mask(columns=["orders.ssn"]), table, table="people").hits == ()


def test_without_a_table_its_rule_goes_by_the_column_and_says_so() -> None:
    found = preview(mask(columns=["people.ssn"]), pa.table({"ssn": ["1"]}))
    assert len(found.hits) == 1
    assert any("of which table this result is" in note for note in found.notes)


def test_what_is_dropped_becomes_nothing() -> None:
    (hit,) = preview(mask(columns=["ssn"], action="drop"), pa.table({"ssn": ["1"]})).hits
    assert (hit.is_dropped, hit.after) == (True, "")
    assert "+ NULL" in preview(mask(columns=["ssn"], action="drop"), pa.table({"ssn": ["1"]})).text


def test_members_of_json_are_hidden_by_their_path() -> None:
    rows = ['{"user": {"token": "abc", "name": "Ada"}}', '["token"]', "no json"]
    found = preview(mask(json_path="$..token"), pa.table({"payload": rows}))
    (hit,) = found.hits
    assert (hit.how, hit.before, hit.after, hit.row) == ("json_path", "abc", "[masked:it]", 1)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_files_of_rows_are_read_by_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"people{suffix}"
    rows = [{"id": 1, "email": "ada@example.com"}, {"id": 2, "email": None}]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        comma = "," if suffix == ".csv" else "\t"
        path.write_text(f"id{comma}email\n1{comma}ada@example.com\n2{comma}\n")
    found = preview(mask(columns=["people.email"]), path)
    assert [(hit.column, hit.row) for hit in found.hits] == [("people.email", 1)]
    (column,) = [each for each in found.columns if each.column == "people.email"]
    assert (column.values, column.nulls, column.hidden) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("nowhere.csv", None, "no such file"),
        ("a.jsonl", b'{"a": 1}\nnot json\n', "line 2: no JSON"),
        ("a.parquet", b"PAR0", "no Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(
    tmp_path: Path, name: str, content: bytes | None, error: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(QuestionError, match=error):
        preview(EMAIL, tmp_path / name)


def test_bytes_that_are_no_text_are_looked_at_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "dump.bin"
    path.write_bytes(bytes(range(256)) + b"\nto ada@example.com\n" + bytes(2_000))
    assert [hit.detector for hit in preview(EMAIL, path).hits] == ["email"]


def test_frames_of_polars_and_relations_of_duckdb_are_results_too(case: agentaudit.Case) -> None:
    frame = pl.DataFrame({"who": ["ada@example.com"]})
    assert preview(EMAIL, frame).hidden == 1
    relation = case.sql("SELECT 'ada@example.com' AS who FROM range(25000)")
    assert preview(EMAIL, relation).hidden == 25_000


def test_a_source_that_is_none_is_refused_without_its_content() -> None:
    with pytest.raises(QuestionError, match="found int") as caught:
        preview(EMAIL, 4_242)
    assert "4242" not in str(caught.value)


# --- what may be wrong, and what is missing


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("see 4539578763620371 there", "nothing before it says what it is"),
        ("file-4539578763620371-a", "it is part of something longer"),
        ("card 4242424242424242", "a number that is published for tests"),
        ("key AKIAIOSFODNN7EXAMPLE", "it calls itself an example"),
        ("session_token=123e4567-e89b-42d3-a456-426614174000", "UUID or a digest"),
    ],
)
def test_what_may_be_something_else_is_named_with_its_reason(text: str, reason: str) -> None:
    found = preview(ALL, text)
    assert any(reason in each.reason for each in found.candidates)
    assert any(reason in doubt for hit in found.hits for doubt in hit.doubts)


def test_what_is_labelled_is_not_doubted() -> None:
    assert preview(ALL, "paid by card 4539578763620371, mail ada@example.com").candidates == ()


def test_numbers_in_a_column_of_keys_are_doubted() -> None:
    numbers = ["4539578763620371", "4539578763629646"]
    found = preview(ALL, pa.table({"order_no": numbers, "card_number": numbers}))
    assert {each.column for each in found.candidates} == {"order_no"}
    assert found.candidates[0].count == 2


def test_a_detector_that_takes_a_whole_column_of_another_name_is_doubted() -> None:
    numbers = [str(4539578763620371 + 371 * n) for n in range(200)]
    cards = [each for each in numbers if is_card(each.encode())][:8]
    found = preview(ALL, pa.table({"measured": cards, "pan": cards}))
    (doubt,) = found.candidates
    assert (doubt.column, doubt.count) == ("measured", 8)


def test_columns_that_stay_visible_and_look_like_something_are_named() -> None:
    people = pa.table(
        {
            "contact": [f"p{n}@example.com" for n in range(20)],
            "ssn": [f"9{n:02}-11-1111" for n in range(20)],
            "note": ["write to ada@example.com", *["nothing"] * 19],
            "other": ["nothing"] * 20,
        }
    )
    found = preview([], people)
    assert [(u.column, u.detector, u.kind, u.share) for u in found.uncovered] == [
        ("contact", "email", "contact data", 1.0),
        ("ssn", "", "national identifiers", 1.0),
        ("note", "email", "contact data", 0.05),
    ]
    assert not any("p1@" in each for each in found.uncovered[0].examples)
    rules = [{"name": "a", "columns": ["ssn"]}, {"name": "b", "detect": ["email"]}]
    assert preview(rules, people).uncovered == ()


def test_what_was_masked_before_is_left_and_told() -> None:
    values = ["[masked:email]", "****1234", f"pn_abcd_{'a' * 26}", "ada@example.com"]
    found = preview(mask(columns=["email"]), pa.table({"email": values}))
    assert [hit.before for hit in found.hits] == ["ada@example.com"]
    assert {(each.name, each.values) for each in found.already_masked} == {
        ("email", 1),
        ("partial", 1),
        ("pseudonym", 1),
    }
    assert any("is a mark already" in note for note in found.notes)


# --- recorded sessions


def test_a_case_is_looked_at_in_all_its_places(tmp_path: Path) -> None:
    script = Script()
    script.prepared(
        "SELECT email, doc FROM people WHERE email = $1",
        ["param@example.com"],
        columns=[("email", TEXT), ("doc", JSONB)],
        rows=[["row@example.com", '{"token": "t0ken"}'], ["[masked:it]", None]],
    )
    script.query(
        "UPDATE people SET note = 'text@example.com'",
        error=("22000", "no: error@example.com"),
    )
    made = record(tmp_path, script)
    found = agentaudit.load(made.path).mask_preview(
        [{"name": "it", "columns": ["people.email"], "json_path": "$.token", "detect": ["email"]}]
    )
    places = {(hit.kind, hit.column, hit.command_no, hit.how): hit.before for hit in found.hits}
    assert places == {
        ("parameter", "(parameters)", 0, "detector"): "param@example.com",
        ("result", "people.email", 0, "column"): "row@example.com",
        ("result", "people.doc", 0, "json_path"): "t0ken",
        ("statement", "(statements)", 1, "detector"): (
            "UPDATE people SET note = 'text@example.com'"
        ),
        ("error", "(error texts)", 1, "detector"): "no: error@example.com",
    }
    assert {hit.session for hit in found.hits} == set(made.sessions)
    assert any("cannot come back" in note for note in found.notes)
    assert any("catalogue" in note for note in found.notes)


def test_a_rule_about_another_table_hides_nothing_of_this_one(case: agentaudit.Case) -> None:
    assert case.mask_preview(mask(columns=["orders.email"])).hidden == 0
    assert case.mask_preview(mask(columns=["*.*.email"])).hidden > 1_000


def test_the_end_of_a_long_statement_is_looked_at_too(tmp_path: Path) -> None:
    script = Script().query(f"SELECT 1 /* {'x' * 200_000} ada@example.com */", tag="SELECT 0")
    found = agentaudit.load(record(tmp_path, script).path).mask_preview(EMAIL)
    assert [hit.kind for hit in found.hits] == ["statement"]


def test_a_rule_with_a_table_means_none_of_the_systems_own(tmp_path: Path) -> None:
    script = Script().query(
        "SELECT table_name FROM information_schema.tables",
        columns=[("table_name", TEXT)],
        rows=[["customers"]],
    )
    case = agentaudit.load(record(tmp_path, script).path)
    assert case.mask_preview(mask(columns=["*.*.table_name"])).hidden == 0
    assert case.mask_preview(mask(columns=["table_name"])).hidden == 1


def test_what_a_plug_in_finds_counts_as_a_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Names:
        name = "names"

        def find(self, data: bytes) -> Iterator[tuple[int, int]]:
            at = data.find(b"Ada")
            if at >= 0:
                yield at, at + 3

    plugs = {"names": Names()}
    monkeypatch.setattr("agentaudit.analysis.masking_rules.plugged_in", lambda _: plugs)
    found = preview(mask(detect=["names"]), "it was Ada who wrote it")
    assert [(hit.after, hit.detector) for hit in found.hits] == [
        ("it was [masked:names] who wrote it", "names")
    ]
    own = preview(mask(pattern="Ada"), "it was Ada").hits[0]
    assert (own.how, own.detector) == ("pattern", "")


def test_sessions_are_chosen_as_by_sessions(case: agentaudit.Case, recorded: Recorded) -> None:
    rules = mask(columns=["email"])
    whole = case.mask_preview(rules)
    assert case.mask_preview(rules, user="nobody").values == 0
    assert case.mask_preview(rules, session=recorded.sessions[0]).hidden == whole.hidden
    assert case.mask_preview(rules, until="2020-01-01").values == 0
    with pytest.raises(QuestionError, match="without user"):
        case.mask_preview(rules, session=recorded.sessions[0], user="copilot-7")


def test_rules_for_a_target_are_tried_on_its_sessions_alone(case: agentaudit.Case) -> None:
    assert case.mask_preview(mask(columns=["email"], target=["billing"])).hidden == 0
    assert case.mask_preview(mask(columns=["email"], target=["orders"])).hidden > 1_000


def test_the_masks_of_a_policy_that_was_in_force_are_tried_by_its_digest(
    case: agentaudit.Case, tmp_path: Path
) -> None:
    assert is_digest("0" * 64)
    with pytest.raises(QuestionError, match="not in this archive"):
        case.mask_preview("0" * 64)
    path = tmp_path / f"{'1' * 64}.json"
    document = {"name": "it", "action": "pseudonym", "apply": ["archive"], "detect": ["email"]}
    path.write_text(json.dumps({"masks": [document]}))
    found = preview(of_policy(path), "ada@example.com")
    assert found.hits[0].after.startswith("pn_")
    assert "made with a random key" in found.notes[0]
    path.write_text("[]")
    with pytest.raises(QuestionError, match="not a policy document"):
        of_policy(path)


def test_a_session_is_a_source_too(case: agentaudit.Case, recorded: Recorded) -> None:
    session = case.session(recorded.sessions[0])
    assert preview(mask(columns=["email"]), session).hidden == 1_235


# --- two sets of rules


def test_two_sets_differ_in_what_one_alone_hides_and_in_what_both_hide_otherwise() -> None:
    text = "ada@example.com\n+14155552671\npassword=hunter2hunter2\n"
    a = [{"name": "a", "detect": ["email"]}, {"name": "p", "detect": ["password_setting"]}]
    b = [
        {"name": "b", "detect": ["phone"]},
        {"name": "p", "detect": ["password_setting"], "action": "partial"},
        {"name": "a", "detect": ["email"]},
    ]
    for found in (compare(a, b, text), preview(a, text).diff(preview(b, text))):
        assert [hit.before for hit in found.only_b] == ["+14155552671"]
        assert found.only_a == ()
        assert (found.same, found.count_otherwise) == (2, 0)  # credentials come first in both
    c = [{"name": "a", "detect": ["email"], "action": "drop"}]
    for found in (compare(a, c, text), preview(a, text).diff(preview(c, text))):
        ((mine, theirs),) = found.otherwise
        assert (mine.after, theirs.after, theirs.is_dropped) == ("[masked:email]", "", True)


def test_a_difference_reads_as_text_before_and_after() -> None:
    told = compare(EMAIL, mask(detect=["email"], action="drop"), "to ada@example.com\n" * 3).told(1)
    for text in ("both, differently: 3", "- to ada@example.com", "a to [masked:email]", "… 2 more"):
        assert text in told


def test_a_preview_reads_as_text_with_all_of_its_lists() -> None:
    values = ["[masked:email]", *["4539578763620371"] * 5]
    table = pa.table({"order_no": values, "full_name": ["Ada"] * 6})
    text = preview(ALL, table, table="orders").text
    for part in (
        "5 places would be hidden in 12 values of a query result",
        "by rule\n  0  credentials\n  5  everything",
        "by detector\n  5  card",
        "by column\n  5  orders.order_no",
        "perhaps hidden wrongly\n  5 × card in orders.order_no: the name",
        'not covered\n  orders.full_name: personal data, 100 % of 6 values (the name "full_name"',
        "masked already\n  orders.order_no: 1 value with marks of email",
        "note: what is a mark already",
    ):
        assert part in text, part


def test_equal_rules_do_not_differ_whatever_their_keys() -> None:
    rules = mask(detect=["email"], action="pseudonym")
    found = compare(rules, rules, "ada@example.com, grace@example.com")
    assert (found.same, found.count_a, found.count_b, found.count_otherwise) == (2, 0, 0, 0)
    assert found.to_arrow().num_rows == 0


def test_a_difference_counts_all_and_keeps_the_first() -> None:
    text = "".join(f"p{n}@example.com\n" for n in range(100))
    found = compare([], EMAIL, text, limit=7)
    assert (found.count_b, len(found.only_b)) == (100, 7)
    assert "… 93 more" in found.text
    kept = preview([], text).diff(preview(EMAIL, text, limit=7))
    assert any("only the hits that were kept" in note for note in kept.notes)


# --- rules


def test_rules_come_as_file_text_tables_or_masks(tmp_path: Path) -> None:
    text = '[gateway]\nname = "ignored"\n\n[[mask]]\nname = "it"\ndetect = ["email"]\n'
    path = tmp_path / "agentaudit.toml"
    path.write_text(text)
    made = Masks([{"name": "it", "action": "redact", "apply": ["archive"], "detect": ["email"]}])
    for rules in (path, str(path), text, mask(detect=["email"]), made, rules_of(text)):
        assert [hit.after for hit in preview(rules, "ada@example.com").hits] == ["[masked:email]"]


def test_rules_written_out_are_the_same_rules() -> None:
    text = written(
        parse(
            '[[mask]]\nname = "a \\"b\\""\ncolumns = ["x.y"]\npattern = "a+"\njson_path = "$.a"\n'
            'target = ["orders"]\naction = "partial"\napply = ["archive", "client"]\n'
        ).documents
    )
    assert parse(text).documents == parse(written(parse(text).documents)).documents
    assert parse(text).documents[0]["columns"] == ["x.y"]


def test_a_key_is_read_from_a_file_and_never_from_a_command(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 64)
    path = tmp_path / "rules.toml"
    rules = '[[mask]]\nname = "it"\ndetect = ["email"]\naction = "pseudonym"\n'
    path.write_text(rules + 'key_file = "key"\n')
    with_key = preview(path, "ada@example.com")
    assert with_key.notes == ()
    path.write_text(rules + f'key_command = ["touch", "{tmp_path}/ran"]\n')
    without = preview(path, "ada@example.com")
    assert "made with a random key" in without.notes[0]
    assert not (tmp_path / "ran").exists()
    assert with_key.hits[0].after != without.hits[0].after


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[[mask]", "not TOML"),
        ("mask = 3\n", "tables expected"),
        ('[[mask]]\nname = "it"\ndetekt = ["email"]\n', "the nearest is detect"),
        ('[[mask]]\nname = "it"\ndetect = ["emial"]\n', "the nearest is email"),
        ('[[mask]]\nname = "it"\npattern = "("\n', "it"),
        ('[[mask]]\nname = "it"\njson_path = "token"\n', "begins with"),
        ('[[mask]]\nname = "credentials"\ndetect = ["email"]\n', "hidden in any case"),
        ('[[mask]]\nname = "it"\n', "it hides nothing"),
        ('[[mask]]\nname = "it"\ncolumns = ["a"]\n' * 2, "given twice"),
    ],
)
def test_rules_that_are_wrong_say_what_and_where(text: str, error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        parse(text)


def test_a_pattern_that_can_name_no_column_is_refused_as_by_the_gateway() -> None:
    with pytest.raises(SettingsError, match="stands for a whole part of a name"):
        preview(mask(columns=["*.people.ssn*", "ssn"]), pa.table({"ssn_1": ["1"]}))


def test_an_error_never_repeats_what_stands_in_a_wrong_key() -> None:
    with pytest.raises(SettingsError) as caught:
        parse('[[mask]]\nname = "it"\ndetect = ["email"]\nkey = "s3cr3t-v4lue"\n')
    assert "s3cr3t" not in str(caught.value)


def test_hits_are_a_table_for_other_tools() -> None:
    found = preview(EMAIL, "ada@example.com")
    assert found.pl()["after"].to_list() == ["[masked:email]"]
    assert found.to_arrow().column_names[:4] == ["session", "command_no", "kind", "column"]
    assert preview(EMAIL, "nothing").to_arrow().num_rows == 0
