"""Proposes masks for the columns of a database, by their names and by a sample of their values.

A name alone may do (`ssn`, `date_of_birth`): no detector knows a birthday from another date. A
value alone may do too: a column `contact` in which nine of ten values are e-mail addresses. Where
only some of a column's values hold something, as in the text of a ticket, hiding the whole column
would hide what an auditor wants to read, so a detector is proposed instead.

What is said of values is shares and partial examples, never a whole one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from agentaudit.masking.detectors import DETECTORS, GROUPS
from agentaudit.masking.scan import Found, Scanner

MIN_SHARE: Final = 0.05
"""Of the values of a sample that are not null: what is rarer may be an accident."""

MIN_COLUMN_SHARE: Final = 0.5
"""From here on the column is of that kind, and is proposed as a whole."""

_MIN_COVERAGE: Final = 0.6
"""Of a value that what was found in it makes up: else it is a text that mentions one."""

_MAX_EXAMPLES: Final = 3
_SHOWN: Final = 4

Column = tuple[str, str, str]
"""Schema, table and column; the first two may be empty."""


# --- names


def _listed(text: str) -> tuple[str, ...]:
    """Return the words of a list that reads better as a text."""
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column may hold, by its name: whose `detectors` would find it, and what to do with it.

    `names` are words of a name, in lower case; several words of one entry follow each other in it.
    """

    name: str
    title: str
    action: str
    names: tuple[str, ...]
    detectors: tuple[str, ...] = ()


KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        "passwords and keys",
        "passwords, tokens and keys",
        "redact",
        _listed(
            "password passwd pwd passphrase passwort pass_hash pw_hash pass pin_code secret "
            "token api_key apikey access_key accesskey private_key privatekey signing_key "
            "encryption_key auth_key session_key credential credentials totp otp "
            "recovery_code webhook_url connection_string dsn cookie"
        ),
    ),
    Kind(
        "payment data",
        "cards and bank accounts",
        "partial",
        _listed(
            "card_number cardnumber card_no cc_number credit_card creditcard pan cvv cvc iban "
            "bank_account account_number account_no routing_number sort_code"
        ),
        ("card", "iban"),
    ),
    Kind(
        "national identifiers",
        "numbers that a state gives to people",
        "redact",
        _listed(
            "ssn social_security nino national_insurance sin bsn nir dni nie cpf pesel "
            "personnummer aadhaar codice_fiscale fiscal_code tax_id taxid tin steuer_id idnr "
            "national_id passport passport_no drivers_license driver_license driving_licence"
        ),
        (
            "us_ssn",
            "uk_nino",
            "ca_sin",
            "de_tax_id",
            "fr_nir",
            "es_dni",
            "it_fiscal_code",
            "nl_bsn",
            "br_cpf",
            "pl_pesel",
            "se_personnummer",
            "in_aadhaar",
        ),
    ),
    Kind(
        "contact data",
        "how people are reached",
        "redact",
        _listed(
            "email e_mail mail emailaddress phone telephone tel mobile cell msisdn fax street "
            "address_line addr_line postal_address home_address"
        ),
        ("email", "phone"),
    ),
    Kind(
        "personal data",
        "who people are",
        "redact",
        _listed(
            "first_name firstname last_name lastname full_name fullname surname maiden_name "
            "given_name family_name birth birthday birthdate dob date_of_birth birth_date "
            "gender religion ethnicity diagnosis blood_type salary income"
        ),
    ),
    Kind(
        "network addresses",
        "where people connect from",
        "redact",
        _listed(
            "ip ip_address ipaddress ip_addr client_ip remote_addr client_addr last_ip ipv4 ipv6"
        ),
        ("ipv4", "ipv6"),
    ),
)

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")
_DULL: Final = frozenset(
    _listed(
        "verified confirmed enabled count counts valid expires expiry expired at on "
        "type status id ids hint length version opt sent domain provider created "
        "updated changed"
    )
)
"""What makes a name one of something about the secret: `password_changed_at`, `email_verified`."""

