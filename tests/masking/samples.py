"""What detectors are tried on: the labelled set, and tables that hold next to no secret.

pgbench's and TPC-H's data are made as their documents say; Pagila's and Chinook's have the shapes
and the kinds of value of the published ones, with names and addresses of our own. Some columns do
hold personal data, made up as it is: `RIGHTLY_FOUND` says which. The last sample is of no
database: it is what ids, digests and measurements look like, each kind a column.

Sources: postgresql.org/docs/current/pgbench.html; TPC-H 3.0.1, clause 4.2 (tpc.org);
github.com/devrimgunduz/pagila; github.com/lerocha/chinook-database
"""

from __future__ import annotations

import base64
import hashlib
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

# --- the labelled set

NONE = "none"
"""The part of the labelled set that is no detector's."""

_LABELLED = Path(__file__).with_name("labelled.toml")
_OPEN, _CLOSE, _UNSEEN = "⟦⟧·"


@dataclass(frozen=True, slots=True)
class Label:
    """A text, the detector that it is for, and the spans that it is to find there: maybe none."""

    detector: str
    text: bytes
    spans: tuple[tuple[int, int], ...]


def labels() -> Iterator[Label]:
    """Yield the labelled set, in the order of its file, which says how it is written."""
    for detector, part in tomllib.loads(_LABELLED.read_text("utf-8")).items():
        for has_spans, kind in ((True, "found"), (False, "clean")):
            for marked in part[kind]:
                label = _parse(detector, marked.replace(_UNSEEN, ""))
                assert bool(label.spans) is has_spans, marked
                yield label


def _parse(detector: str, marked: str) -> Label:
    text = b""
    spans = []
    for piece in marked.split(_OPEN):
        hidden, closed, rest = piece.partition(_CLOSE)
        start = len(text)
        text += hidden.encode()
        if closed:
            spans.append((start, len(text)))
        text += rest.encode()
    return Label(detector, text, tuple(spans))


# --- the tables

RIGHTLY_FOUND = {
    ("tpch.supplier", "s_phone"): "phone",
    ("tpch.customer", "c_phone"): "phone",
    ("pagila.customer", "email"): "email",
    ("pagila.staff", "email"): "email",
    ("chinook.customer", "phone"): "phone",
    ("chinook.customer", "fax"): "phone",
    ("chinook.customer", "email"): "email",
    ("chinook.employee", "phone"): "phone",
    ("chinook.employee", "fax"): "phone",
    ("chinook.employee", "email"): "email",
}
"""The columns of what really is personal, and what finds it there."""

Maker = Callable[[Random, int], str]
"""Makes the value of a row from its number."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of a column, as PostgreSQL writes them; none has a NUL."""

    table: str
    name: str
    values: tuple[bytes, ...]


def read(scale: int = 1) -> Iterator[Column]:
    """Yield the columns of pgbench, TPC-H, Pagila and Chinook, the same at each call."""
    for sample, tables in _SAMPLES.items():
        for table, (rows, columns) in tables.items():
            yield from _columns(f"{sample}.{table}", rows * scale, columns)


def ids(rows: int = 20_000) -> Iterator[Column]:
    """Yield columns of ids, digests and measurements: what looks most like what is searched."""
    yield from _columns("ids", rows, _IDS)


def _columns(table: str, rows: int, columns: Mapping[str, Maker]) -> Iterator[Column]:
    for name, make in columns.items():
        random = Random(f"{table}.{name}")
        yield Column(table, name, tuple(make(random, n).encode() for n in range(1, rows + 1)))


# --- what values are made of


def _serial(random: Random, row: int) -> str:
    return str(row)


def _below(most: int, least: int = 1) -> Maker:
    return lambda random, row: str(random.randint(least, most))


def _one_of(words: str, apart: str | None = None) -> Maker:
    choices = words.split(apart)
    return lambda random, row: random.choice(choices)


