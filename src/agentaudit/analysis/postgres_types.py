"""PostgreSQL's values as Arrow columns, from the text and from the binary format.

A column is typed by its OID, unless one of its values does not fit: Arrow's timestamps know no
infinity and Python's no year 10000, a decimal has 76 digits and no NaN, a list one dimension. Then
the whole column is text, as PostgreSQL writes it, for a value that is shown wrongly is worse than
one that is not typed. Types that have no form in Arrow are text in either format; what has no text
that is known (see `protocols.postgres_values`) stays bytes.

Formats: `src/backend/utils/adt/*.c`, the `…out` and `…send` functions; OIDs: `pg_type.dat`.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import pyarrow as pa

from agentaudit.protocols.postgres_messages import Column
from agentaudit.protocols.postgres_values import (
    ARRAYS,
    DELIMITERS,
    NUMERIC,
    TEXTS,
    UNWRITTEN,
    Writer,
    numeric,
)

Value = bytes | None

_MAX_DIGITS: Final = 76  # of Arrow's decimal256
_MAX_NUMERIC: Final = 2 * _MAX_DIGITS + 8  # in the groups of four that it is sent in
_MOST_TEXT: Final = 64 << 20
"""How long texts of a column may get beyond eight times its bytes."""
_FIRST_OF_USERS: Final = 16_384  # FirstNormalObjectId, src/include/access/transam.h
_EPOCH: Final = date(2000, 1, 1)
_DAYS_TO_EPOCH: Final = _EPOCH.toordinal()
_DAY_US: Final = 86_400_000_000


class _Misfit(ValueError):
    """A value that its column's Arrow type cannot hold."""


UNFIT: Final = (*UNWRITTEN, InvalidOperation, pa.ArrowException)
"""What is raised for values that an Arrow type does not hold."""


@dataclass(frozen=True, slots=True)
class _Type:
    """A type that has a form of its own in Arrow, and how its two formats are read."""

    name: str
    arrow: pa.DataType
    from_text: Callable[[str], Any]
    from_binary: Callable[[bytes], Any]


def field_of(column: Column, arrow: pa.DataType) -> pa.Field:
    """Return the Arrow field of a column; its metadata says what PostgreSQL said of it."""
    metadata = {"postgres.oid": str(column.type)}
    name = type_name(column)
    if name:
        metadata["postgres.type"] = name
    if column.table:
        metadata["postgres.table"] = str(column.table)
        metadata["postgres.column"] = str(column.number)
    return pa.field(column.name, arrow, metadata=metadata)


def type_name(column: Column) -> str:
    """Return PostgreSQL's name of the column's type, empty where the OID is not a built-in one."""
    element = ARRAYS.get(column.type)
    if element is not None:
        return f"{_name(element)}[]"
    return _name(column.type)


def _name(oid: int) -> str:
    known = _TYPES.get(oid)
    return known.name if known else _NAMES.get(oid, "")


def array_of(column: Column, values: Sequence[Value], codec: str = "utf-8") -> pa.Array:
    """Return the values of one column as an Arrow array, typed where every one of them fits.

    `codec` is Python's name of the encoding that the client had asked for.
    """
    try:
        return _typed(column, values, _expected_type(column), codec)
    except UNFIT:
        return _untyped(column, values, codec)


def array_as(
    column: Column, values: Sequence[Value], arrow: pa.DataType, codec: str = "utf-8"
) -> pa.Array:
    """Return the values as this type, which `array_of` or `common_type` has said of them."""
    if arrow == pa.binary() and _expected_type(column) != arrow:
        return pa.array(values, arrow)
    if arrow == pa.string():
        return _untyped(column, values, codec)
    return _typed(column, values, arrow, codec)


