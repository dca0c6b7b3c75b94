"""Secrets to plant: made up, valid by the check of their detector, and found nowhere else.

Each is drawn from a seed that names it, so that a canary that got out says by itself where it was
planted. They have the forms of `labelled.toml`'s documented examples, and the check digits are
worked out here, by their authorities' rules: a mistake that we shared with the detectors would hide
from both.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

_UPPER: Final = string.ascii_uppercase + string.digits
_MIXED: Final = string.ascii_letters + string.digits
_LOWER: Final = string.ascii_lowercase + string.digits
_HEX: Final = "0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Canary:
    """A `secret` of the kind that `detector` finds, with what stands `before` and `after` it."""

    detector: str
    before: str
    secret: str
    after: str = ""

    @property
    def text(self) -> str:
        """What is planted."""
        return self.before + self.secret + self.after

    @property
    def traces(self) -> tuple[bytes, ...]:
        """What tells that it is there, whole or half, as it is or as we write things ourselves."""
        parts = {line for line in self.secret.splitlines() if not line.startswith("-----")}
        for part in list(parts):
            if len(part) >= 32:
                parts |= {part[: len(part) // 2], part[len(part) // 2 :]}
        found = set()
        for part in parts:
            data = part.encode()
            found |= {data, json.dumps(part)[1:-1].encode(), data.hex().encode()}
            for shift in range(3):
                # The whole groups of three bytes, wherever in them the secret begins.
                whole = base64.b64encode(bytes(shift) + data)
                found.add(whole[4 if shift else 0 : (len(data) + shift) // 3 * 4])
        if self.detector == "card":
            digits = self.secret.replace(" ", "").replace("-", "")
            found |= {
                digits.encode(),
                int(digits).to_bytes(8),
                int(digits).to_bytes(8).hex().encode(),
            }
            fours = [digits.zfill(16)[at : at + 4] for at in range(0, 16, 4)]
            found.add(b"".join(int(four).to_bytes(2) for four in fours))
        return tuple(found)


Maker = Callable[[random.Random], tuple[str, str] | tuple[str, str, str] | str]


def make(detector: str, seed: str) -> Canary:
    """Return the canary of that kind that `seed` names."""
    made = MAKERS[detector](random.Random(f"{detector} {seed}"))
    return Canary(detector, "", made) if isinstance(made, str) else Canary(detector, *made)


# --- parts


def _of(signs: str, length: int) -> Callable[[random.Random], str]:
    def draw(chance: random.Random) -> str:
        # With a digit and both cases somewhere, as what is drawn has nearly always.
        while True:
            drawn = "".join(chance.choices(signs, k=length))
            if any(sign.isdigit() for sign in drawn) and any(sign.isalpha() for sign in drawn):
                return drawn

    return draw


def _digits(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(string.digits, k=length))


def _key(before: str, signs: str, length: int, *, prefix: str = "", suffix: str = "") -> Maker:
    return lambda chance: (before, prefix + _of(signs, length)(chance) + suffix)


# --- check digits


def _luhn(number: str) -> str:
    """Return `number` with its check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(int(sign) for sign in reversed(number)):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += sum(divmod(doubled, 10))
    return f"{number}{-total % 10}"


def _card(chance: random.Random) -> str:
    issuer, length = chance.choice(
        [("4", 16), ("51", 16), ("2223", 16), ("6011", 16), ("3528", 16), ("34", 15), ("36", 14)]
    )
    number = _luhn(issuer + _digits(chance, length - len(issuer) - 1))
    if length == 16 and chance.random() < 0.4:
        return chance.choice(" -").join(number[at : at + 4] for at in range(0, 16, 4))
    return number


def _iban(chance: random.Random) -> str:
    country, account = chance.choice(
        [("DE", _digits(chance, 18)), ("NL", "ABNA" + _digits(chance, 10))]
        + [("GB", "WEST" + _digits(chance, 14)), ("FR", _digits(chance, 23))]
    )
    number = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    whole = f"{country}{98 - int(number) % 97:02d}{account}"
    if chance.random() < 0.3:
        return " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    return whole


def _german_tax_id(chance: random.Random) -> tuple[str, str]:
    while True:
        digits = random.Random(chance.random()).sample(range(10), 10)
        digits[9] = digits[chance.randrange(9)]
        if digits[0]:
            break
    product = 10
    for digit in digits:
        total = (digit + product) % 10 or 10
        product = total * 2 % 11
    check = (11 - product) % 10
    return "Steuer-ID: ", "".join(map(str, digits)) + str(check)