def _money(most: int, least: int = 0) -> Maker:
    return lambda random, row: f"{random.randint(least * 100, most * 100) / 100:.2f}"


def _always(value: str) -> Maker:
    return lambda random, row: value


_BEGIN = datetime(1992, 1, 1, tzinfo=UTC)


def _moment(form: str, days: int = 2400) -> Maker:
    def make(random: Random, row: int) -> str:
        return (_BEGIN + timedelta(microseconds=random.randrange(days * 86_400_000_000))).strftime(
            form
        )

    return make


_DATE = _moment("%Y-%m-%d")
_TIME = _moment("%Y-%m-%d %H:%M:%S.%f")
_TIME_WITH_ZONE = _moment("%Y-%m-%d %H:%M:%S.%f+00", 12_000)


def _words(text: str) -> list[str]:
    return text.split()


_NOUNS = _words(
    "foxes ideas theodolites pinto beans instructions dependencies excuses platelets asymptotes "
    "courts dolphins multipliers sauternes warthogs frets dinos attainments somas braids hockey "
    "players packages requests accounts deposits patterns realms pearls sentiments"
)
_VERBS = _words(
    "sleep wake are cajole haggle nag use boost affix detect integrate maintain nod was lose "
    "sublate solve thrash promise engage hinder print x-ray breach eat grow impress mold poach "
    "serve run"
)
_ADJECTIVES = _words(
    "furious sly careful blithe quick fluffy slow quiet ruthless thin close dogged daring brave "
    "stealthy permanent enticing idle busy regular final ironic even bold silent special express"
)
_ADVERBS = _words(
    "sometimes always never furiously slyly carefully blithely quickly fluffily slowly quietly"
)
_ENDS = (".", ";", ":", "?", "!", "--")


def _text(least: int, most: int) -> Maker:
    def make(random: Random, row: int) -> str:
        length = random.randint(least, most)
        said = ""
        while len(said) < length:
            said += (
                f"{random.choice(_ADVERBS)} {random.choice(_ADJECTIVES)} {random.choice(_NOUNS)} "
                f"{random.choice(_VERBS)} about the {random.choice(_NOUNS)}{random.choice(_ENDS)} "
            )
        return said[:length]

    return make


def _v_string(least: int, most: int) -> Maker:
    signs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ, "
    return lambda random, row: "".join(random.choices(signs, k=random.randint(least, most)))


def _numbered(word: str, most: int | None = None) -> Maker:
    return lambda random, row: f"{word}#{random.randint(1, most) if most else row:09d}"


def _tpch_phone(random: Random, row: int) -> str:
    parts = random.randint(100, 999), random.randint(100, 999), random.randint(1000, 9999)
    return "-".join(map(str, (random.randint(10, 34), *parts)))


_FIRST = (
    "Mary Patricia Linda Barbara Elizabeth Jörg María Luís Zoë Ahmed Ngozi Wei Yuki Olga Anders "
    "Fatima John Peter Siobhán Björn"
)
_LAST = (
    "Smith Johnson Williams Müller García Gonçalves O'Brien Nguyen Okafor Tanaka Ivanova Lindqvist "
    "Haddad Rossi Novák Kowalski Dubois Jansen"
)
_STREETS = (
    "Jasper Ave|Nanaimo Blvd|Theodor-Heuss-Straße|Av. Paulista|rue du Bac|Via Appia|Lane Loop"
)
_CITIES = (
    "Lethbridge|Woodridge|Sasebo|San Bernardino|Athenai|Nantou|Laredo|Kragujevac|Hamilton|Iași"
)
_WORDS = (
    "academy dinosaur ace goldfinger adaptation holes affair prejudice african egg agent truman "
    "airplane sierra airport pollock alabama devil aladdin calendar alamo videotape alaska phantom"
)


def _full_name(random: Random, row: int) -> str:
    return f"{random.choice(_FIRST.split())} {random.choice(_LAST.split())}"


def _title(random: Random, row: int) -> str:
    return " ".join(random.choices(_WORDS.upper().split(), k=2))