def common_type(column: Column, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type of the column if `array_of` gave these for parts of it."""
    if one == other:
        return one
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        whole = max(one.precision - one.scale, other.precision - other.scale)
        scale = max(one.scale, other.scale)
        return _decimal(whole, scale) if whole + scale <= _MAX_DIGITS else pa.string()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = common_type(column, one.value_type, other.value_type)
        return pa.list_(inner) if pa.types.is_decimal(inner) else pa.string()
    is_raw = pa.binary() in (one, other) and _expected_type(column) != pa.binary()
    return pa.binary() if is_raw else pa.string()


def certain_type(column: Column) -> pa.DataType | None:
    """Return the type that the column has whatever values a server sends, None if there is none."""
    if column.type in _TYPES:
        return _TYPES[column.type].arrow if column.type in _WHOLE else None
    if column.type in ARRAYS or column.type == NUMERIC:
        return None
    return pa.string() if column.format == 0 or column.type in TEXTS else None


def _expected_type(column: Column) -> pa.DataType | None:
    """Return the Arrow type that the column has if all is well, None where values decide."""
    oid = column.type
    element = ARRAYS.get(oid)
    if element is not None:
        inner = _TYPES.get(element)
        return None if element == NUMERIC else pa.list_(inner.arrow if inner else pa.string())
    if oid == NUMERIC:
        return _declared_decimal(column.modifier)
    known = _TYPES.get(oid)
    return known.arrow if known else pa.string()


def _typed(
    column: Column, values: Sequence[Value], arrow: pa.DataType | None, codec: str
) -> pa.Array:
    oid = column.type
    is_binary = column.format == 1
    element = ARRAYS.get(oid)
    if element is not None:
        return _lists(element, values, is_binary, arrow, codec)
    if oid == NUMERIC:
        read = _numeric_binary if is_binary else _numeric_text
        numbers = [None if v is None else read(v) for v in values]
        return pa.array(numbers, arrow or _decimal_for(numbers))
    known = _TYPES.get(oid)
    if known is None:
        return _untyped(column, values, codec)
    if is_binary:
        binary = known.from_binary
        return pa.array([None if v is None else binary(v) for v in values], known.arrow)
    if oid in _INTEGERS:
        # Arrow reads these by itself, many times faster than Python.
        return pa.array(values, pa.binary()).cast(pa.string()).cast(known.arrow)
    text = known.from_text
    return pa.array([None if v is None else text(v.decode()) for v in values], known.arrow)


def _untyped(column: Column, values: Sequence[Value], codec: str) -> pa.Array:
    """Return the values as text, or as bytes where there is no text to be had."""
    if column.format == 0 or column.type in TEXTS:
        texts = [None if v is None else v.decode(codec, "replace") for v in values]
        return pa.array(texts, pa.string())
    try:
        return pa.array(_written(column.type, values, codec), pa.string())
    except UNFIT:
        return pa.array(values, pa.binary())


def _written(oid: int, values: Sequence[Value], codec: str) -> list[str | None]:
    writer = Writer(codec, _MOST_TEXT)
    if oid >= _FIRST_OF_USERS:
        texts = iter(writer.write_of_user([v for v in values if v is not None]))
        return [None if v is None else next(texts) for v in values]
    left = _MOST_TEXT + 8 * sum(len(v) for v in values if v is not None)
    written: list[str | None] = []
    for value in values:
        text = None if value is None else writer.write(oid, value)
        left -= len(text or "")
        if left < 0:
            raise _Misfit("texts that are much longer than their values")
        written.append(text)
    return written


# Numbers.


def _declared_decimal(modifier: int) -> pa.DataType | None:
    """Return the decimal of `numeric(p, s)`, None for plain `numeric` or what Arrow has not."""
    if modifier < 4:
        return None
    precision = (modifier - 4) >> 16 & 0xFFFF
    # The scale has been 11 bits and signed since PostgreSQL 15.
    scale = ((modifier - 4 & 0x7FF) ^ 0x400) - 0x400
    if not 0 <= scale <= precision <= _MAX_DIGITS:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _decimal(whole: int, scale: int) -> pa.DataType:
    precision = max(whole + scale, 1)
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _decimal_for(numbers: Sequence[Decimal | None]) -> pa.DataType:
    scale = whole = 0
    for number in numbers:
        if number is not None:
            _, digits, exponent = number.as_tuple()
            assert isinstance(exponent, int)
            scale = max(scale, -exponent)
            whole = max(whole, len(digits) + exponent)
    if whole + scale > _MAX_DIGITS:
        raise _Misfit("numeric of too many digits")
    return _decimal(whole, scale)


def _numeric_text(value: bytes) -> Decimal:
    number = Decimal(value.decode())
    if not number.is_finite():
        raise _Misfit("numeric that is not a number")
    return number


def _numeric_binary(value: bytes) -> Decimal:
    return _numeric_text(numeric(value, _MAX_NUMERIC).encode())


# Dates and times.


def _date_from_days(days: int) -> date:
    ordinal = days + _DAYS_TO_EPOCH
    if not 1 <= ordinal <= date.max.toordinal():
        raise _Misfit("date out of range")
    return date.fromordinal(ordinal)


def _date_binary(value: bytes) -> date:
    return _date_from_days(struct.unpack("!i", value)[0])


def _time_binary(value: bytes) -> time:
    (us,) = struct.unpack("!q", value)
    if not 0 <= us < _DAY_US:
        raise _Misfit("24:00:00")
    return (datetime.combine(_EPOCH, time()) + timedelta(microseconds=us)).time()


def _timestamp_binary(value: bytes) -> datetime:
    (us,) = struct.unpack("!q", value)
    days, rest = divmod(us, _DAY_US)
    midnight = datetime.combine(_date_from_days(days), time())
    return midnight + timedelta(microseconds=rest)


def _timestamptz_binary(value: bytes) -> datetime:
    return _timestamp_binary(value).replace(tzinfo=UTC)


def _naive(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise _Misfit("a zone where none belongs")
    return moment


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise _Misfit("no zone where one belongs")
    return moment.astimezone(UTC)


# The rest.


def _bool_text(text: str) -> bool:
    if text not in ("t", "f"):
        raise _Misfit("bool")
    return text == "t"


def _bool_binary(value: bytes) -> bool:
    if value not in (b"\0", b"\1"):
        raise _Misfit("bool")
    return value == b"\1"


_ESCAPED: Final = re.compile(rb"\\(\\|[0-3][0-7]{2})")


def _bytea_text(text: str) -> bytes:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    # bytea_output = escape
    return _ESCAPED.sub(
        lambda found: b"\\" if found[1] == b"\\" else bytes((int(found[1], 8),)), text.encode()
    )


def _uuid_binary(value: bytes) -> bytes:
    if len(value) != 16:
        raise _Misfit("uuid")
    return value


def _number(code: str) -> Callable[[bytes], Any]:
    layout = struct.Struct(code)
    return lambda value: layout.unpack(value)[0]


_TYPES: Final[dict[int, _Type]] = {
    16: _Type("boolean", pa.bool_(), _bool_text, _bool_binary),
    17: _Type("bytea", pa.binary(), _bytea_text, bytes),
    20: _Type("bigint", pa.int64(), int, _number("!q")),
    21: _Type("smallint", pa.int16(), int, _number("!h")),
    23: _Type("integer", pa.int32(), int, _number("!i")),
    26: _Type("oid", pa.uint32(), int, _number("!I")),
    28: _Type("xid", pa.uint32(), int, _number("!I")),
    29: _Type("cid", pa.uint32(), int, _number("!I")),
    700: _Type("real", pa.float32(), float, _number("!f")),
    701: _Type("double precision", pa.float64(), float, _number("!d")),
    1082: _Type("date", pa.date32(), date.fromisoformat, _date_binary),
    1083: _Type("time without time zone", pa.time64("us"), time.fromisoformat, _time_binary),
    1114: _Type("timestamp without time zone", pa.timestamp("us"), _naive, _timestamp_binary),
    1184: _Type(
        "timestamp with time zone", pa.timestamp("us", tz="UTC"), _aware, _timestamptz_binary
    ),
    2950: _Type("uuid", pa.uuid(), lambda text: uuid.UUID(text).bytes, _uuid_binary),
    5069: _Type("xid8", pa.uint64(), int, _number("!Q")),
}

_INTEGERS: Final = frozenset({20, 21, 23, 26, 28, 29, 5069})
_WHOLE: Final = _INTEGERS | {16, 17, 700, 701, 2950}
"""Types of which Arrow's has every value."""

# Text in Arrow.
_NAMES: Final = {
    18: '"char"',
    19: "name",
    22: "int2vector",
    24: "regproc",
    25: "text",
    27: "tid",
    30: "oidvector",
    114: "json",
    142: "xml",
    194: "pg_node_tree",
    600: "point",
    601: "lseg",
    602: "path",
    603: "box",
    604: "polygon",
    628: "line",
    650: "cidr",
    705: "unknown",
    718: "circle",
    774: "macaddr8",
    790: "money",
    829: "macaddr",
    869: "inet",
    1033: "aclitem",
    1042: "character",
    1043: "character varying",
    1186: "interval",
    1266: "time with time zone",
    1560: "bit",
    1562: "bit varying",
    1700: "numeric",
    1790: "refcursor",
    2202: "regprocedure",
    2203: "regoper",
    2204: "regoperator",
    2205: "regclass",
    2206: "regtype",
    2249: "record",
    2275: "cstring",
    2277: "anyarray",
    2278: "void",
    2970: "txid_snapshot",
    3220: "pg_lsn",
    3614: "tsvector",
    3615: "tsquery",
    3734: "regconfig",
    3769: "regdictionary",
    3802: "jsonb",
    3904: "int4range",
    3906: "numrange",
    3908: "tsrange",
    3910: "tstzrange",
    3912: "daterange",
    3926: "int8range",
    4072: "jsonpath",
    4089: "regnamespace",
    4096: "regrole",
    4191: "regcollation",
    4451: "int4multirange",
    4532: "nummultirange",
    4533: "tsmultirange",
    4534: "tstzmultirange",
    4535: "datemultirange",
    4536: "int8multirange",
    5038: "pg_snapshot",
}


# Arrays of one dimension.


def _lists(
    element: int,
    values: Sequence[Value],
    is_binary: bool,
    arrow: pa.DataType | None,
    codec: str,
) -> pa.Array:
    if is_binary:
        read = _binary_reader(element, codec)
        lists = [
            None if v is None else [None if item is None else read(item) for item in _items(v)]
            for v in values
        ]
    else:
        parse = _text_reader(element)
        split = _Splitter(DELIMITERS.get(element, ","))
        lists = [
            None
            if v is None
            else [None if item is None else parse(item) for item in split(v.decode(codec))]
            for v in values
        ]
    if arrow is None:
        arrow = pa.list_(_decimal_for([item for items in lists if items for item in items]))
    if isinstance(arrow.value_type, pa.UuidType):
        # pa.array does not look for extension types inside lists.
        stored = pa.array(lists, pa.list_(pa.binary(16)))
        return stored.cast(arrow)
    return pa.array(lists, arrow)


def _binary_reader(element: int, codec: str) -> Callable[[bytes], Any]:
    known = _TYPES.get(element)
    if known is not None:
        return known.from_binary
    if element == NUMERIC:
        return _numeric_binary
    writer = Writer(codec, _MOST_TEXT)
    return lambda value: writer.write(element, value)


def _text_reader(element: int) -> Callable[[str], Any]:
    known = _TYPES.get(element)
    if known is not None:
        return known.from_text
    return (lambda text: _numeric_text(text.encode())) if element == NUMERIC else str


def _items(value: bytes) -> list[Value]:
    """Return the elements of a binary array of no or one dimension, with the usual lower bound."""
    dimensions, _, _ = struct.unpack_from("!iiI", value)
    if dimensions == 0:
        return []
    count, lower = struct.unpack_from("!ii", value, 12)
    if dimensions != 1 or lower != 1:
        raise _Misfit("an array that a list cannot be")
    items: list[Value] = []
    at = 20
    for _ in range(count):
        (length,) = struct.unpack_from("!i", value, at)
        at += 4
        if length < 0:
            items.append(None)
        else:
            if length > len(value) - at:
                raise ValueError("array: cut off")
            items.append(value[at : at + length])
            at += length
    return items


_BACKSLASH: Final = re.compile(r"\\(.)", re.DOTALL)


class _Splitter:
    """Gives the elements of `{a,"b",NULL}`; what has dimensions or bounds does not fit."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._item = re.compile(rf'"((?:[^"\\]|\\.)*)"|([^"{delimiter}{{}}\\]+)', re.DOTALL)

    def __call__(self, value: str) -> list[str | None]:
        if value == "{}":
            return []
        if value[:1] != "{" or value[-1:] != "}":
            raise _Misfit("an array that a list cannot be")
        items: list[str | None] = []
        at = 1
        while True:
            found = self._item.match(value, at)
            if found is None:
                raise _Misfit("an array that a list cannot be")
            if found[1] is not None:
                items.append(_BACKSLASH.sub(r"\1", found[1]))
            else:
                items.append(None if found[2] == "NULL" else found[2])
            at = found.end()
            if value[at : at + 1] != self._delimiter:
                break
            at += 1
        if at != len(value) - 1:
            raise _Misfit("an array that a list cannot be")
        return items