_IDENTIFYING: Final = frozenset(
    _listed(
        "id ids uuid guid key sku ref reference no nr num number code sha sha1 sha256 md5 "
        "hash digest checksum serial version invoice order etag tracking barcode ean isbn "
        "gtin oid lot"
    )
)


def words(name: str) -> list[str]:
    """Return the words of a column's name, in lower case.

    >>> words("dateOfBirth"), words("api_key2"), words("SSN")
    (['date', 'of', 'birth'], ['api', 'key', '2'], ['ssn'])
    """
    return [each.lower() for each in _WORDS.findall(name)]


def telling(name: str) -> Kind | None:
    """Return what a column holds, if its name says so.

    >>> telling("customerEmail").name, telling("national_id").name
    ('contact data', 'national identifiers')
    >>> telling("email_verified_at"), telling("card_last4"), telling("note")
    (None, None, None)
    """
    found = words(name)
    if "last4" in "".join(found):
        return None
    joined = f"_{'_'.join(found)}_"
    squeezed = "".join(found)
    for kind in KINDS:
        for each in kind.names:
            if f"_{each}_" in joined:
                rest = joined.replace(f"_{each}_", "_", 1).split("_")
                if not _DULL & set(rest):
                    return kind
            elif each == squeezed:
                return kind
    return None


def names_a_key(name: str) -> bool:
    """Return whether a column's name says that it tells rows apart: such values look like anything.

    >>> names_a_key("order_id"), names_a_key("sku"), names_a_key("ssn")
    (True, True, False)
    """
    return telling(name) is None and bool(_IDENTIFYING & set(words(name)))


def kind_of(detector: str) -> Kind:
    """Return the kind to which what a detector finds belongs."""
    return next((each for each in KINDS if detector in each.detectors), KINDS[0])


def matches(pattern: str, column: Column) -> bool:
    """Return whether a mask's `pattern` names `column`, as the gateway's catalogue reads it.

    A schema or a table that is not known is taken for the one that the pattern names.

    >>> matches("*.customers.ssn", ("public", "customers", "SSN")), matches("email", ("", "", "id"))
    (True, False)
    """
    wanted = (["*", "*", *_parts(pattern)])[-3:]
    return all(
        part in ("*", given.lower()) or (not given and place < 2)
        for place, (part, given) in enumerate(zip(wanted, column, strict=True))
    )


@cache
def _parts(pattern: str) -> list[str]:
    return [
        part[1:-1].replace('""', '"') if part.startswith('"') else part
        for part in _PATTERN_PARTS.findall(pattern.lower())
    ]


_PATTERN_PARTS: Final = re.compile(r'"(?:[^"]|"")*"|[^.]+')


# --- values


@cache
def everything() -> Scanner:
    """Return what looks for all that any detector of ours knows; a found thing's rule is empty."""
    return Scanner([("", each) for each in DETECTORS])


DIGITS_ALONE: Final = frozenset(
    each.name
    for each in DETECTORS
    if each.group == "personal" and not each.anchors and each.name not in ("iban", "it_fiscal_code")
)
"""What little but its length and a check digit sets apart from other numbers."""


def shown(value: str) -> str:
    """Return what may be shown of a value that is to be hidden: its shape, and its last characters.

    >>> shown("ada@example.com"), shown("4242 4242 4242 4242"), shown("hunter2")
    ('•••@•••••••.com', '•••• •••• •••• 4242', '•••••••')
    """
    keep = len(value) - _SHOWN if len(value) >= 3 * _SHOWN else len(value)
    made = "".join(
        each if place >= keep or not each.isalnum() else "•" for place, each in enumerate(value)
    )
    return made if len(made) <= 40 else f"{made[:30]}…{made[-8:]}"