def _street(random: Random, row: int) -> str:
    return f"{random.randint(1, 1999)} {random.choice(_STREETS.split('|'))}"


def _digits(least: int, most: int) -> Maker:
    return lambda random, row: "".join(random.choices("0123456789", k=random.randint(least, most)))


def _email(domain: str) -> Maker:
    def make(random: Random, row: int) -> str:
        first, last = random.choice(_FIRST.split()), random.choice(_LAST.split())
        return f"{first}.{last}{row}@{domain}".upper().replace(domain.upper(), domain)

    return make


def _international_phone(random: Random, row: int) -> str:
    return random.choice(
        (
            f"+1 ({random.randint(201, 989)}) 555-01{random.randint(10, 99)}",
            f"+55 (11) {random.randint(2000, 5999)}-{random.randint(1000, 9999)}",
            f"+49 0711 2{random.randint(100000, 999999)}",
            f"+44 020 7946 0{random.randint(100, 999)}",
            f"+33 01 99 00 {random.randint(10, 99)} {random.randint(10, 99)}",
        )
    )


def _features(random: Random, row: int) -> str:
    kinds = ("Trailers", "Commentaries", '"Deleted Scenes"', '"Behind the Scenes"')
    return "{" + ",".join(random.sample(kinds, random.randint(1, 4))) + "}"


def _tsvector(random: Random, row: int) -> str:
    words = sorted(set(random.choices(_WORDS.split(), k=9)))
    return " ".join(f"'{word}':{random.randint(1, 20)}" for word in words)


def _sha1(random: Random, row: int) -> str:
    return hashlib.sha1(random.randbytes(8), usedforsecurity=False).hexdigest()


def _bytea(random: Random, row: int) -> str:
    return f"\\x89504e470d0a1a0a{random.randbytes(random.randint(16, 60)).hex()}"


# --- their rows at scale 1, and their columns

_PGBENCH = {
    "branches": (10, {"bid": _serial, "bbalance": _below(9_999_999, -9_999_999)}),
    "tellers": (
        100,
        {"tid": _serial, "bid": _below(10), "tbalance": _below(9_999_999, -9_999_999)},
    ),
    "accounts": (
        20_000,
        {
            "aid": _serial,
            "bid": _below(10),
            "abalance": _below(99_999, -99_999),
            "filler": _always(" " * 84),
        },
    ),
    "history": (
        10_000,
        {
            "tid": _below(100),
            "bid": _below(10),
            "aid": _below(1_000_000),
            "delta": _below(5000, -5000),
            "mtime": _TIME,
        },
    ),
}