def _nir(chance: random.Random) -> str:
    number = f"{chance.randint(1, 2)}{_digits(chance, 2)}{chance.randint(1, 12):02d}"
    number += f"{chance.randint(1, 95):02d}{_digits(chance, 6)}"
    return f"{number}{97 - int(number) % 97:02d}"


def _fiscal_code(chance: random.Random) -> str:
    letters = string.ascii_uppercase
    body = "".join(chance.choices("BCDFGLMNPRSTVZ", k=6)) + _digits(chance, 2)
    body += chance.choice("ABCDEHLMPRST") + f"{chance.randint(1, 28):02d}"
    body += chance.choice("ABCDEFGHIL") + _digits(chance, 3)
    odd = "BAKPLCQDREVOSFTGUHMINJWZYX"  # the letter's place is its value (DM 23/12/1976)
    total = 0
    for place, sign in enumerate(body, 1):
        value = int(sign) if sign.isdigit() else letters.index(sign)
        total += odd.index(letters[value]) if place % 2 else value
    return body + letters[total % 26]


def _bsn(chance: random.Random) -> str:
    while True:
        number = _digits(chance, 8)
        left = sum(int(sign) * (9 - place) for place, sign in enumerate(number)) % 11
        if left < 10 and number[0] != "0":
            return f"{number[:4]}.{number[4:6]}.{number[6:]}{left}"


def _cpf(chance: random.Random) -> str:
    number = _digits(chance, 9)
    for _ in range(2):
        weights = range(len(number) + 1, 1, -1)
        left = sum(a * int(b) for a, b in zip(weights, number, strict=True)) * 10 % 11
        number += str(left % 10)
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def _pesel(chance: random.Random) -> tuple[str, str]:
    number = f"{_digits(chance, 2)}{chance.randint(1, 12):02d}{chance.randint(1, 28):02d}"
    number += _digits(chance, 4)
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
    total = sum(a * int(b) for a, b in zip(weights, number, strict=True))
    return "PESEL ", f"{number}{-total % 10}"


def _personnummer(chance: random.Random) -> str:
    day = f"{_digits(chance, 2)}{chance.randint(1, 12):02d}{chance.randint(1, 28):02d}"
    number = _luhn(day + _digits(chance, 3))
    return f"19{number[:6]}-{number[6:]}"


_FIVES: Final = [[(a + b) % 5 for b in range(5)] for a in range(5)]


def _dihedral(a: int, b: int) -> int:
    """Multiply in the dihedral group of a pentagon (Verhoeff 1969)."""
    if a < 5:
        return _FIVES[a][b] if b < 5 else 5 + _FIVES[a][b - 5]
    return 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5


def _aadhaar(chance: random.Random) -> str:
    number = chance.choice("23456789") + _digits(chance, 10)
    turn = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def permuted(digit: int, times: int) -> int:
        for _ in range(times % 8):
            digit = turn[digit]
        return digit

    for check in string.digits:
        total = 0
        for place, sign in enumerate(reversed(number + check)):
            total = _dihedral(total, permuted(int(sign), place))
        if total == 0:
            whole = number + check
            return f"{whole[:4]} {whole[4:8]} {whole[8:]}"
    raise AssertionError("one of ten digits is the one")


def _sin(chance: random.Random) -> str:
    number = _luhn(chance.choice("1234567") + _digits(chance, 7))
    return f"{number[:3]}-{number[3:6]}-{number[6:]}"


def _dni(chance: random.Random) -> str:
    number = _digits(chance, 8)
    return number + "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


# --- other forms


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _jwt(chance: random.Random) -> str:
    header = _b64(b'{"alg":"HS256","typ":"JWT"}')
    payload = _b64(json.dumps({"sub": _of(_MIXED, 12)(chance)}).encode())
    return f"{header}.{payload}.{_b64(chance.randbytes(32))}"


def _private_key(chance: random.Random) -> str:
    lines = [base64.b64encode(chance.randbytes(48)).decode() for _ in range(4)]
    kind = chance.choice(["", "RSA ", "EC ", "OPENSSH "])
    body = "\n".join(lines)
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"


def _password(chance: random.Random) -> str:
    return _of(_MIXED, 9)(chance) + "-" + _of(_MIXED, 7)(chance)


