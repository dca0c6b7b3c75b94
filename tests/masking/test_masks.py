"""What rules make of values: actions, JSON, pseudonyms, plug-ins, and what no setting turns off."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.masking import jsonpath, plugins
from agentaudit.masking.credentials import credentials
from agentaudit.masking.marks import PseudonymKey, mark, partial
from agentaudit.masking.masks import CREDENTIALS, Masks

KEY = bytes(range(32))


def masks(**rule: Any) -> Masks:
    document = {"name": "mine", "action": "redact", "apply": ["archive"]} | rule
    keys = {"mine": PseudonymKey(KEY)} if document["action"] == "pseudonym" else {}
    return Masks([document], keys=keys)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("redact", b"card [masked:card]!"),
        ("partial", b"card ****1111!"),
        ("drop", b"card !"),
    ],
)
def test_what_is_found_becomes_what_the_action_says(action: str, expected: bytes) -> None:
    made, found = masks(detect=["card"], action=action).mask(b"card 4111111111111111!")
    assert made == expected
    assert [(each.start, each.stop, each.rule) for each in found] == [(5, 21, "mine")]


def test_a_pseudonym_is_hmac_sha_256_and_names_its_key() -> None:
    key = PseudonymKey(KEY)
    digest = hmac.new(KEY, b"123-45-6789", hashlib.sha256).digest()[:16]
    letters = base64.b32encode(digest).decode().rstrip("=").lower()
    assert key.pseudonym(b"123-45-6789").decode() == f"pn_{key.name}_{letters}"
    assert len(key.name) == 4


@given(st.binary(), st.binary())
def test_equal_values_have_equal_pseudonyms_and_others_have_others(one: bytes, two: bytes) -> None:
    key = PseudonymKey(KEY)
    assert (key.pseudonym(one) == key.pseudonym(two)) == (one == two)


@given(st.binary(min_size=32, max_size=40), st.binary(min_size=32, max_size=40), st.binary())
def test_two_keys_never_agree(one: bytes, two: bytes, value: bytes) -> None:
    # HMAC fills a short key up with zeros: RFC 2104, section 2.
    if one.rstrip(b"\0") != two.rstrip(b"\0"):
        assert PseudonymKey(one).pseudonym(value) != PseudonymKey(two).pseudonym(value)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PseudonymKey(bytes(31))


def test_of_a_short_value_no_part_is_shown() -> None:
    assert partial(b"12345678901") is None
    assert masks(detect=["email"], action="partial").mask(b"a@b.co")[0] == b"[masked:email]"


def test_a_mark_breaks_nothing_around_it() -> None:
    made = mark('Any, name: "of" {a} \\ rule\n').decode()
    assert made == "[masked:any-name-of-a-rule]"
    assert orjson.loads(f'{{"a":"{made}"}}') == {"a": made}


def test_marks_and_pseudonyms_are_no_secrets() -> None:
    everything = masks(detect=["all"])
    key = PseudonymKey(KEY)
    for made in (mark("password"), key.pseudonym(b"x"), b"****1111"):
        for text in (made, b"password = '" + made + b"'", b'{"token": "' + made + b'"}'):
            assert everything.mask(text)[1] == [], text


# --- rules


def test_a_rule_is_about_the_targets_that_it_names() -> None:
    document = {
        "name": "mine",
        "action": "redact",
        "apply": ["archive"],
        "detect": ["email"],
        "targets": ["orders"],
    }
    assert Masks([document], target="orders").mask(b"ann@example.com")[1]
    assert not Masks([document], target="other").mask(b"ann@example.com")[1]
    assert Masks([document]).mask(b"ann@example.com")[1]  # before a target is known


def test_what_the_client_is_not_to_see_is_known_apart() -> None:
    documents = [
        {"name": "a", "action": "redact", "apply": ["archive"], "detect": ["email"]},
        {"name": "b", "action": "redact", "apply": ["archive", "client"], "detect": ["card"]},
    ]
    both = Masks(documents)
    assert both.for_client is not None
    assert both.for_client.mask(b"ann@example.com 4111111111111111")[0] == (
        b"ann@example.com [masked:card]"
    )
    assert Masks(documents[:1]).for_client is None
    only = Masks(documents[1:])
    assert only.for_client is only


def test_own_patterns_are_of_texts_and_their_group_is_what_is_hidden() -> None:
    own = masks(patterns=["Größe ([0-9]+)"])
    assert own.mask_text("Größe 42, 43") == "Größe [masked:mine], 43"


@pytest.mark.parametrize("pattern", ["(", "a{1001}", "(?=x)"])
def test_a_pattern_that_is_none_is_never_skipped(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        masks(patterns=[pattern])


def test_an_unknown_detector_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"aws_kex.*aws_key"):
        masks(detect=["aws_kex"])


def test_credentials_are_hidden_without_any_rule() -> None:
    none = Masks([])
    for text, hidden in (
        ("ALTER ROLE a PASSWORD 'secret-x'", "secret-x"),
        ("postgres://u:secret-x@db/orders", "secret-x"),
        ("host=db password=secret-x user=u", "secret-x"),
        ("DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''secret-x'''; END $$", "secret-x"),
    ):
        assert hidden not in none.mask_text(text), text
        assert {each.rule for each in none.mask(text.encode())[1]} == {CREDENTIALS}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER ROLE a PASSWORD 'x'", ["'x'"]),
        ("CREATE ROLE a LOGIN ENCRYPTED PASSWORD E'x\\'y'", ["E'x\\'y'"]),
        ("CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')", ["'x'"]),
        ("CREATE SERVER s FOREIGN DATA WRAPPER f OPTIONS (api_secret 'x')", ["'x'"]),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=x' PUBLICATION p",
            ["'host=h password=x'"],
        ),
        ("SELECT dblink('host=h password=x', 'SELECT 1')", ["'host=h password=x'"]),
        ("SELECT public.dblink_connect(connstr => 'password=x')", ["'password=x'"]),
        ("SET app.api_key = 'x'; SELECT 'y'", ["'x'"]),
        ("ALTER SYSTEM SET primary_conninfo TO 'password=x'", ["'password=x'"]),
        (
            "SELECT set_config('app.secret', 'x', false), set_config('app.name', 'y', false)",
            ["'x'"],
        ),
        ("SELECT password FROM users WHERE name = 'x'", []),
        ("ALTER ROLE a PASSWORD NULL", []),
        ("SELECT 'PASSWORD ''x'''", []),
        ("ALTER ROLE a PASSWORD 'no end", ["'no end"]),
        ("SET my.secret = 'x', y; SET a.b = 'z'", ["'x'", "y"]),
        ("ALTER ROLE a SET my.api_key TO x", ["x"]),
        ("ALTER SYSTEM SET my.secret = 4711", ["4711"]),
        ("UPDATE t SET secret = 'x'", []),
        ("SET password_encryption = 'scram-sha-256'", []),
        ("SELECT set_config('app.note', 'my token', false)", []),
        ("SELECT set_config(new_value => 'x', setting_name => 'my.secret')", ["'x'"]),
        ("SELECT dblink_connect('c', 'host=h password=' || 'x')", ["'host=h password='", "'x'"]),
        ("CREATE FUNCTION f() RETURNS int SET app.token = 'x' LANGUAGE sql AS ''", ["'x'"]),
        ("CREATE TABLE a (b int REFERENCES c ON DELETE SET NULL, token text CHECK (d = 'e'))", []),
        ("ALTER TABLE a ALTER x SET NOT NULL, ADD COLUMN token text, ADD CHECK (n = 'x')", []),
        ("CREATE RULE r AS ON UPDATE TO t DO INSTEAD UPDATE t SET token = 'x', y = 'z'", []),
        ("SELECT token " + "(" * 5000 + "'a'," * 5000, []),
        ("SELECT set_config('my.secret'::text, 'x', false)", ["'x'"]),
        ("SELECT set_config(setting_name => 'my.secret', new_value => 'x')", ["'x'"]),
        ("CREATE USER MAPPING FOR a SERVER s OPTIONS (api_secret 'x'); SELECT '", ["'x'"]),
    ],
)
def test_credentials_are_where_postgresqls_scanner_says(sql: str, expected: list[str]) -> None:
    assert [sql[start:stop] for start, stop in credentials(sql)] == expected


# --- JSON


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a", {"a": "X", "b": [{"a": 2}, {"a": {"a": 3}}]}),
        ("$..a", {"a": "X", "b": [{"a": "X"}, {"a": "X"}]}),
        ("$.b[0].a", {"a": 1, "b": [{"a": "X"}, {"a": {"a": 3}}]}),
        ("$.b[*].a", {"a": 1, "b": [{"a": "X"}, {"a": "X"}]}),
        ("$['b'][1]", {"a": 1, "b": [{"a": 2}, "X"]}),
        ("$.c", {"a": 1, "b": [{"a": 2}, {"a": {"a": 3}}]}),
    ],
)
def test_a_json_path_names_members(path: str, expected: object) -> None:
    value = {"a": 1, "b": [{"a": 2}, {"a": {"a": 3}}]}
    jsonpath.replace(value, jsonpath.parse(path), lambda _: "X")
    assert value == expected


@pytest.mark.parametrize("path", ["", "$", "a", "$.", "$[?(@.a)]", "$..", "$.a b", "$" + ".a" * 40])
def test_what_is_no_json_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="JSON path"):
        jsonpath.parse(path)


def test_json_that_cannot_be_read_is_hidden_as_a_whole() -> None:
    rule = masks(json_paths=["$..token"])
    made, rules = rule.mask_json(b'{"token": "x", "n": 1}')
    assert orjson.loads(made) == {"token": "[masked:mine]", "n": 1}
    assert rules == ("mine",)
    assert rule.mask_json(b'{"n": 1}') == (b'{"n": 1}', ())
    assert rule.mask_json(b'{"token": "x') == (b'"[masked:mine]"', ("mine",))
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    assert b"token" not in rule.mask_json(deep)[0]


# --- plug-ins


class Shouts:
    """A plug-in: hides what is in capitals."""

    name = "shouts"

    def find(self, data: bytes) -> Iterator[tuple[int, int]]:
        for at, word in enumerate(data.split(b" ")):
            if word.isupper() and at == 0:
                yield 0, len(word)


class Entry:
    """What an installed plug-in's entry point looks like."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self) -> type[Shouts]:
        return Shouts


def test_only_the_plug_ins_that_a_rule_names_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def installed(*, group: str) -> list[Entry]:
        asked.append(group)
        return [Entry("shouts"), Entry("other")]

    monkeypatch.setattr(plugins, "entry_points", installed)
    assert list(plugins.plugged_in({"shouts", "email"})) == ["shouts"]
    assert asked == ["agentaudit.maskers"]
    assert not plugins.plugged_in(())


def test_a_plug_in_looks_at_every_value() -> None:
    document = {"name": "loud", "action": "redact", "apply": ["archive"], "detect": ["shouts"]}
    plugged = Masks([document], finders={"shouts": Shouts()})
    assert plugged.scanner.may_hold(b"anything")
    assert plugged.mask(b"HELLO you")[0] == b"[masked:shouts] you"
    (segment,) = plugged.scanner.segments(b"quiet\0HELLO\0quiet")
    assert (segment.start, segment.stop) == (6, 11)
