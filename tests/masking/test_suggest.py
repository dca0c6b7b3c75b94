"""What is proposed for columns, by their names and by samples of their values."""

from __future__ import annotations

import tomllib

import pytest

from agentaudit.masking.suggest import (
    KINDS,
    Column,
    Covered,
    Proposal,
    Sample,
    judge,
    matches,
    names_a_key,
    shown,
    telling,
    toml,
)
from agentaudit.settings.masks import Mask

CARDS = ["4242424242424242", "5555555555554444", "378282246310005"]


def sample(*values: str) -> Sample:
    made = Sample()
    made.add(values)
    return made


def proposed(name: str, *values: str, covered: Covered | None = None) -> list[Proposal]:
    return judge(("public", "t", name), sample(*values), covered or Covered())


# --- names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ssn", "national identifiers"),
        ("CustomerSSN", "national identifiers"),
        ("national_id", "national identifiers"),
        ("e_mail", "contact data"),
        ("workEmail", "contact data"),
        ("phone_number", "contact data"),
        ("iban", "payment data"),
        ("cardNumber", "payment data"),
        ("password_hash", "passwords and keys"),
        ("api_key", "passwords and keys"),
        ("refresh_token", "passwords and keys"),
        ("date_of_birth", "personal data"),
        ("dob", "personal data"),
        ("client_ip", "network addresses"),
    ],
)
def test_a_name_says_what_a_column_holds(name: str, kind: str) -> None:
    found = telling(name)
    assert found is not None
    assert found.name == kind


@pytest.mark.parametrize(
    "name",
    ["id", "note", "token_expires_at", "email_verified", "password_changed_on", "card_last4"]
    + ["shipping", "description", "business", "passenger_count", "compass", "mailing_list_id"],
)
def test_a_name_about_something_else_says_nothing(name: str) -> None:
    assert telling(name) is None


@pytest.mark.parametrize(
    ("pattern", "column", "is_named"),
    [
        ("email", ("public", "people", "Email"), True),
        ("people.email", ("public", "people", "email"), True),
        ("people.email", ("public", "orders", "email"), False),
        ("*.people.*", ("hr", "people", "anything"), True),
        ("hr.people.email", ("public", "people", "email"), False),
        ("hr.people.email", ("", "people", "email"), True),
        ("hr.people.email", ("", "", "email"), True),
        ('hr."odd.name".email', ("hr", "odd.name", "email"), True),
    ],
)
def test_a_pattern_names_columns_as_the_catalogue_reads_it(
    pattern: str, column: Column, is_named: bool
) -> None:
    assert matches(pattern, column) is is_named


# --- values


def test_a_column_of_addresses_is_proposed_whole_whatever_its_name() -> None:
    (found,) = proposed("contact", *[f"p{n}@example.com" for n in range(9)], "by post")
    assert (found.kind, found.detectors, found.covered_by) == ("contact data", (), "")
    assert found.reasons == ("90 % of 10 sampled values look like email",)


def test_a_text_that_mentions_an_address_is_proposed_for_a_detector() -> None:
    values = [f"call me back, or write to p{n}@example.com, thanks" for n in range(2)]
    (found,) = proposed("body", *values, *["nothing to see"] * 18)
    assert found.detectors == ("email",)
    assert found.reasons == ("10 % of 20 sampled values hold one",)


def test_what_is_rarer_than_one_in_twenty_is_no_reason() -> None:
    assert proposed("body", "write to a@example.com", *["nothing"] * 20) == []


def test_numbers_that_look_like_cards_are_no_reason_in_a_column_of_keys() -> None:
    assert names_a_key("order_no")
    assert proposed("order_no", *CARDS) == []
    assert proposed("paid_with", *CARDS)[0].kind == "payment data"


def test_a_name_alone_is_reason_enough() -> None:
    (found,) = proposed("date_of_birth")
    assert (found.kind, found.action) == ("personal data", "redact")
    assert found.reasons == ('the name "date_of_birth" says so',)


@pytest.mark.parametrize("value", ["ada@example.com", "4242424242424242", "hunter2", "x" * 500])
def test_no_example_shows_more_than_the_last_four_characters(value: str) -> None:
    assert sum(each.isalnum() for each in shown(value)) <= 4


def test_no_proposal_holds_a_whole_value() -> None:
    values = ["ada.lovelace@example.com", "grace.hopper@example.org"]
    text = repr(proposed("contact", *values)) + toml(proposed("contact", *values))
    assert not any(value in text for value in values)


# --- what there is already


def test_a_column_that_a_rule_hides_is_told_as_covered() -> None:
    masks = [{"name": "ids", "columns": ["*.t.ssn"]}, {"name": "all", "detect": ["personal"]}]
    covered = Covered.by(masks)
    (found,) = proposed("ssn", covered=covered)
    assert found.covered_by == "ids"
    (found,) = proposed("body", *["write to a@example.com please, now"] * 3, covered=covered)
    assert found.covered_by == "all"
    assert toml([found]) == ""


def test_a_rule_for_another_target_covers_nothing() -> None:
    masks = [{"name": "ids", "columns": ["ssn"], "targets": ["billing"]}]
    assert Covered.by(masks, "orders").column(("public", "t", "ssn")) == ""
    assert Covered.by(masks, "billing").column(("public", "t", "ssn")) == "ids"


# --- the text to paste


def test_what_is_proposed_can_be_pasted_into_the_settings() -> None:
    proposals = [
        *judge(("public", "people", "ssn"), sample(), Covered()),
        *judge(("public", "people", "email"), sample("ada@example.com"), Covered()),
        *judge(("public", "odd.name", 'qu"oted password'), sample(), Covered()),
        *judge(
            ("public", "tickets", "body"), sample(*["see a@example.com there, ok"] * 4), Covered()
        ),
    ]
    text = toml(proposals, target="orders", taken=["contact data"])
    masks = [Mask.model_validate(each) for each in tomllib.loads(text)["mask"]]
    assert [mask.name for mask in masks] == [
        "passwords and keys",
        "national identifiers",
        "contact data 2",
        "found in texts",
    ]
    assert masks[1].columns == ("public.people.ssn",)
    assert masks[0].columns == ('public.*.qu"oted password',)
    assert masks[3].detect == ("email",)
    assert {mask.target for mask in masks} == {("orders",)}
    for proposal in proposals[:3]:
        assert matches(proposal.name, proposal.column)


def test_a_name_cannot_end_the_comment_or_the_text_that_it_stands_in() -> None:
    names = ('ssn"\n[gateway]', "ssn\x1b[2J\u202e", "ssn\\", '"ssn')
    proposals = [each for name in names for each in judge(("s", "t", name), sample(), Covered())]
    assert [each.is_writable for each in proposals] == [False, False, True, True]
    text = toml(proposals)
    assert tomllib.loads(text).keys() == {"mask"}
    assert all(each.isprintable() or each == "\n" for each in text)


def test_every_action_that_is_proposed_is_one_that_needs_no_key() -> None:
    assert {kind.action for kind in KINDS} <= {"redact", "partial", "drop"}
