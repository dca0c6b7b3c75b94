"""PostgreSQL's values as Arrow columns, from the text and from the binary format.

A column is typed by its OID, unless one of its values does not fit: Arrow's timestamps know no
infinity and Python's no year 10000, a decimal has 76 digits and no NaN, a list one dimension. Then
the whole column is text, as PostgreSQL writes it, for a value that is shown wrongly is worse than
one that is not typed. Types that are not listed stay what they were on the wire, text or bytes.

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
from functools import partial
from math import prod
from typing import Any, Final

import pyarrow as pa

from agentaudit.protocols.postgres_messages import Column

Value = bytes | None

_MAX_DIGITS: Final = 76  # of Arrow's decimal256
_MAX_DIMENSIONS: Final = 6  # MAXDIM, src/include/c.h
_EPOCH: Final = date(2000, 1, 1)
_DAYS_TO_EPOCH: Final = _EPOCH.toordinal()
_CYCLE_DAYS: Final = 146_097  # of 400 Gregorian years
_DAY_US: Final = 86_400_000_000


class _Misfit(ValueError):
    """A value that its column's Arrow type cannot hold."""


_UNFIT: Final = (ValueError, OverflowError, struct.error, InvalidOperation, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class _Type:
    """A type: its name, how Arrow holds it, and its two formats.

    `written` gives the text of a binary value, for columns that have a misfit among them.
    """

    name: str
    arrow: pa.DataType
    from_text: Callable[[str], Any]
    from_binary: Callable[[bytes], Any]
    written: Callable[[bytes], str]


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
    element = _ARRAYS.get(column.type)
    if element is not None:
        return f"{_name(element)}[]"
    return _name(column.type)


def _name(oid: int) -> str:
    known = _TYPES.get(oid)
    return known.name if known else _NAMES.get(oid, "")


def array_of(column: Column, values: Sequence[Value]) -> pa.Array:
    """Return the values of one column as an Arrow array, typed where every one of them fits."""
    arrow = expected_type(column)
    try:
        return _typed(column, values, arrow)
    except _UNFIT:
        return _untyped(column, values)


def array_as(column: Column, values: Sequence[Value], arrow: pa.DataType) -> pa.Array | None:
    """Return the values as exactly this type, None where one of them does not fit."""
    try:
        made = _typed(column, values, arrow)
    except _UNFIT:
        made = None
    if made is None or made.type != arrow:
        made = _untyped(column, values)
    return made if made.type == arrow else None


def expected_type(column: Column) -> pa.DataType | None:
    """Return the Arrow type that the column has if all is well, None where values decide."""
    oid = column.type
    element = _ARRAYS.get(oid)
    if element is not None:
        inner = _TYPES.get(element)
        return None if element == _NUMERIC else pa.list_(inner.arrow if inner else pa.string())
    if oid == _NUMERIC:
        return _declared_decimal(column.modifier)
    known = _TYPES.get(oid)
    if known is not None:
        return known.arrow
    return pa.binary() if column.format == 1 else pa.string()


def _typed(column: Column, values: Sequence[Value], arrow: pa.DataType | None) -> pa.Array:
    oid = column.type
    is_binary = column.format == 1
    element = _ARRAYS.get(oid)
    if element is not None:
        return _lists(element, values, is_binary, arrow)
    if oid == _NUMERIC:
        read = _numeric_binary if is_binary else _numeric_text
        numbers = [None if v is None else read(v) for v in values]
        return pa.array(numbers, arrow or _decimal_for(numbers))
    known = _TYPES.get(oid)
    if known is None:
        return _untyped(column, values)
    if is_binary:
        binary = known.from_binary
        return pa.array([None if v is None else binary(v) for v in values], known.arrow)
    if oid in _INTEGERS:
        # Arrow reads these by itself, many times faster than Python.
        return pa.array(values, pa.binary()).cast(pa.string()).cast(known.arrow)
    text = known.from_text
    return pa.array([None if v is None else text(v.decode()) for v in values], known.arrow)


def _untyped(column: Column, values: Sequence[Value]) -> pa.Array:
    """Return the values as text, or as bytes where there is no text to be had."""
    oid = column.type
    if column.format == 0:
        texts = [None if v is None else v.decode("utf-8", "replace") for v in values]
        return pa.array(texts, pa.string())
    known = _TYPES.get(oid)
    element = _ARRAYS.get(oid)
    write: Callable[[bytes], str]
    if oid == _NUMERIC:
        write = _numeric_written
    elif known is not None:
        write = known.written
    elif element is not None:
        write = partial(_array_written, element)
    else:
        return pa.array(values, pa.binary())
    try:
        return pa.array([None if v is None else write(v) for v in values], pa.string())
    except _UNFIT:
        return pa.array(values, pa.binary())


# Numbers.

_NUMERIC: Final = 1700
_NUMERIC_HEAD: Final = struct.Struct("!HhHH")
_NUMERIC_NEGATIVE: Final = 0x4000
_NUMERIC_SPECIAL: Final = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


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


def _decimal_for(numbers: Sequence[Decimal | None]) -> pa.DataType:
    scale = whole = 0
    for number in numbers:
        if number is not None:
            _, digits, exponent = number.as_tuple()
            assert isinstance(exponent, int)
            scale = max(scale, -exponent)
            whole = max(whole, len(digits) + exponent)
    precision = max(whole + scale, 1)
    if precision > _MAX_DIGITS:
        raise _Misfit("numeric of too many digits")
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _numeric_text(value: bytes) -> Decimal:
    number = Decimal(value.decode())
    if not number.is_finite():
        raise _Misfit("numeric that is not a number")
    return number


def _numeric_binary(value: bytes) -> Decimal:
    return _numeric_text(_numeric_written(value).encode())


def _numeric_written(value: bytes) -> str:
    """Return a binary numeric as text: groups of four digits, the first of weight `weight`."""
    count, weight, sign, scale = _NUMERIC_HEAD.unpack_from(value)
    if sign in _NUMERIC_SPECIAL:
        return _NUMERIC_SPECIAL[sign]
    if sign not in (0, _NUMERIC_NEGATIVE) or len(value) != 8 + 2 * count:
        raise ValueError("numeric: malformed")
    groups = struct.unpack_from(f"!{count}H", value, 8)
    if any(group > 9999 for group in groups):
        raise ValueError("numeric: malformed")
    digits = "".join(f"{group:04d}" for group in groups)
    point = 4 * (weight + 1)
    if point < 0:
        digits, point = "0" * -point + digits, 0
    digits = digits.ljust(point + scale, "0")
    whole = digits[:point].lstrip("0") or "0"
    fraction = digits[point : point + scale]
    minus = "-" if sign else ""
    return f"{minus}{whole}.{fraction}" if scale else f"{minus}{whole}"


# Dates and times.


def _date_from_days(days: int) -> date:
    ordinal = days + _DAYS_TO_EPOCH
    if not 1 <= ordinal <= date.max.toordinal():
        raise _Misfit("date out of range")
    return date.fromordinal(ordinal)


def _date_binary(value: bytes) -> date:
    return _date_from_days(struct.unpack("!i", value)[0])


def _date_written(value: bytes) -> str:
    (days,) = struct.unpack("!i", value)
    if days in (0x7FFFFFFF, -0x80000000):
        return "infinity" if days > 0 else "-infinity"
    text, is_before_christ = _day_written(days)
    return text + " BC" * is_before_christ


def _day_written(days: int) -> tuple[str, bool]:
    """Return a day as ISO text, and whether its year counts backwards; any year."""
    cycles, ordinal = divmod(days + _DAYS_TO_EPOCH - 1, _CYCLE_DAYS)
    day = date.fromordinal(ordinal + 1)
    year = day.year + 400 * cycles
    shown = year if year > 0 else 1 - year
    return f"{shown:04d}-{day.month:02d}-{day.day:02d}", year <= 0


def _time_written(us: int) -> str:
    seconds, fraction = divmod(us, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


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


def _timestamp_written(value: bytes, zone: str = "") -> str:
    (us,) = struct.unpack("!q", value)
    if us in (0x7FFFFFFFFFFFFFFF, -0x8000000000000000):
        return "infinity" if us > 0 else "-infinity"
    days, rest = divmod(us, _DAY_US)
    text, is_before_christ = _day_written(days)
    return f"{text} {_time_written(rest)}{zone}" + " BC" * is_before_christ


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


def _interval_written(value: bytes) -> str:
    """Return a binary interval as `IntervalStyle = postgres` writes it."""
    us, days, months = struct.unpack("!qii", value)
    years = int(months / 12)
    parts: list[str] = []
    # Behind a negative part a positive one shows its sign (EncodeInterval).
    plus = ""
    for count, unit in ((years, "year"), (months - 12 * years, "mon"), (days, "day")):
        if count:
            parts.append(f"{plus if count > 0 else ''}{count} {unit}{'s' * (count != 1)}")
            plus = "+" if count < 0 else ""
    if us or not parts:
        parts.append(("-" if us < 0 else plus) + _time_written(abs(us)))
    return " ".join(parts)


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


def _jsonb_binary(value: bytes) -> str:
    if value[:1] != b"\1":
        raise _Misfit("jsonb of an unknown version")
    return value[1:].decode()


def _uuid_binary(value: bytes) -> bytes:
    if len(value) != 16:
        raise _Misfit("uuid")
    return value


def _number(code: str) -> Callable[[bytes], Any]:
    layout = struct.Struct(code)
    return lambda value: layout.unpack(value)[0]


def _written_number(code: str) -> Callable[[bytes], str]:
    layout = struct.Struct(code)
    return lambda value: str(layout.unpack(value)[0])


def _text(value: bytes) -> str:
    return value.decode()


def _plain(name: str) -> _Type:
    return _Type(name, pa.string(), str, _text, _text)


_TYPES: Final[dict[int, _Type]] = {
    16: _Type(
        "boolean", pa.bool_(), _bool_text, _bool_binary, lambda value: "ft"[_bool_binary(value)]
    ),
    17: _Type("bytea", pa.binary(), _bytea_text, bytes, lambda value: "\\x" + value.hex()),
    18: _plain('"char"'),
    19: _plain("name"),
    20: _Type("bigint", pa.int64(), int, _number("!q"), _written_number("!q")),
    21: _Type("smallint", pa.int16(), int, _number("!h"), _written_number("!h")),
    23: _Type("integer", pa.int32(), int, _number("!i"), _written_number("!i")),
    25: _plain("text"),
    26: _Type("oid", pa.uint32(), int, _number("!I"), _written_number("!I")),
    28: _Type("xid", pa.uint32(), int, _number("!I"), _written_number("!I")),
    114: _plain("json"),
    142: _plain("xml"),
    700: _Type("real", pa.float32(), float, _number("!f"), _written_number("!f")),
    701: _Type("double precision", pa.float64(), float, _number("!d"), _written_number("!d")),
    705: _plain("unknown"),
    1042: _plain("character"),
    1043: _plain("character varying"),
    1082: _Type("date", pa.date32(), date.fromisoformat, _date_binary, _date_written),
    1083: _Type(
        "time without time zone",
        pa.time64("us"),
        time.fromisoformat,
        _time_binary,
        lambda value: _time_written(struct.unpack("!q", value)[0]),
    ),
    1114: _Type(
        "timestamp without time zone",
        pa.timestamp("us"),
        _naive,
        _timestamp_binary,
        _timestamp_written,
    ),
    1184: _Type(
        "timestamp with time zone",
        pa.timestamp("us", tz="UTC"),
        _aware,
        _timestamptz_binary,
        lambda value: _timestamp_written(value, "+00"),
    ),
    1186: _Type("interval", pa.string(), str, _interval_written, _interval_written),
    2950: _Type(
        "uuid",
        pa.uuid(),
        lambda text: uuid.UUID(text).bytes,
        _uuid_binary,
        lambda value: str(uuid.UUID(bytes=value)),
    ),
    3802: _Type("jsonb", pa.string(), str, _jsonb_binary, _jsonb_binary),
}

# Kept as they are, text or bytes, but under their names.
_NAMES: Final = {
    1700: "numeric",
    600: "point",
    650: "cidr",
    774: "macaddr8",
    790: "money",
    829: "macaddr",
    869: "inet",
    1266: "time with time zone",
    1560: "bit",
    1562: "bit varying",
    2205: "regclass",
    2206: "regtype",
    2278: "void",
    3220: "pg_lsn",
    3614: "tsvector",
    3615: "tsquery",
    3904: "int4range",
    3906: "numrange",
    3908: "tsrange",
    3910: "tstzrange",
    3912: "daterange",
    3926: "int8range",
}

_INTEGERS: Final = frozenset({20, 21, 23, 26, 28})

_ARRAYS: Final = {
    143: 142,
    199: 114,
    1000: 16,
    1001: 17,
    1002: 18,
    1003: 19,
    1005: 21,
    1007: 23,
    1009: 25,
    1014: 1042,
    1015: 1043,
    1016: 20,
    1021: 700,
    1022: 701,
    1028: 26,
    1115: 1114,
    1182: 1082,
    1183: 1083,
    1185: 1184,
    1187: 1186,
    1231: 1700,
    2951: 2950,
    3807: 3802,
}


# Arrays of one dimension.


def _lists(
    element: int, values: Sequence[Value], is_binary: bool, arrow: pa.DataType | None
) -> pa.Array:
    known = _TYPES.get(element)
    read: Callable[[bytes], Any]
    if is_binary:
        read = _numeric_binary if known is None else known.from_binary
    elif known is None:
        read = _numeric_text
    else:
        from_text = known.from_text
        read = lambda value: from_text(value.decode())  # noqa: E731
    parts = _binary_items if is_binary else _text_items
    lists = [
        None if v is None else [None if item is None else read(item) for item in parts(v)]
        for v in values
    ]
    if arrow is None:
        arrow = pa.list_(_decimal_for([item for items in lists if items for item in items]))
    if isinstance(arrow.value_type, pa.UuidType):
        # pa.array does not look for extension types inside lists.
        stored = pa.array(lists, pa.list_(pa.binary(16)))
        return stored.cast(arrow)
    return pa.array(lists, arrow)


def _binary_items(value: bytes) -> list[Value]:
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


_ITEM: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^",{}\\]+)', re.DOTALL)
_BACKSLASH: Final = re.compile(rb"\\(.)", re.DOTALL)


def _text_items(value: bytes) -> list[Value]:
    """Return the elements of `{a,"b",NULL}`; what has dimensions or bounds does not fit."""
    if value == b"{}":
        return []
    if value[:1] != b"{" or value[-1:] != b"}":
        raise _Misfit("an array that a list cannot be")
    items: list[Value] = []
    at = 1
    while True:
        found = _ITEM.match(value, at)
        if found is None:
            raise _Misfit("an array that a list cannot be")
        if found[1] is not None:
            items.append(_BACKSLASH.sub(rb"\1", found[1]))
        else:
            items.append(None if found[2] == b"NULL" else found[2])
        at = found.end()
        if value[at : at + 1] != b",":
            break
        at += 1
    if at != len(value) - 1:
        raise _Misfit("an array that a list cannot be")
    return items


def _array_written(element: int, value: bytes) -> str:
    """Return a binary array as text, of any dimensions."""
    dimensions, _, _ = struct.unpack_from("!iiI", value)
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError("array: malformed")
    sizes = [struct.unpack_from("!ii", value, 12 + 8 * n) for n in range(dimensions)]
    # Before any loop over them: counts are what the recorded bytes say.
    if any(count <= 0 for count, _ in sizes) or 4 * prod(c for c, _ in sizes) > len(value):
        raise ValueError("array: malformed")
    at = 12 + 8 * dimensions
    known = _TYPES.get(element)
    written = _numeric_written if known is None else known.written

    def part(level: int) -> str:
        nonlocal at
        items = []
        for _ in range(sizes[level][0]):
            if level + 1 < dimensions:
                items.append(part(level + 1))
                continue
            (length,) = struct.unpack_from("!i", value, at)
            at += 4
            if length < 0:
                items.append("NULL")
                continue
            items.append(_quoted(written(value[at : at + length])))
            at += length
        return "{" + ",".join(items) + "}"

    if not dimensions:
        return "{}"
    bounds = "".join(f"[{lower}:{lower + count - 1}]" for count, lower in sizes)
    return (f"{bounds}=" if any(lower != 1 for _, lower in sizes) else "") + part(0)


def _quoted(text: str) -> str:
    if text and text.upper() != "NULL" and not set(text) & set('{},"\\ \t\r\n\v\f'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
