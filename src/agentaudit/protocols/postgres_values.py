"""PostgreSQL's binary values as the text that the server itself writes for them.

Clients choose the format of each parameter and each result column, and what was said must read
the same in both. A type is known by its OID. Those of extensions and users have none that is known
beforehand, so their values are told by what they look like, and only where that leaves no byte
over: text, an array, a row, an hstore. A value of another form has no text here: money, whose
decimals are the server's locale's, or a range over a type of the user's.

How long a text gets is bounded by its writer's `room`: eight bytes of numeric can stand for 131,072
digits, and each level of nested rows doubles the quotes of those within.

Formats: `src/backend/utils/adt/*.c`, the `…send` and `…out` functions; OIDs: `pg_type.dat`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from math import inf, isfinite, isinf, isnan, nextafter, prod
from struct import Struct, error, unpack_from
from typing import Final

UNWRITTEN: Final = (ValueError, OverflowError, error)
"""What is raised for a value that its type does not have, or that has no text here."""

NUMERIC: Final = 1700
RECORD: Final = 2249

_FIRST_OF_USERS: Final = 16_384  # FirstNormalObjectId, src/include/access/transam.h
_MAX_DIMENSIONS: Final = 6  # MAXDIM, src/include/c.h
_MAX_DEPTH: Final = 8

TEXTS: Final = frozenset({18, 19, 25, 114, 142, 194, 705, 1042, 1043, 1790, 2275, 2278})
"""Types whose binary format is their text, in the client's encoding."""

_VERSIONED: Final = frozenset({3802, 4072})  # jsonb, jsonpath: a version, then their text

ARRAYS: Final[Mapping[int, int]] = {
    143: 142, 199: 114, 271: 5069, 629: 628, 651: 650, 719: 718, 775: 774, 791: 790,
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1005: 21, 1006: 22, 1007: 23, 1008: 24, 1009: 25,
    1010: 27, 1011: 28, 1012: 29, 1013: 30, 1014: 1042, 1015: 1043, 1016: 20, 1017: 600,
    1018: 601, 1019: 602, 1020: 603, 1021: 700, 1022: 701, 1027: 604, 1028: 26, 1034: 1033,
    1040: 829, 1041: 869, 1115: 1114, 1182: 1082, 1183: 1083, 1185: 1184, 1187: 1186,
    1231: 1700, 1263: 2275, 1270: 1266, 1561: 1560, 1563: 1562, 2201: 1790, 2207: 2202,
    2208: 2203, 2209: 2204, 2210: 2205, 2211: 2206, 2287: 2249, 2949: 2970, 2951: 2950,
    3221: 3220, 3643: 3614, 3645: 3615, 3735: 3734, 3770: 3769, 3807: 3802, 3905: 3904,
    3907: 3906, 3909: 3908, 3911: 3910, 3913: 3912, 3927: 3926, 4073: 4072, 4090: 4089,
    4097: 4096, 4192: 4191, 5039: 5038, 6150: 4451, 6151: 4532, 6152: 4533, 6153: 4534,
    6155: 4535, 6157: 4536,
}  # fmt: skip
"""The element's OID by the array's."""

DELIMITERS: Final[Mapping[int, str]] = {603: ";"}
"""What stands between the elements of an array, where that is no comma: of boxes."""

_RANGES: Final = {3904: 23, 3906: 1700, 3908: 1114, 3910: 1184, 3912: 1082, 3926: 20}
_MULTIRANGES: Final = {4451: 3904, 4532: 3906, 4533: 3908, 4534: 3910, 4535: 3912, 4536: 3926}
_VECTORS: Final = (22, 30)  # of int2, of oid: arrays from 0 that are written without braces
_ANYARRAY: Final = 2277

_INT16, _INT32, _INT64 = Struct("!h"), Struct("!i"), Struct("!q")
_UINT32, _UINT64 = Struct("!I"), Struct("!Q")
_FLOAT4, _FLOAT8 = Struct("!f"), Struct("!d")
_TID, _TIMETZ, _INTERVAL = Struct("!IH"), Struct("!qi"), Struct("!qii")
_ARRAY_HEAD, _PAIR = Struct("!iiI"), Struct("!ii")


# Numbers.


