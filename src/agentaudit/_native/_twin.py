"""The archive's inner loops in Python: slow, and what `_fast` must agree with.

A column is a buffer in the machine's byte order, as Arrow has it: so that it can become an Arrow
array without a copy. `rows` events are `rows` × 72 bytes of fixed fields, in the journal's own
form. Texts and payloads are triples (places, data, elsewhere): `places` has two int64 a row,
offset and length in `data`; length -1 is null, -2 says that `elsewhere[row]` has the bytes.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Any
from zlib import crc32

Buffer = bytes | bytearray | memoryview
Values = tuple[Buffer, Buffer, Mapping[int, bytes]]
Run = tuple[bytes, int, int, int, int, bool, bool, int, int, int]

__all__ = (
    "assign",
    "by_slot",
    "crc32",
    "extend_tree",
    "gather",
    "hash_rows",
    "holders",
    "json_columns",
    "lookup",
    "marked",
    "pack",
    "places_of",
    "scan",
    "unpack",
    "without_numbers",
)

_FIXED = struct.Struct(">QqQ16sIiHHiQQ")
_HEAD = struct.Struct(">16sII")
_U32 = struct.Struct(">I")
_NULL_LENGTH = 0xFFFFFFFF
_MAX_FRAME_BYTES = 64 << 20
_MAX_SUM = 2**63 - 1
_MAX_DATA_BYTES = 2**31 - 1
_NO_STATUS = -(2**31)
_LAST_KIND = 12
_SIDED = frozenset({3, 4, 7, 8, 12})
_OPEN, _CLOSE, _COMMAND_END, _DECISION, _ACCESS = 1, 2, 5, 6, 9
_NULL, _ELSEWHERE = -1, -2
_ABSENT = bytes(32)


def scan(
    data: Buffer, start: int, marker: bytes, first_event_no: int, most: int
) -> tuple[int, int, int, bytearray, bytearray, bytearray, bytearray, list[tuple[int, int, int]]]:
    """Return the whole frames of a journal from `start` on, `most` at most.

    They are (rows, stop, verdict, fixed fields, places of texts, places of payloads, where each
    frame ends as int64, extras as (row, offset, length)). `verdict` says why it ended at `stop`:
    0 no whole valid frame there, 1 enough, 2 an event number out of turn, 3 a frame whose CRC is
    right and whose lengths are wrong.
    """
    if len(marker) != 16 or not 0 <= start <= len(data):
        raise ValueError("scan")
    view = memoryview(data)
    fixed, at, rows, verdict = bytearray(), start, 0, 0
    places = (array("q"), array("q"))
    ends, extras = array("q"), []
    while True:
        if rows == most:
            verdict = 1
            break
        if len(view) - at < _HEAD.size:
            break
        found, length, checksum = _HEAD.unpack_from(view, at)
        begin = at + _HEAD.size
        end = begin + length
        if found != marker or not _FIXED.size + 12 <= length <= _MAX_FRAME_BYTES:
            break
        if end > len(view) or crc32(view[begin:end]) != checksum:
            break
        if int.from_bytes(view[begin : begin + 8]) != first_event_no + rows:
            verdict = 2
            break
        parts = _parts(view, begin + _FIXED.size, end)
        if parts is None:
            verdict = 3
            break
        fixed += view[begin : begin + _FIXED.size]
        places[0].extend(parts[0])
        places[1].extend(parts[1])
        ends.append(end)
        if parts[2][1]:
            extras.append((rows, *parts[2]))
        rows += 1
        at = end
    texts, payloads, stops = (bytearray(a.tobytes()) for a in (*places, ends))
    return rows, at, verdict, fixed, texts, payloads, stops, extras


def _parts(view: memoryview, at: int, end: int) -> list[tuple[int, int]] | None:
    """Return the places of text, payload and extra, or None where the lengths are wrong."""
    parts = []
    for number in range(3):
        if end - at < 4:
            return None
        (length,) = _U32.unpack_from(view, at)
        at += 4
        if length == _NULL_LENGTH and number < 2:
            parts.append((at, _NULL))
        elif length > end - at:
            return None
        else:
            parts.append((at, length))
            at += length
    return parts if at == end else None


def pack(
    rows: int,
    event_no: Buffer,
    observed_us: Buffer,
    mono_ns: Buffer,
    session_id: Buffer,
    seq: Buffer,
    command_no: Buffer,
    kind: Buffer,
    flags: Buffer,
    status: Buffer,
    orig_len: Buffer,
    stored_len: Buffer,
) -> bytearray:
    """Return the fixed fields of `rows` events from their columns, int64 or int32.

    Raises:
        ValueError: columns of another length, or a value that its field does not hold.
    """
    longs = [memoryview(column) for column in (event_no, observed_us, mono_ns)]
    lengths = [memoryview(column) for column in (orig_len, stored_len)]
    ints = [memoryview(column) for column in (seq, command_no, kind, flags, status)]
    if len(session_id) != 16 * rows or any(len(c) != rows for c in (*longs, *lengths, *ints)):
        raise ValueError("pack")
    ids = (bytes(session_id[16 * row : 16 * row + 16]) for row in range(rows))
    fixed = bytearray()
    for row, fields in enumerate(zip(*longs, ids, *ints, *lengths, strict=True)):
        try:
            fixed += _FIXED.pack(*fields)
        except struct.error:
            raise ValueError(f"event in row {row}: a field out of its range") from None
    return fixed


def unpack(fixed: Buffer) -> tuple[bytearray, ...]:
    """Return the columns of fixed fields.

    event_no, observed_us, mono_ns, orig_len, stored_len as int64; session ids; seq, command_no,
    kind minus 1, side (1: target), status, flags as int32; and bitmaps of the rows that have a
    side and of those that have a status.

    Raises:
        ValueError: a kind that there is not, or a number that no column holds.
    """
    rows = len(fixed) // _FIXED.size
    longs = [array("q") for _ in range(5)]
    ints = [array("i") for _ in range(6)]
    ids = bytearray()
    sided, known = bytearray((rows + 7) // 8), bytearray((rows + 7) // 8)
    for row, fields in enumerate(_FIXED.iter_unpack(fixed)):
        event_no, observed_us, mono_ns, session_id, seq, command_no, kind = fields[:7]
        flags, status, orig_len, stored_len = fields[7:]
        wide = event_no | mono_ns | orig_len | stored_len
        if not 1 <= kind <= _LAST_KIND or wide >> 63 or seq >> 31:
            raise ValueError(f"event in row {row}: a field out of its range")
        for column, long in zip(
            longs, (event_no, observed_us, mono_ns, orig_len, stored_len), strict=True
        ):
            column.append(long)
        for column, value in zip(
            ints, (seq, command_no, kind - 1, flags & 1, status, flags), strict=True
        ):
            column.append(value)
        ids += session_id
        sided[row >> 3] |= (kind in _SIDED) << (row & 7)
        known[row >> 3] |= (status != _NO_STATUS) << (row & 7)
    columns = [bytearray(column.tobytes()) for column in (*longs, *ints)]
    return (*columns[:5], ids, *columns[5:], sided, known)


def assign(fixed: Buffer) -> tuple[bytearray, list[Run], list[int], list[int], int]:
    """Return which session each event is of, as int32 slots, and what there is of each session.

    A slot's run is (session id, first row, last row, rows, first seq, whether it begins with a
    session_open, whether it ends with a session_close, ended commands, bytes in, bytes out). Then
    come the rows of kind command_end, those of kinds decision and access, and the first row whose
    seq does not follow its session's one before (-1: none).

    Raises:
        ValueError: the bytes of a session are beyond int64.
    """
    slots = array("i")
    runs: list[list[Any]] = []
    ends, others = [], []
    broken = -1
    current: dict[bytes, int] = {}
    for row, fields in enumerate(_FIXED.iter_unpack(fixed)):
        session_id, seq, kind, flags, length = fields[3], fields[4], *fields[6:8], fields[9]
        slot = None if kind == _OPEN else current.get(session_id)
        if slot is None:
            slot = current[session_id] = len(runs)
            runs.append([session_id, row, row, 0, seq, kind == _OPEN, False, 0, 0, 0])
        run = runs[slot]
        if broken < 0 and seq != run[4] + run[3]:
            broken = row
        slots.append(slot)
        run[2] = row
        run[3] += 1
        if kind in _SIDED:
            run[9 if flags & 1 else 8] += length
            if max(run[8:]) > _MAX_SUM:
                raise ValueError("bytes of a session beyond int64")
        elif kind == _COMMAND_END:
            run[7] += 1
            ends.append(row)
        elif kind in (_DECISION, _ACCESS):
            others.append(row)
        elif kind == _CLOSE:
            run[6] = True
            del current[session_id]
    made: list[Any] = [tuple(run) for run in runs]
    return bytearray(slots.tobytes()), made, ends, others, broken


def _value(values: Values, row: int) -> bytes | None:
    places, data, elsewhere = values
    at, length = struct.unpack_from("=qq", places, 16 * row)
    if length == _ELSEWHERE:
        return elsewhere[row]
    if length < 0:
        return None
    if not 0 <= at <= len(data) - length:
        raise ValueError(f"event in row {row}: lies outside its buffer")
    return bytes(data[at : at + length])


def hash_rows(
    fixed: Buffer,
    texts: Values,
    payloads: Values,
    slots: Buffer,
    keys: Buffer,
    spans: Mapping[int, bytes],
    given: Buffer | None,
    given_data: Buffer | None,
) -> tuple[bytearray, bytearray]:
    """Return the leaf hash and the payload commitment of each event, 32 bytes each.

    `keys` has 96 bytes a slot: K_m, K_t, K_p. `spans` has the spans' digest of the rows with any.
    `given` has a byte a row: 1 says that its 32 bytes of `given_data` are the payload's
    commitment, 2 that the first 16 of them are its salt, 0 that neither is known.
    """
    rows = len(fixed) // _FIXED.size
    slot_of = memoryview(slots).cast("B").cast("i")
    if len(slot_of) != rows or len(texts[0]) != 16 * rows or len(payloads[0]) != 16 * rows:
        raise ValueError("hash_rows")
    leaves, commits = bytearray(), bytearray()
    for row, slot in enumerate(slot_of):
        if not 0 <= slot < len(keys) // 96:
            raise ValueError("hash_rows")
        key = bytes(keys[96 * slot : 96 * slot + 96])
        fields = bytes(fixed[row * _FIXED.size : (row + 1) * _FIXED.size])
        seq = bytes(4) + fields[40:44]
        text = _value(texts, row)
        how = given[row] if given is not None else 0
        what = bytes(given_data[32 * row : 32 * row + 32]) if given_data is not None else b""
        if how == 1:
            commit = what
        else:
            salt = what[:16] if how == 2 else _salt(key[64:], seq)
            commit = _commit(b"AA1p", salt, _value(payloads, row))
        leaf = b"\0AA1\0" + fields + _salt(key[:32], seq)
        leaf += _commit(b"AA1t", _salt(key[32:64], seq), text) + commit
        leaves += sha256(leaf + (spans.get(row) or _ABSENT)).digest()
        commits += commit
    return leaves, commits


def _salt(key: bytes, seq: bytes) -> bytes:
    return sha256(b"AA1salt" + key + seq).digest()[:16]


def _commit(tag: bytes, salt: bytes, value: bytes | None) -> bytes:
    return _ABSENT if value is None else sha256(tag + salt + value).digest()


def by_slot(leaves: Buffer, slots: Buffer, counts: Sequence[int]) -> bytearray:
    """Return the leaf hashes with those of each slot together; `counts` says how many it has."""
    slot_of = memoryview(slots).cast("B").cast("i")
    groups = [bytearray() for _ in counts]
    if len(leaves) != 32 * len(slot_of) or sum(counts) != len(slot_of):
        raise ValueError("by_slot")
    for row, slot in enumerate(slot_of):
        if not 0 <= slot < len(groups):
            raise ValueError("by_slot")
        groups[slot] += leaves[32 * row : 32 * row + 32]
    if any(len(group) != 32 * count for group, count in zip(groups, counts, strict=True)):
        raise ValueError("by_slot")
    return bytearray(b"".join(groups))


def extend_tree(subtrees: bytes, size: int, leaves: Buffer) -> bytes:
    """Return the roots of the complete subtrees, left to right, of a tree of `size` and `leaves`.

    Source: RFC 6962, section 2.1.
    """
    if len(leaves) % 32 or size >> 60 or len(subtrees) != 32 * size.bit_count():
        raise ValueError("extend_tree")
    stack = [subtrees[at : at + 32] for at in range(0, len(subtrees), 32)]
    for at in range(0, len(leaves), 32):
        node, n = bytes(leaves[at : at + 32]), size
        while n & 1:
            node = sha256(b"\x01" + stack.pop() + node).digest()
            n >>= 1
        stack.append(node)
        size += 1
    return b"".join(stack)


def gather(
    values: Values, rows: int, cap: int, is_text: bool
) -> tuple[bytearray, bytearray, bytearray, bytearray, list[int]]:
    """Return values as an Arrow array's offsets, data and bitmap, each cut to `cap` bytes.

    A text is cut at a character. Then come the whole lengths as int64 (0 for null), and the rows
    that were cut.

    Raises:
        ValueError: more than 2 GiB.
    """
    if len(values[0]) != 16 * rows:
        raise ValueError("places")
    offsets, lengths = array("i", [0]), array("q")
    data, valid = bytearray(), bytearray((rows + 7) // 8)
    longer = []
    for row in range(rows):
        value = _value(values, row)
        lengths.append(len(value or b""))
        if value is not None:
            valid[row >> 3] |= 1 << (row & 7)
            if len(value) > cap:
                longer.append(row)
                end = cap
                while is_text and end > 0 and value[end] & 0xC0 == 0x80:
                    end -= 1
                value = value[:end]
            data += value
        if len(data) > _MAX_DATA_BYTES:
            raise ValueError("a batch beyond 2 GiB")
        offsets.append(len(data))
    return bytearray(offsets.tobytes()), data, valid, bytearray(lengths.tobytes()), longer


def places_of(offsets: memoryview, valid: Buffer | None, first: int, rows: int) -> bytearray:
    """Return the places of an Arrow array's values: `rows` of them, the first its row `first`.

    `offsets` has the int32 offsets of these rows alone, `valid` the array's whole bitmap.
    """
    if len(offsets) != rows + 1 or (valid is not None and len(valid) * 8 < first + rows):
        raise ValueError("places_of")
    places = array("q")
    for row, (begin, end) in enumerate(pairwise(offsets), first):
        if valid is not None and not valid[row >> 3] >> (row & 7) & 1:
            places.extend((begin, _NULL))
        elif end < begin:
            raise ValueError("places_of")
        else:
            places.extend((begin, end - begin))
    return bytearray(places.tobytes())


def lookup(slots: Buffer, table: Buffer) -> bytearray:
    """Return `table`, int32, at each row's slot."""
    slot_of, values = memoryview(slots).cast("B").cast("i"), memoryview(table)
    if any(not 0 <= slot < len(values) for slot in slot_of):
        raise ValueError("lookup")
    return bytearray(array("i", [values[slot] for slot in slot_of]).tobytes())