@dataclass(slots=True)
class Sample:
    """What detectors found in values of one column; `add` takes more of them.

    `hits` counts values by detector, `covering` those of which what was found is most.
    """

    values: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    covering: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, values: Iterable[str], scanner: Scanner | None = None) -> None:
        """Take in values that are not null."""
        scanner = scanner or everything()
        for value in values:
            self.values += 1
            data = value.encode("utf-8", "replace")
            if not scanner.may_hold(data):
                continue
            found: dict[str, Found] = {}
            for each in scanner.find(data):
                found.setdefault(each.what, each)
            for name, each in found.items():
                self.hits[name] = self.hits.get(name, 0) + 1
                if each.stop - each.start >= _MIN_COVERAGE * len(data):
                    self.covering[name] = self.covering.get(name, 0) + 1
                examples = self.examples.setdefault(name, [])
                if len(examples) < _MAX_EXAMPLES:
                    examples.append(shown(data[each.start : each.stop].decode("utf-8", "replace")))

    def share(self, detector: str) -> float:
        """Return the share of values in which a detector found something."""
        return self.hits.get(detector, 0) / self.values if self.values else 0.0

    def is_whole(self, detector: str) -> bool:
        """Return whether the column is of that kind, and not of texts that mention one."""
        covering = self.covering.get(detector, 0)
        is_most = covering >= MIN_COLUMN_SHARE * self.hits.get(detector, 0)
        return is_most and self.share(detector) >= MIN_COLUMN_SHARE

    def kinds(self, minimum: float = MIN_SHARE) -> list[str]:
        """Return the detectors that found something in so large a share, most hits first."""
        found = [name for name in self.hits if self.share(name) >= minimum]
        return sorted(found, key=lambda name: (-self.hits[name], name))


# --- proposals


@dataclass(frozen=True, slots=True)
class Covered:
    """What rules hide already: `columns` are (pattern, rule) pairs, `detectors` name theirs."""

    columns: tuple[tuple[str, str], ...] = ()
    detectors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def by(cls, masks: Iterable[Mapping[str, Any]], target: str = "") -> Covered:
        """Return what masks of a policy document hide at a target."""
        columns = []
        detectors: dict[str, str] = {}
        for mask in masks:
            if target and target not in mask.get("targets", (target,)):
                continue
            columns += [(pattern, mask["name"]) for pattern in mask.get("columns", ())]
            for name in mask.get("detect", ()):
                for each in GROUPS.get(name, (name,)):
                    detectors.setdefault(each, mask["name"])
        return cls(tuple(columns), detectors)

    def column(self, column: Column) -> str:
        """Return the first rule that hides all of a column, "" for none."""
        return next((rule for pattern, rule in self.columns if matches(pattern, column)), "")