def _scram(chance: random.Random) -> str:
    salt, stored, server = (base64.b64encode(chance.randbytes(n)).decode() for n in (16, 32, 32))
    return f"SCRAM-SHA-256$4096:{salt}${stored}:{server}"


def _ssn(chance: random.Random) -> str:
    while (area := chance.randint(1, 899)) == 666:
        pass
    return f"{area:03d}-{chance.randint(1, 99):02d}-{chance.randint(1, 9999):04d}"


def _ipv6(chance: random.Random) -> str:
    return "2001:db8:" + ":".join(f"{chance.randint(0x1000, 0xFFFF):x}" for _ in range(6))


def _ipv4(chance: random.Random) -> str:
    # Long enough to be nowhere else by chance.
    return ".".join(str(chance.randint(128, 223)) for _ in range(4))


MAKERS: Final[dict[str, Maker]] = {
    "aws_key": _key("", _UPPER, 16, prefix="AKIA"),
    "aws_secret": _key("aws_secret_access_key = ", _MIXED + "/+", 40),
    "aws_session_token": _key("AWS_SESSION_TOKEN=", _MIXED, 96),
    "google_api_key": _key("key=", _MIXED + "_-", 35, prefix="AIza"),
    "google_oauth": _key("", _MIXED, 28, prefix="GOCSPX-"),
    "gcp_private_key_id": _key('"private_key_id": "', _HEX, 40),
    "azure_account_key": _key("AccountName=a;AccountKey=", _MIXED + "/+", 86, suffix="=="),
    "azure_sas": _key("sv=2026&sig=", _MIXED, 43),
    "azure_client_secret": lambda c: f"{_of(_MIXED, 3)(c)}8Q~{_of(_MIXED, 34)(c)}",
    "digitalocean_token": _key("", _HEX, 64, prefix="dop_v1_"),
    "databricks_token": _key("", _HEX, 32, prefix="dapi"),
    "vault_token": _key("", _MIXED, 28, prefix="hvs."),
    "github_token": _key("", _MIXED, 36, prefix="ghp_"),
    "gitlab_token": _key("", _MIXED, 20, prefix="glpat-"),
    "slack_token": lambda c: f"xoxb-{_digits(c, 12)}-{_of(_MIXED, 24)(c)}",
    "slack_webhook": lambda c: (
        "https://hooks.slack.com/services/",
        f"T{_of(_UPPER, 8)(c)}/B{_of(_UPPER, 8)(c)}/{_of(_MIXED, 24)(c)}",
    ),
    "discord_webhook": lambda c: (
        "https://discord.com/api/webhooks/",
        f"{_digits(c, 18)}/{_of(_MIXED, 68)(c)}",
    ),
    "stripe_key": _key("", _MIXED, 24, prefix="sk_live_"),
    "twilio_token": _key("TWILIO_AUTH_TOKEN=", _HEX, 32),
    "sendgrid_key": lambda c: f"SG.{_of(_MIXED, 22)(c)}.{_of(_MIXED, 43)(c)}",
    "mailgun_key": _key("", _LOWER, 32, prefix="key-"),
    "npm_token": _key("", _MIXED, 36, prefix="npm_"),
    "pypi_token": _key("", _MIXED, 80, prefix="pypi-AgE"),
    "docker_token": _key("", _MIXED, 27, prefix="dckr_pat_"),
    "huggingface_token": _key("", _MIXED, 34, prefix="hf_"),
    "openai_key": _key("", _MIXED, 48, prefix="sk-proj-"),
    "anthropic_key": _key("", _MIXED, 60, prefix="sk-ant-api03-"),
    "datadog_key": _key("DD_API_KEY=", _HEX, 32),
    "new_relic_key": _key("", _UPPER, 27, prefix="NRAK-"),
    "shopify_token": _key("", _HEX, 32, prefix="shpat_"),
    "square_token": _key("", _MIXED, 22, prefix="sq0atp-"),
    "telegram_token": lambda c: f"{c.randint(10**8, 10**9)}:AA{_of(_MIXED, 33)(c)}",
    "atlassian_token": _key("", _MIXED, 40, prefix="ATATT3"),
    "linear_key": _key("", _MIXED, 40, prefix="lin_api_"),
    "jwt": _jwt,
    "private_key": _private_key,
    "postgres_verifier": _scram,
    "password_hash": lambda c: f"$2b$12${_of(_MIXED + './', 53)(c)}",
    "url_password": lambda c: ("postgresql://ana:", _password(c), "@db.internal/orders"),
    "password_literal": lambda c: ("password='", _password(c), "'"),
    "password_field": lambda c: ('{"password": "', _password(c), '"}'),
    "password_nested": lambda c: ('"{\\"password\\": \\"', _password(c), '\\"}"'),
    "password_dollar": lambda c: ("password $$", _password(c), "$$"),
    "password_setting": lambda c: ("host=db password=", _password(c)),
    "password_entry": lambda c: ("password: ", _password(c)),
    "authorization": _key("Authorization: ", _MIXED, 30),
    "authorization_parameters": lambda c: (
        "Authorization: Digest ",
        f'username="a{_of(_MIXED, 12)(c)}", response={_of(_HEX, 32)(c)}',
    ),
    "bearer_token": _key("-H Bearer ", _MIXED, 32),
    "basic_credentials": lambda c: (
        "Basic ",
        base64.b64encode(f"ana:{_password(c)}".encode()).decode(),
    ),
    "cookie": lambda c: ("Cookie: sid=", f"{_of(_MIXED, 24)(c)}; csrf={_of(_MIXED, 16)(c)}"),
    "generic_secret": _key("client_secret=", _MIXED, 24),
    "card": _card,
    "iban": _iban,
    "email": lambda c: f"{_of(_LOWER, 12)(c)}@mail.example.com",
    "phone": lambda c: f"+4930{c.randint(10**8, 10**9 - 1)}",
    "us_ssn": _ssn,
    "uk_nino": lambda c: "AB" + _digits(c, 6) + c.choice("ABCD"),
    "ca_sin": _sin,
    "de_tax_id": _german_tax_id,
    "fr_nir": _nir,
    "es_dni": _dni,
    "it_fiscal_code": _fiscal_code,
    "nl_bsn": lambda c: ("BSN ", _bsn(c)),
    "br_cpf": _cpf,
    "pl_pesel": _pesel,
    "se_personnummer": _personnummer,
    "in_aadhaar": _aadhaar,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
}
"""How each kind is drawn, by the name of what finds it."""