def json_columns(
    payloads: Values, rows: int, picked: Iterable[int], members: Sequence[tuple[bytes, bytes, bool]]
) -> list[tuple[bytes, bytes, bytes, bytes, bytes]] | None:
    """Return the members of the objects that payloads encode, column by column.

    `members` has (name, form, what a missing member is) in the order of names; a form is `i`
    integer, `s` string or `l` list of strings and nulls, and a missing member is null (True), or
    0, empty or an empty list. A column is (byte a row: not null, values, data, byte an item: not
    null, data of items): values are int64, or int32 offsets into data; data of a list are int32
    offsets of its items.

    None says that a payload is not canonical JSON of just these members, and that it takes a
    whole parser to say what it is. This one always says so.
    """
    return None


# Only what cannot hide a quote, a comment or a string; up to nine digits are always an integer.
_ONLY_NUMBERS = re.compile(r"[A-Za-z0-9_ \t\r\n.,=<>()*+;$/%-]*", re.ASCII)
_NUMBER = re.compile(r"(?<![\w.$])\d{1,9}(?![\w.])", re.ASCII)


def without_numbers(text: str) -> str:
    """Return an SQL text with 1 for every plain number, so that few texts stand for many.

    One that has a quote, a comment or anything else that could hold a number that is none comes
    back as it is.
    """
    if not _ONLY_NUMBERS.fullmatch(text) or "--" in text or "/*" in text:
        return text
    return _NUMBER.sub("1", text)


def holders(data: Buffer, offsets: memoryview, needle: bytes) -> bytearray:
    """Return a byte for each text, 1 where it holds `needle`, which has one byte at least.

    The texts lie in `data` one behind the other; `offsets`, int32, is where each begins, and where
    the last one ends.
    """
    if not needle or not len(offsets) or offsets[0] < 0 or offsets[-1] > len(data):
        raise ValueError("holders")
    found = bytearray(len(offsets) - 1)
    for text, (begin, end) in enumerate(pairwise(offsets)):
        if end < begin:
            raise ValueError("holders")
        found[text] = needle in bytes(data[begin:end])
    return found


def marked(marks: Buffer, codes: memoryview) -> bytearray:
    """Return the places, uint32, of those `codes`, uint32, whose byte of `marks` is not 0."""
    if any(code >= len(marks) for code in codes):
        raise ValueError("marked")
    return bytearray(array("I", [at for at, code in enumerate(codes) if marks[code]]).tobytes())