_NOTHING: Final = Covered()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What is proposed for one column: to hide all of it, or what a detector finds in it.

    `detectors` is empty where the whole column is meant. `covered_by` names the rule that hides it
    already; then there is nothing to do.
    """

    column: Column
    kind: str
    action: str
    reasons: tuple[str, ...]
    detectors: tuple[str, ...] = ()
    share: float = 0.0
    examples: tuple[str, ...] = ()
    covered_by: str = ""

    @property
    def name(self) -> str:
        """The column as a mask names it; a part that no pattern can say is `*`."""
        return ".".join(_written(part) or "*" for part in self.column if part)

    @property
    def is_writable(self) -> bool:
        """Whether a mask can name this column, and not only all columns of its table."""
        return bool(_written(self.column[2]))


def judge(column: Column, sample: Sample, covered: Covered = _NOTHING) -> list[Proposal]:
    """Return what is proposed for a column, nothing where it holds nothing that is worth hiding.

    What `covered` hides already is told too, and by which rule.
    """
    by_name = telling(column[2])
    covering = covered.column(column)
    seen = [
        f"{_percent(sample.share(each))} of {sample.values:,} sampled values look like {each}"
        for each in sample.kinds()
    ]
    whole = [
        each
        for each in sample.kinds(MIN_COLUMN_SHARE)
        if sample.is_whole(each) and not (each in DIGITS_ALONE and names_a_key(column[2]))
    ]
    reasons = [f'the name "{column[2]}" says so'] if by_name is not None else []
    if by_name is not None or whole:
        kind = by_name or kind_of(whole[0])
        first = sample.kinds()[:1]
        return [
            Proposal(
                column=column,
                kind=kind.name,
                action=kind.action,
                reasons=tuple(reasons + seen),
                share=sample.share(first[0]) if first else 0.0,
                examples=tuple(sample.examples.get(first[0], ())) if first else (),
                covered_by=covering,
            )
        ]
    return [
        Proposal(
            column=column,
            kind=kind_of(each).name,
            action="redact",
            reasons=(
                f"{_percent(sample.share(each))} of {sample.values:,} sampled values hold one",
            ),
            detectors=(each,),
            share=sample.share(each),
            examples=tuple(sample.examples.get(each, ())),
            covered_by=covering or covered.detectors.get(each, ""),
        )
        for each in sample.kinds()
        if not (each in DIGITS_ALONE and names_a_key(column[2]))
    ]


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 1 or not share else "under 1 %"


def _written(part: str) -> str:
    """Return a name as a part of a pattern, "" for one that no pattern can say."""
    if not part.isprintable() or set(".?[]*") & set(part):
        return ""
    return '"' + part.replace('"', '""') + '"' if part.startswith('"') else part


def toml(proposals: Iterable[Proposal], *, target: str = "", taken: Iterable[str] = ()) -> str:
    """Return `[[mask]]` tables for those proposals that no rule covers, ready to be pasted.

    `taken` are names of masks that there are already.
    """
    open_ = [each for each in proposals if not each.covered_by]
    names = set(taken)
    tables = []
    for kind in KINDS:
        columns = [each for each in open_ if each.kind == kind.name and not each.detectors]
        if any(each.is_writable for each in columns):
            lines = [f"# {kind.title}", *_head(kind.name, names, target), "columns = ["]
            lines += [_entry(each) for each in columns]
            lines += ["]", f'action = "{kind.action}"']
            tables.append("\n".join(lines))
    found: dict[str, list[Proposal]] = {}
    for each in open_:
        for detector in each.detectors:
            found.setdefault(detector, []).append(each)
    if found:
        lines = [
            "# in texts of which only a part is to be hidden",
            *_head("found in texts", names, target),
            "detect = [",
        ]
        for detector, those in sorted(found.items()):
            places = ", ".join(f"{each.name} ({_percent(each.share)})" for each in those[:3]) + (
                f", {len(those) - 3} more" if len(those) > 3 else ""
            )
            lines.append(f"  {_text(detector)},  # {_line(places)}")
        lines += ["]", 'action = "redact"']
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + ("\n" if tables else "")


def _head(name: str, taken: set[str], target: str) -> list[str]:
    chosen, number = name, 2
    while chosen in taken:
        chosen, number = f"{name} {number}", number + 1
    taken.add(chosen)
    return ["[[mask]]", f"name = {_text(chosen)}"] + (
        [f"target = [{_text(target)}]"] if target else []
    )


def _entry(proposal: Proposal) -> str:
    if proposal.is_writable:
        return f"  {_text(proposal.name)},  # {_comment(proposal)}"
    table = proposal.name.rpartition(".")[0]
    return f"  # {_line(table)}: a column whose name no pattern can say; {_comment(proposal)}"


def _comment(proposal: Proposal) -> str:
    said = "; ".join(proposal.reasons)
    return _line(said + (f", as {proposal.examples[0]}" if proposal.examples else ""))


def _line(text: str) -> str:
    """Return `text` for a comment: what a database's owner named must not end it."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _text(text: str) -> str:
    """Return `text` as a basic string of TOML."""
    made = "".join(
        f"\\u{ord(each):04x}"
        if ord(each) < 0x10000 and not each.isprintable()
        else f"\\U{ord(each):08x}"
        if not each.isprintable()
        else f"\\{each}"
        if each in '"\\'
        else each
        for each in text
    )
    return f'"{made}"'