# --- looking for them


_FILLING: Final = re.compile(rb"\0{64,}|y{64,}|z{64,}|\*{64,}")


class Search:
    """Finds traces of canaries in bytes: by their last eight, among all eight bytes in a row."""

    def __init__(self, planted: Iterable[tuple[Any, Canary]]) -> None:
        self._traces: dict[bytes, list[tuple[bytes, Any]]] = defaultdict(list)
        for label, canary in planted:
            for trace in canary.traces:
                assert len(trace) >= 8, canary
                self._traces[trace[-8:]].append((trace, label))
        self._ends = {int.from_bytes(end, sys.byteorder): end for end in self._traces}
        self._numbers = frozenset(self._ends)

    def find(self, data: bytes | memoryview) -> set[Any]:
        """Return the labels of what is in `data`."""
        # What fills long values, and the room that a journal's file has left, is most of it.
        data = _FILLING.sub(b"", bytes(data))
        found = set()
        # Pieces overlap by more than a trace has, and are small: each end is looked for in one.
        for start in range(0, len(data), 1 << 19):
            found |= self._in_piece(data[max(0, start - 4096) : start + (1 << 19)])
        return found

    def _in_piece(self, data: bytes) -> set[Any]:
        found = set()
        for shift in range(8):
            eights = array("Q")
            eights.frombytes(data[shift : shift + (len(data) - shift) // 8 * 8])
            for number in self._numbers.intersection(eights):
                found |= self._those_at(self._ends[number], data)
        return found

    def _those_at(self, end: bytes, data: bytes) -> set[Any]:
        found = set()
        at = data.find(end)
        while at >= 0:
            for trace, label in self._traces[end]:
                if data.endswith(trace, 0, at + 8):
                    found.add(label)
            at = data.find(end, at + 1)
        return found


def kept(folder: Path) -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield all bytes that a gateway keeps in its folder, but for keys; Parquet is decoded too."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or "keys" in path.relative_to(folder).parts:
            continue
        yield path.name, path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            for name in table.column_names:
                for chunk in table.column(name).chunks:
                    for buffer in chunk.buffers():
                        if buffer is not None:
                            yield f"{path.name}: {name}", memoryview(buffer)