def _integer(layout: Struct) -> Callable[[bytes], str]:
    unpack = layout.unpack
    return lambda value: str(unpack(value)[0])


# The fewest digits that read back as the same number, and that lie nearer to it than to any other:
# Python's `repr` also takes those that are as near to the next one, which only large ones have.


def _float8(value: bytes) -> str:
    (number,) = _FLOAT8.unpack(value)
    if not isfinite(number):
        return _not_finite(number)
    if abs(number) < 1e15:
        return repr(number).removesuffix(".0")
    below = Fraction(nextafter(number, 0.0))
    return _scientific(_fewest(number, below, nextafter(number, inf * number), range(15, 18)))


def _float4(value: bytes) -> str:
    (number,) = _FLOAT4.unpack(value)
    if not isfinite(number):
        return _not_finite(number)
    if abs(number) < 1 << 24:
        # Six always do, but of the smallest numbers, which have fewer.
        fewest = 1 if abs(number) < 1e-37 else 6
        digits = next(
            n for n in range(fewest, 10) if _FLOAT4.pack(float(f"{number:.{n}g}")) == value
        )
        text = f"{number:.{digits}g}"
        return _scientific(text) if abs(number) >= 1e6 else text
    bits = int.from_bytes(value, "big")
    below, above = (_FLOAT4.unpack((bits + step).to_bytes(4, "big"))[0] for step in (-1, 1))
    return _scientific(_fewest(number, Fraction(below), above, range(6, 10)))


def _fewest(number: float, below: Fraction, above: float, digits: range) -> str:
    """Return `number` with the fewest digits that lie strictly nearer to it than to its neighbours.

    `below` is the neighbour towards zero, `above` the other one, which may be infinite.
    """
    exact = Fraction(number)
    half = (exact - below if isinf(above) else Fraction(above) - exact) / 2
    nearest = sorted(((exact + below) / 2, exact + half))
    for n in digits:
        text = f"{number:.{n}g}"
        if nearest[0] < Fraction(text) < nearest[1]:
            return text
    return f"{number:.{digits[-1]}g}"


def _not_finite(number: float) -> str:
    if isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _scientific(text: str) -> str:
    mantissa, _, exponent = f"{Decimal(text).normalize():e}".partition("e")
    return f"{mantissa}e+{int(exponent):02d}"


_NUMERIC_HEAD: Final = Struct("!HhHH")
_NUMERIC_NEGATIVE: Final = 0x4000
_NUMERIC_SPECIAL: Final = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def numeric(value: bytes, room: int = 1 << 20) -> str:
    """Return a binary numeric as text: groups of four digits, the first of weight `weight`."""
    count, weight, sign, scale = _NUMERIC_HEAD.unpack_from(value)
    if sign in _NUMERIC_SPECIAL:
        return _NUMERIC_SPECIAL[sign]
    if sign not in (0, _NUMERIC_NEGATIVE) or len(value) != 8 + 2 * count:
        raise ValueError("numeric: malformed")
    if 4 * abs(weight) + scale > room:
        raise ValueError("numeric: longer than there is room for")
    groups = unpack_from(f"!{count}H", value, 8)
    if groups and max(groups) > 9999:
        raise ValueError("numeric: malformed")
    digits = "%04d" * count % groups
    point = 4 * (weight + 1)
    if point < 0:
        digits, point = "0" * -point + digits, 0
    digits = digits.ljust(point + scale, "0")
    whole = digits[:point].lstrip("0") or "0"
    fraction = digits[point : point + scale]
    minus = "-" if sign else ""
    return f"{minus}{whole}.{fraction}" if scale else f"{minus}{whole}"


# Dates and times.

_EPOCH: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - of both kinds of time stamps
_EPOCH_DAYS: Final = _EPOCH.toordinal()
_CYCLE_DAYS: Final = 146_097  # of 400 Gregorian years
_DAY_US: Final = 86_400_000_000
_FOREVER_DAYS: Final = {0x7FFFFFFF: "infinity", -0x80000000: "-infinity"}
_FOREVER_US: Final = {0x7FFFFFFFFFFFFFFF: "infinity", -0x8000000000000000: "-infinity"}