_TPCH = {
    "part": (
        2000,
        {
            "p_partkey": _serial,
            "p_name": _text(20, 55),
            "p_mfgr": lambda random, row: f"Manufacturer#{random.randint(1, 5)}",
            "p_brand": lambda random, row: f"Brand#{random.randint(1, 5)}{random.randint(1, 5)}",
            "p_type": _one_of("STANDARD ANODIZED TIN|SMALL PLATED COPPER|PROMO BRUSHED STEEL", "|"),
            "p_size": _below(50),
            "p_container": _one_of("SM CASE|LG BOX|MED BAG|JUMBO PKG|WRAP DRUM", "|"),
            "p_retailprice": _money(2000, 900),
            "p_comment": _text(5, 22),
        },
    ),
    "supplier": (
        500,
        {
            "s_name": _numbered("Supplier"),
            "s_address": _v_string(10, 40),
            "s_nationkey": _below(24, 0),
            "s_phone": _tpch_phone,
            "s_acctbal": _money(9999, -999),
            "s_comment": _text(25, 100),
        },
    ),
    "customer": (
        3000,
        {
            "c_name": _numbered("Customer"),
            "c_address": _v_string(10, 40),
            "c_phone": _tpch_phone,
            "c_acctbal": _money(9999, -999),
            "c_mktsegment": _one_of("AUTOMOBILE BUILDING FURNITURE MACHINERY HOUSEHOLD"),
            "c_comment": _text(29, 116),
        },
    ),
    "orders": (
        6000,
        {
            "o_orderkey": lambda random, row: str(row // 8 * 32 + row % 8),
            "o_custkey": _below(150_000),
            "o_orderstatus": _one_of("F O P"),
            "o_totalprice": _money(500_000, 800),
            "o_orderdate": _DATE,
            "o_orderpriority": _one_of("1-URGENT|2-HIGH|3-MEDIUM|4-NOT SPECIFIED|5-LOW", "|"),
            "o_clerk": _numbered("Clerk", 1000),
            "o_shippriority": _always("0"),
            "o_comment": _text(19, 78),
        },
    ),
    "lineitem": (
        8000,
        {
            "l_orderkey": _below(6_000_000),
            "l_partkey": _below(200_000),
            "l_quantity": _money(50, 1),
            "l_extendedprice": _money(100_000, 900),
            "l_discount": _one_of("0.00 0.01 0.05 0.10"),
            "l_returnflag": _one_of("R A N"),
            "l_shipdate": _DATE,
            "l_receiptdate": _DATE,
            "l_shipinstruct": _one_of("DELIVER IN PERSON|COLLECT COD|NONE|TAKE BACK RETURN", "|"),
            "l_shipmode": _one_of("REG AIR|AIR|RAIL|SHIP|TRUCK|MAIL|FOB", "|"),
            "l_comment": _text(10, 43),
        },
    ),
}

_PAGILA = {
    "film": (
        1000,
        {
            "film_id": _serial,
            "title": _title,
            "description": _text(60, 120),
            "release_year": _below(2025, 1950),
            "rental_rate": _one_of("0.99 2.99 4.99"),
            "replacement_cost": _money(30, 10),
            "rating": _one_of("G PG PG-13 R NC-17"),
            "special_features": _features,
            "fulltext": _tsvector,
            "last_update": _TIME_WITH_ZONE,
        },
    ),
    "customer": (
        600,
        {
            "first_name": _one_of(_FIRST.upper()),
            "last_name": _one_of(_LAST.upper()),
            "email": _email("sakilacustomer.example.org"),
            "activebool": _one_of("t f"),
            "create_date": _DATE,
        },
    ),
    "address": (
        600,
        {
            "address": _street,
            "district": _one_of(_CITIES, "|"),
            "postal_code": _digits(5, 5),
            "phone": _digits(11, 12),
        },
    ),
    "staff": (
        20,
        {"email": _email("sakilastaff.example.com"), "password": _sha1, "picture": _bytea},
    ),
    "rental": (
        4000,
        {
            "rental_date": _TIME_WITH_ZONE,
            "inventory_id": _below(4581),
            "rental_period": lambda random, row: (
                f'["2022-05-{random.randint(10, 30)} 22:53:30+00","2022-06-02 22:04:30+00")'
            ),
        },
    ),
    "payment": (
        4000,
        {"payment_id": _serial, "amount": _money(12), "payment_date": _TIME_WITH_ZONE},
    ),
}

_CHINOOK = {
    "track": (
        3000,
        {
            "name": _title,
            "composer": lambda random, row: ", ".join(
                _full_name(random, row) for _ in range(random.randint(1, 3))
            ),
            "milliseconds": _below(5_286_953, 1071),
            "bytes": _below(1_059_546_140, 38_747),
            "unit_price": _one_of("0.99 1.99"),
        },
    ),
    "customer": (
        300,
        {
            "name": _full_name,
            "company": _one_of("Embraer S.A.|Google Inc.|JetBrains s.r.o.|Riotur|Telus", "|"),
            "address": _street,
            "city": _one_of(_CITIES, "|"),
            "postal_code": _one_of(
                "12227-000|H2G 1A7|T5K 2N1|98052-8300|EC1V 9HU|02-637|0171", "|"
            ),
            "phone": _international_phone,
            "fax": _international_phone,
            "email": _email("example.com.br"),
        },
    ),
    "employee": (
        20,
        {
            "title": _one_of("General Manager|Sales Support Agent|IT Staff", "|"),
            "birth_date": _moment("%Y-%m-%d 00:00:00"),
            "phone": _international_phone,
            "fax": _international_phone,
            "email": _email("chinookcorp.example.com"),
        },
    ),
    "invoice": (
        2000,
        {
            "invoice_date": _moment("%Y-%m-%d 00:00:00"),
            "billing_address": _street,
            "total": _money(26),
        },
    ),
}

_SAMPLES: dict[str, dict[str, tuple[int, dict[str, Maker]]]] = {
    "pgbench": _PGBENCH,
    "tpch": _TPCH,
    "pagila": _PAGILA,
    "chinook": _CHINOOK,
}


# --- ids


def _uuid4(random: Random, row: int) -> str:
    return str(uuid.UUID(int=random.getrandbits(128), version=4))


def _ean13(random: Random, row: int) -> str:
    digits = "".join(random.choices("0123456789", k=12))
    total = sum(int(digit) * (1 + 2 * (place % 2)) for place, digit in enumerate(digits))
    return f"{digits}{-total % 10}"


def _base64(random: Random, row: int) -> str:
    return base64.b64encode(random.randbytes(random.randint(16, 96))).decode()


def _sha256(random: Random, row: int) -> str:
    return hashlib.sha256(random.randbytes(8)).hexdigest()


def _json(random: Random, row: int) -> str:
    return (
        f'{{"id": {row}, "ref": "{_uuid4(random, row)}", "price": {random.random() * 1000:.2f}, '
        f'"at": "2026-10-{random.randint(1, 28):02d}T12:{random.randint(0, 59):02d}:00Z", '
        f'"tags": ["{random.choice(_NOUNS)}", "{random.choice(_VERBS)}"]}}'
    )


_IDS: dict[str, Maker] = {
    "bigserial": lambda random, row: str(10_000_000 + row),
    "uuid": _uuid4,
    "uuid_upper": lambda random, row: _uuid4(random, row).upper(),
    "snowflake": lambda random, row: str((1_400_000_000_000 + row * 977 << 22) + row % 4096),
    "epoch_ms": lambda random, row: str(1_759_320_896_123 + row * 7919),
    "epoch_us": lambda random, row: str(1_759_320_896_123_456 + row * 7_919_333),
    "compact_time": _moment("%Y%m%d%H%M%S"),
    "double": lambda random, row: repr(random.random()),
    "large_double": lambda random, row: repr(random.random() * 10_000),
    "coordinates": lambda random, row: (
        f"{random.uniform(-90, 90):.6f} {random.uniform(0, 180):.6f}"
    ),
    "vector": lambda random, row: (
        "[" + ",".join(f"{random.uniform(-1, 1):.7f}" for _ in "abcd") + "]"
    ),
    "ean": _ean13,
    "order": lambda random, row: (
        f"ORD-{random.randint(2020, 2026)}-{random.randint(0, 999999):06d}"
    ),
    "tracking": lambda random, row: f"1Z{random.randrange(36**8):08X}{random.randrange(10**8):08d}",
    "git": _sha1,
    "sha256": _sha256,
    "base64": _base64,
    "lsn": lambda random, row: f"{random.getrandbits(8):X}/{random.getrandbits(32):X}",
    "mac": lambda random, row: random.randbytes(6).hex(":"),
    "version": lambda random, row: ".".join(str(random.randint(0, 30)) for _ in "abc"),
    "interval": lambda random, row: (
        f"{random.randint(0, 99):02d}:{random.randint(0, 59):02d}:07.25"
    ),
    "thousands": lambda random, row: f"{random.randrange(10**9):,}".replace(",", " "),
    "json": _json,
    "sixteen_digits": lambda random, row: str(random.randrange(10**15, 10**16)),
}