def _day(days: int) -> tuple[str, str]:
    """Return a day of any year as ISO text, and ` BC` where its year counts backwards."""
    cycles, ordinal = divmod(days + _EPOCH_DAYS - 1, _CYCLE_DAYS)
    day = date.fromordinal(ordinal + 1)
    year = day.year + 400 * cycles
    shown, era = (year, "") if year > 0 else (1 - year, " BC")
    return f"{shown:04d}-{day.month:02d}-{day.day:02d}", era


def _date(value: bytes) -> str:
    (days,) = _INT32.unpack(value)
    return _FOREVER_DAYS.get(days) or "".join(_day(days))


def _clock(us: int) -> str:
    seconds, fraction = divmod(us, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def _time(value: bytes) -> str:
    (us,) = _INT64.unpack(value)
    if not 0 <= us <= _DAY_US:
        raise ValueError("time: out of range")
    return _clock(us)


def _timetz(value: bytes) -> str:
    us, west = _TIMETZ.unpack(value)
    if not 0 <= us <= _DAY_US:
        raise ValueError("time: out of range")
    minutes, second = divmod(abs(west), 60)
    hour, minute = divmod(minutes, 60)
    zone = f"{'-' if west > 0 else '+'}{hour:02d}"
    if minute or second:
        zone += f":{minute:02d}"
    return _clock(us) + (f"{zone}:{second:02d}" if second else zone)


def _moment(value: bytes, zone: str) -> str:
    (us,) = _INT64.unpack(value)
    try:
        text = (_EPOCH + timedelta(microseconds=us)).isoformat(" ")
    except OverflowError:
        pass  # one of Python's years it is mostly, and that is four times as fast
    else:
        return (text.rstrip("0") if len(text) > 19 else text) + zone
    if us in _FOREVER_US:
        return _FOREVER_US[us]
    days, rest = divmod(us, _DAY_US)
    text, era = _day(days)
    return f"{text} {_clock(rest)}{zone}{era}"


def _interval(value: bytes) -> str:
    """Return an interval as `IntervalStyle = postgres` writes it."""
    us, days, months = _INTERVAL.unpack(value)
    # Since PostgreSQL 17.
    if (
        us in _FOREVER_US
        and _FOREVER_DAYS.get(days) == _FOREVER_DAYS.get(months) == _FOREVER_US[us]
    ):
        return _FOREVER_US[us]
    years = abs(months) // 12 * (1 if months > 0 else -1)
    parts: list[str] = []
    # Behind a negative part a positive one shows its sign (EncodeInterval).
    plus = ""
    for count, unit in ((years, "year"), (months - 12 * years, "mon"), (days, "day")):
        if count:
            parts.append(f"{plus if count > 0 else ''}{count} {unit}{'s' * (count != 1)}")
            plus = "+" if count < 0 else ""
    if us or not parts:
        parts.append(("-" if us < 0 else plus) + _clock(abs(us)))
    return " ".join(parts)


# The rest of what has a length that its type gives.


def _bool(value: bytes) -> str:
    if value not in (b"\0", b"\1"):
        raise ValueError("bool: malformed")
    return "t" if value == b"\1" else "f"


def _tid(value: bytes) -> str:
    block, offset = _TID.unpack(value)
    return f"({block},{offset})"


def _lsn(value: bytes) -> str:
    high, low = divmod(_UINT64.unpack(value)[0], 1 << 32)
    return f"{high:X}/{low:X}"


def _mac(length: int) -> Callable[[bytes], str]:
    def write(value: bytes) -> str:
        if len(value) != length:
            raise ValueError("macaddr: malformed")
        return value.hex(":")

    return write


def _network(value: bytes) -> str:
    """Return an inet or a cidr; only the latter shows the length of a whole address."""
    if len(value) not in (8, 20) or value[3] != len(value) - 4 or value[0] != 2 + (value[3] == 16):
        raise ValueError("inet: malformed")
    bits, is_cidr, address = value[1], value[2], value[4:]
    text = str(IPv4Address(address)) if len(address) == 4 else _ipv6(address)
    if is_cidr or bits != 8 * len(address):
        text += f"/{bits}"
    return text


def _ipv6(address: bytes) -> str:
    # As inet_net_ntop.c has it: an IPv4 address within is shown as one.
    for prefix, shown in ((bytes(12), "::"), (bytes(10) + b"\xff\xff", "::ffff:")):
        if address.startswith(prefix) and (address[12:14] != b"\0\0" or shown != "::"):
            return shown + str(IPv4Address(address[12:]))
    return str(IPv6Address(address))


def _numbers(value: bytes, at: int, count: int) -> list[str]:
    if len(value) != at + 8 * count:
        raise ValueError("geometry: malformed")
    return [_float8(value[n : n + 8]) for n in range(at, len(value), 8)]


def _points(value: bytes, at: int, count: int) -> str:
    numbers = _numbers(value, at, 2 * count)
    return ",".join(f"({x},{y})" for x, y in zip(numbers[::2], numbers[1::2], strict=True))


def _line(value: bytes) -> str:
    return "{" + ",".join(_numbers(value, 0, 3)) + "}"


def _circle(value: bytes) -> str:
    x, y, radius = _numbers(value, 0, 3)
    return f"<({x},{y}),{radius}>"


def _path(value: bytes) -> str:
    points = _points(value, 5, _INT32.unpack_from(value, 1)[0])
    return f"({points})" if value[0] else f"[{points}]"


def _polygon(value: bytes) -> str:
    return f"({_points(value, 4, _INT32.unpack_from(value)[0])})"


def _snapshot(value: bytes) -> str:
    count, low, high = unpack_from("!iqq", value)
    if count < 0 or len(value) != 20 + 8 * count:
        raise ValueError("pg_snapshot: malformed")
    between = ",".join(map(str, unpack_from(f"!{count}q", value, 20)))
    return f"{low}:{high}:{between}"


def _uuid(value: bytes) -> str:
    if len(value) != 16:
        raise ValueError("uuid: malformed")
    digits = value.hex()
    # A third of the time that UUID needs.
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


PLAIN: Final[Mapping[int, Callable[[bytes], str]]] = {
    16: _bool,
    17: lambda value: "\\x" + value.hex(),
    20: _integer(_INT64),
    21: _integer(_INT16),
    23: _integer(_INT32),
    27: _tid,
    # Of an object known by its name the number is what the format has.
    **dict.fromkeys(
        (24, 26, 28, 29, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191),
        _integer(_UINT32),
    ),
    600: lambda value: _points(value, 0, 1),
    601: lambda value: f"[{_points(value, 0, 2)}]",
    602: _path,
    603: lambda value: _points(value, 0, 2),
    604: _polygon,
    628: _line,
    650: _network,
    700: _float4,
    701: _float8,
    718: _circle,
    774: _mac(8),
    829: _mac(6),
    869: _network,
    1082: _date,
    1083: _time,
    1114: lambda value: _moment(value, ""),
    1184: lambda value: _moment(value, "+00"),
    1186: _interval,
    1266: _timetz,
    2950: _uuid,
    2970: _snapshot,
    3220: _lsn,
    5038: _snapshot,
    5069: _integer(_UINT64),
}
"""How to write a value of a type, raising one of `UNWRITTEN`.

Of these types no text is longer than four bytes a byte of the value, and 16 more."""


# What holds other values, or can be much longer than its bytes.

_CONTROL: Final = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_IN_ARRAY: Final = re.compile(r'[{}"\\ \t\r\n\v\f]')
_IN_ROW: Final = re.compile(r'[(),"\\ \t\r\n\v\f]')
_IN_RANGE: Final = re.compile(r'[()\[\],"\\ \t\r\n\v\f]')
_EMPTY, _LOWER_IN, _UPPER_IN, _NO_LOWER, _NO_UPPER = 0x01, 0x02, 0x04, 0x28, 0x50


class Writer:
    """Writes values of one column, or one parameter: in `codec`, each within `room` characters."""

    def __init__(self, codec: str = "utf-8", room: int = 1 << 30) -> None:
        self._codec = codec
        self._room = room

    def write(self, oid: int, value: bytes) -> str:
        """Return a binary value of the type `oid` as text.

        Raises:
            ValueError, OverflowError, struct.error: see `UNWRITTEN`.
        """
        return self._write(oid, value, 0)

    def _write(self, oid: int, value: bytes, depth: int) -> str:
        plain = PLAIN.get(oid)
        if plain is not None:
            return plain(value)
        if oid in TEXTS:
            return value.decode(self._codec)
        if depth > _MAX_DEPTH:
            raise ValueError("values within values: deeper than anybody reads")
        return self._within(self._growing(oid, value, depth))

    def _within(self, text: str) -> str:
        if len(text) > self._room:
            raise ValueError("longer than there is room for")
        return text

    def _growing(self, oid: int, value: bytes, depth: int) -> str:
        if oid == NUMERIC:
            return numeric(value, self._room)
        if oid in _VERSIONED:
            if value[:1] != b"\1":
                raise ValueError("json: of an unknown version")
            return value[1:].decode(self._codec)
        if oid in ARRAYS or oid == _ANYARRAY:
            return self._array(value, depth)
        if oid in _VECTORS:
            return self._array(value, depth)[1:-1].partition("{")[2].replace(",", " ")
        if oid in _RANGES:
            return self._range(_RANGES[oid], value, depth)
        if oid in _MULTIRANGES:
            return self._multirange(_RANGES[_MULTIRANGES[oid]], value, depth)
        if oid == RECORD:
            return self._row(value, depth)
        if oid in (1560, 1562):
            return self._bits(value)
        if oid == 3614:
            return self._lexemes(value)
        if oid < _FIRST_OF_USERS:
            raise ValueError(f"type {oid}: not known")
        return self._of_user([value], depth)[0]

    def write_of_user(self, values: Sequence[bytes]) -> list[str]:
        """Return values of one type that only the target's catalogue knows.

        Raises:
            ValueError: they do not all look like one that is known; see the top.
        """
        return self._of_user(values, 0)

    def _of_user(self, values: Sequence[bytes], depth: int) -> list[str]:
        reads = (self._words, self._array, self._row, self._hstore)
        # Four bytes are no more than a number: zero would be a row of nothing.
        for read in reads if any(len(value) > 4 for value in values) else reads[:1]:
            try:
                return [self._within(read(value, depth)) for value in values]
            except UNWRITTEN:
                continue
        raise ValueError("of a type that is not known")

    def _words(self, value: bytes, depth: int) -> str:
        text = value.decode(self._codec)
        if _CONTROL.search(text):
            raise ValueError("no text")
        return text

    def _array(self, value: bytes, depth: int) -> str:
        dimensions, flags, element = _ARRAY_HEAD.unpack_from(value)
        if not 0 <= dimensions <= _MAX_DIMENSIONS or flags not in (0, 1) or not element:
            raise ValueError("array: malformed")
        at = 12 + 8 * dimensions
        sizes = [_PAIR.unpack_from(value, 12 + 8 * n) for n in range(dimensions)]
        counts = [count for count, _ in sizes]
        # Before any loop over them: counts are what somebody sent.
        if any(count <= 0 for count in counts) or 4 * prod(counts) > len(value):
            raise ValueError("array: malformed")
        if not dimensions:
            if len(value) != at:
                raise ValueError("array: malformed")
            return "{}"
        delimiter = DELIMITERS.get(element, ",")
        texts = []
        size = 0
        for _ in range(prod(counts)):
            item, at = _next(value, at)
            if item is None:
                text = "NULL"
            else:
                text = _in_array(self._write(element, item, depth + 1), delimiter)
            texts.append(text)
            size += len(text)
            if size > self._room:
                raise ValueError("longer than there is room for")
        if at != len(value):
            raise ValueError("array: malformed")
        for count in reversed(counts):
            texts = [
                "{" + delimiter.join(texts[n : n + count]) + "}"
                for n in range(0, len(texts), count)
            ]
        if all(lower == 1 for _, lower in sizes):
            return texts[0]
        return "".join(f"[{lower}:{lower + count - 1}]" for count, lower in sizes) + "=" + texts[0]

    def _row(self, value: bytes, depth: int) -> str:
        (count,) = _INT32.unpack_from(value)
        if not 0 <= 8 * count <= len(value):
            raise ValueError("record: malformed")
        at = 4
        texts = []
        size = 0
        for _ in range(count):
            (oid,) = _UINT32.unpack_from(value, at)
            item, at = _next(value, at + 4)
            text = "" if item is None else self._write(oid, item, depth + 1)
            if item is not None and (not text or _IN_ROW.search(text)):
                text = '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'
            texts.append(text)
            size += len(text)
            if size > self._room:
                raise ValueError("longer than there is room for")
        if at != len(value):
            raise ValueError("record: malformed")
        return "(" + ",".join(texts) + ")"

    def _hstore(self, value: bytes, depth: int) -> str:
        (count,) = _INT32.unpack_from(value)
        if not 0 <= 8 * count <= len(value):
            raise ValueError("hstore: malformed")
        at = 4
        pairs = []
        for _ in range(count):
            key, at = _next(value, at)
            item, at = _next(value, at)
            if key is None:
                raise ValueError("hstore: malformed")
            shown = "NULL" if item is None else self._in_hstore(item)
            pairs.append(f"{self._in_hstore(key)}=>{shown}")
        if at != len(value):
            raise ValueError("hstore: malformed")
        return ", ".join(pairs)

    def _in_hstore(self, value: bytes) -> str:
        text = value.decode(self._codec)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def _range(self, of: int, value: bytes, depth: int) -> str:
        flags = value[0] if value else 0
        at = 1
        if flags & _EMPTY:
            if len(value) != 1:
                raise ValueError("range: malformed")
            return "empty"
        bounds = []
        for unbounded in (_NO_LOWER, _NO_UPPER):
            text = ""
            if not flags & unbounded:
                item, at = _next(value, at)
                if item is None:
                    raise ValueError("range: malformed")
                text = self._write(of, item, depth + 1)
                if not text or _IN_RANGE.search(text):
                    text = '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'
            bounds.append(text)
        if at != len(value):
            raise ValueError("range: malformed")
        opened = "[" if flags & _LOWER_IN else "("
        closed = "]" if flags & _UPPER_IN else ")"
        return f"{opened}{bounds[0]},{bounds[1]}{closed}"

    def _multirange(self, of: int, value: bytes, depth: int) -> str:
        (count,) = _INT32.unpack_from(value)
        if not 0 <= 4 * count <= len(value):
            raise ValueError("multirange: malformed")
        at = 4
        texts = []
        for _ in range(count):
            item, at = _next(value, at)
            if item is None:
                raise ValueError("multirange: malformed")
            texts.append(self._within(self._range(of, item, depth + 1)))
        if at != len(value):
            raise ValueError("multirange: malformed")
        return "{" + ",".join(texts) + "}"

    def _bits(self, value: bytes) -> str:
        (count,) = _INT32.unpack_from(value)
        if not 0 <= count <= self._room or len(value) != 4 + (count + 7) // 8:
            raise ValueError("bit: malformed")
        return "".join([f"{byte:08b}" for byte in value[4:]])[:count]

    def _lexemes(self, value: bytes) -> str:
        (count,) = _UINT32.unpack_from(value)
        if 3 * count > len(value):
            raise ValueError("tsvector: malformed")
        at = 4
        texts = []
        for _ in range(count):
            end = value.index(0, at)
            word = value[at:end].decode(self._codec).replace("\\", "\\\\").replace("'", "''")
            (places,) = unpack_from("!H", value, end + 1)
            at = end + 3 + 2 * places
            marks = unpack_from(f"!{places}H", value, end + 3)
            shown = ",".join(f"{mark & 0x3FFF}{'DCBA'[mark >> 14].strip('D')}" for mark in marks)
            texts.append(f"'{word}':{shown}" if places else f"'{word}'")
        if at != len(value):
            raise ValueError("tsvector: malformed")
        return " ".join(texts)


def _in_array(text: str, delimiter: str) -> str:
    is_plain = text and delimiter not in text and text.upper() != "NULL"
    if is_plain and not _IN_ARRAY.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _next(value: bytes, at: int) -> tuple[bytes | None, int]:
    """Return what stands behind its length at `at`, None for NULL, and where it ends."""
    (length,) = _INT32.unpack_from(value, at)
    at += 4
    if length == -1:
        return None, at
    if not 0 <= length <= len(value) - at:
        raise ValueError(f"a value of length {length} leaves what holds it")
    return value[at : at + length], at + length
