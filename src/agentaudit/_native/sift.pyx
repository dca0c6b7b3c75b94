# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `sift.py` says in Python, said again in C; the same names, arguments and answers."""

import itertools
import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

AS_NULL = b"\0NULL"
Change = object

cdef const void *NOWHERE = <const void *> 0
cdef object _AS_NULL = AS_NULL

cdef enum:
    NEAR = 256

cdef extern from *:
    """
    #include <stdint.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* What 64 bytes are, a bit each, the first one's lowest. */
    typedef struct {
        uint64_t digits;
        uint64_t parts;  /* may be in a number: those from `(` to `9`, and spaces */
        uint64_t marks;  /* dots and plus signs */
        uint64_t uppers;
    } Kinds;

    #ifdef __SSE2__
    static inline uint64_t among(__m128i bytes, char first, char last)
    {
        /* What is above the range stays more than nothing; what is below it wraps around. */
        __m128i over = _mm_subs_epu8(
            _mm_sub_epi8(bytes, _mm_set1_epi8(first)), _mm_set1_epi8(last - first));
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(over, _mm_setzero_si128()));
    }

    static inline uint64_t equal(__m128i bytes, char sign)
    {
        return (uint64_t)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(sign)));
    }
    #endif

    static Kinds kinds_of(const uint8_t *p)
    {
        Kinds kinds = {0, 0, 0, 0};
    #ifdef __SSE2__
        for (int i = 0; i < 64; i += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(p + i));
            kinds.digits |= among(bytes, '0', '9') << i;
            kinds.parts |= (among(bytes, '(', '9') | equal(bytes, ' ')) << i;
            kinds.marks |= (equal(bytes, '.') | equal(bytes, '+')) << i;
            kinds.uppers |= among(bytes, 'A', 'Z') << i;
        }
    #else
        for (int i = 0; i < 64; i++) {
            kinds.digits |= (uint64_t)(p[i] >= '0' && p[i] <= '9') << i;
            kinds.parts |= (uint64_t)((p[i] >= '(' && p[i] <= '9') || p[i] == ' ') << i;
            kinds.marks |= (uint64_t)(p[i] == '.' || p[i] == '+') << i;
            kinds.uppers |= (uint64_t)(p[i] >= 'A' && p[i] <= 'Z') << i;
        }
    #endif
        return kinds;
    }
    """
    ctypedef struct Kinds:
        uint64_t digits
        uint64_t parts
        uint64_t marks
        uint64_t uppers
    Kinds kinds_of(const uint8_t *p) noexcept
    int __builtin_ctzll(unsigned long long)
    int __builtin_clzll(unsigned long long)

cdef enum:
    # What a byte is.
    DIGIT = 1
    UPPER = 2
    SIGN = 4  # may stand between two digits
    HEX = 8  # a digit too
    COLON = 16
    PLUS = 32
    LOWER_WORD = 64  # and `_`: no pattern for digits alone begins or ends beside it

cdef enum:
    # What a pair of bytes is part of, or may be.
    WORD = 1  # an anchor of three bytes or more, which is found by it
    WHOLE = 2  # an anchor of two
    BEFORE = 4  # one of two begins with its second byte
    COLONS = 8
    LETTERS = 16

cdef uint8_t[256] CLASS
cdef uint8_t[256] LOWER
for _byte in range(256):
    LOWER[_byte] = _byte + 32 if 65 <= _byte <= 90 else _byte
    CLASS[_byte] = 0
for _char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
    CLASS[ord(_char)] |= UPPER
for _char in "0123456789":
    CLASS[ord(_char)] |= DIGIT
for _char in " ./()+-":
    CLASS[ord(_char)] |= SIGN
for _char in "0123456789abcdefABCDEF":
    CLASS[ord(_char)] |= HEX
CLASS[58] |= COLON
CLASS[43] |= PLUS
for _char in "abcdefghijklmnopqrstuvwxyz_":
    CLASS[ord(_char)] |= LOWER_WORD

_COMMON = b" etaoinsrhldcumfpgwybvkxjqz0123456789"
"""Bytes by how often they occur in text, the commonest first; others are rarer."""


cdef inline int32_t _int32(const uint8_t *p) noexcept nogil:
    return <int32_t> (<uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3])


cdef inline void _put32(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xFF
    p[2] = (v >> 8) & 0xFF
    p[3] = v & 0xFF


cdef class Sieve:
    """See `sift.py`.

    One look at each pair of bytes at an even place tells nearly all of them off: whatever is looked
    for has such a pair in it, wherever it begins, and few texts have many of those pairs. An anchor is
    found by two of its pairs that are rare, or that others are found by; a number by bits, one for
    each byte.
    """

    def __cinit__(
        self,
        anchors,
        int bare=0,
        int beside=0,
        int spaced=0,
        int dots=0,
        int colons=0,
        int letters=0,
    ):
        if any(len(anchor) < 2 for anchor in anchors):
            raise ValueError("an anchor has two bytes at least")
        if any(0 < least < 6 for least in (bare, beside, spaced)) or 0 < dots < 3:
            raise ValueError("a number has six digits or three dots at least")
        self._bare = bare
        self._beside = beside
        self._spaced = spaced
        self._short = min(64, bare or 64, spaced + 1 if spaced else 64)
        self._dots = dots
        self._colons = colons
        self._letters = letters
        memset(self._parts, 0, sizeof(self._parts))
        memset(self._list, 0, sizeof(self._list))
        self._note_anchors(anchors)
        cdef int one, two, both
        for one in range(256):
            for two in range(256):
                both = CLASS[one] | CLASS[two]
                if letters and CLASS[one] & CLASS[two] & UPPER:
                    self._parts[_pair(one, two)] |= LETTERS
                if colons and both & COLON:
                    if CLASS[one] & (HEX | COLON) and CLASS[two] & (HEX | COLON):
                        self._parts[_pair(one, two)] |= COLONS

    def _note_anchors(self, anchors):
        cdef int one, pair
        texts = bytearray()
        lists = {}
        chosen = set()
        for anchor in sorted(dict.fromkeys(anchors), key=len):
            if len(anchor) == 2:
                for pair in _spelt(anchor):
                    self._parts[pair] |= WHOLE
                    for one in range(256):
                        self._parts[_pair(one, pair & 0xFF)] |= BEFORE
                continue
            pairs = [anchor[at : at + 2] for at in range(len(anchor) - 1)]
            often = [0.0 if both in chosen else _commonness(both) for both in pairs]
            at = min(range(len(anchor) - 2), key=lambda at: often[at] + often[at + 1])
            chosen.update(pairs[at : at + 2])
            for offset in (at, at + 1):
                for pair in _spelt(pairs[offset]):
                    lists.setdefault(pair, []).append((len(texts), len(anchor), offset))
            texts += anchor
        # A list ends with an entry of length 0. Number 0 is that of pairs that are in no anchor.
        entries = [(0, 0, 0)]
        for pair, those in lists.items():
            self._parts[pair] |= WORD
            self._list[pair] = len(entries)
            entries += [*those, (0, 0, 0)]
        self._texts = bytes(texts)
        self._entries = struct.pack(f"={3 * len(entries)}H", *itertools.chain(*entries))

    cpdef bint may_hold(self, bytes data):
        """See `sift.py`."""
        return self._next(
            <const uint8_t *> PyBytes_AS_STRING(data), 0, PyBytes_GET_SIZE(data)
        ) >= 0

    cpdef list suspects(self, bytes data):
        """See `sift.py`."""
        cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at = 0, begin = -1, end = 0, start
        cdef const void *found
        cdef list told = []
        while True:
            at = self._next(p, at, size)
            if at < 0:
                break
            start = at
            while start > end and p[start - 1]:
                start -= 1
            if begin < 0:
                begin = start
            elif start - end > NEAR:
                told.append((begin, end))
                begin = start
            found = memchr(p + at, 0, size - at)
            end = at = size if found == NOWHERE else <const uint8_t *> found - p
        if begin >= 0:
            told.append((begin, end))
        return told

    cdef Py_ssize_t _next(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept:
        """Return where from `at` on something may be, -1 where nothing is."""
        cdef bint has_numbers = self._bare or self._beside or self._spaced or self._dots
        cdef Ends ends
        cdef Runs runs
        cdef Py_ssize_t stop, number, found
        ends.number = ends.colons = ends.letters = at
        memset(&runs, 0, sizeof(runs))
        while at < size:
            stop = min(at + 64, size)
            number = self._number(p, at, stop, size, &runs, &ends) if has_numbers else -1
            found = self._word(p, at, stop if number < 0 else number, size, &ends)
            if found >= 0:
                return found
            if number >= 0:
                return number
            at = stop
        return -1

    cdef Py_ssize_t _word(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t stop, Py_ssize_t size, Ends *ends
    ) noexcept:
        """Return where from `at` to `stop` all but a number may be, -1 where nothing is."""
        cdef const uint8_t *parts = self._parts
        cdef Py_ssize_t here
        cdef int part
        stop = min(stop, size - 1)
        while at < stop:
            if at + 8 <= stop and not (
                parts[_pair_at(p + at)]
                | parts[_pair_at(p + at + 2)]
                | parts[_pair_at(p + at + 4)]
                | parts[_pair_at(p + at + 6)]
            ):
                at += 8
                continue
            here = min(at + 8, stop)
            while at < here:
                part = parts[_pair_at(p + at)]
                if part:
                    if part & WHOLE:
                        return at
                    if part & BEFORE and at + 2 < size and parts[_pair_at(p + at + 1)] & WHOLE:
                        return at + 1
                    if part & WORD and self._is_anchor(p, at, size):
                        return at
                    if part & COLONS and at + 1 >= ends.colons:
                        ends.colons = self._colons_end(p, at, size, ends.colons)
                        if ends.colons < 0:
                            return at
                    if part & LETTERS and at + 1 >= ends.letters:
                        ends.letters = self._letters_end(p, at, size, ends.letters)
                        if ends.letters < 0:
                            return at
                at += 2
        return -1

    cdef Py_ssize_t _number(
        self,
        const uint8_t *p,
        Py_ssize_t at,
        Py_ssize_t stop,
        Py_ssize_t size,
        Runs *runs,
        Ends *ends,
    ) noexcept:
        """Return where a number is, of those that end between `at` and `stop` 64 bytes on, or -1.

        It is looked at where six bytes side by side may belong to one, and in most texts only where
        ten do: a shorter one is nothing that is looked for, unless there are dots or a plus sign in
        it or capitals beside it.
        """
        cdef Kinds kinds
        cdef uint64_t twos, fours, eights, todo, near, before, behind
        cdef Py_ssize_t place, start, end
        cdef bint is_near
        cdef int bit
        cdef uint8_t[64] last
        if stop - at < 64:
            memset(last, 0, 64)
            memcpy(last, p + at, stop - at)
            kinds = kinds_of(last)
        else:
            kinds = kinds_of(p + at)
        twos = kinds.parts & (kinds.parts << 1 | runs.parts >> 63)
        fours = twos & (twos << 2 | runs.twos >> 62)
        eights = fours & (fours << 4 | runs.fours >> 60)
        near = kinds.marks | kinds.uppers << 1 | runs.uppers >> 63 | kinds.uppers >> 1
        is_near = (near & kinds.parts) != 0 or (runs.is_near and kinds.parts & 1)
        if kinds.parts >> 63 and stop < size:
            # What is beside a number that ends here may be behind these 64.
            is_near = is_near or CLASS[p[stop]] & (UPPER | PLUS) or (
                CLASS[p[stop]] & SIGN and stop + 1 < size and CLASS[p[stop + 1]] & UPPER
            )
        if is_near or self._short < 10:
            todo = fours & (twos << 4 | runs.twos >> 60)
        else:
            todo = eights & (eights << 2 | runs.eights >> 62)
        todo &= kinds.digits
        runs.parts = kinds.parts
        runs.twos = twos
        runs.fours = fours
        runs.eights = eights
        runs.uppers = kinds.uppers
        runs.is_near = is_near and kinds.parts >> 63
        while todo:
            bit = __builtin_ctzll(todo)
            todo &= todo - 1
            place = at + bit
            if place < ends.number:
                continue
            before = ~kinds.parts << (63 - bit)
            behind = ~kinds.parts >> bit
            if before and behind:
                # All of it is here.
                start = place + 1 - __builtin_clzll(before)
                end = place + __builtin_ctzll(behind)
                near = kinds.marks >> (start - at) & ~(~<uint64_t> 0 << (end - start))
                if end - start < self._short and not near and not CLASS[p[start - 1]] & UPPER:
                    if end >= size or not CLASS[p[end]] & UPPER:
                        ends.number = end
                        continue
            ends.number = self._number_end(p, place, size, ends.number)
            if ends.number < 0:
                return place
        return -1

    cdef bint _is_anchor(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept:
        cdef const uint16_t *entry = <const uint16_t *> PyBytes_AS_STRING(self._entries)
        cdef const uint8_t *text
        cdef Py_ssize_t begin
        cdef int i, length
        entry += 3 * self._list[_pair_at(p + at)]
        while entry[1]:
            length = entry[1]
            begin = at - entry[2]
            if begin >= 0 and length <= size - begin:
                text = <const uint8_t *> PyBytes_AS_STRING(self._texts) + entry[0]
                i = 0
                while i < length and (
                    LOWER[p[begin + i]] == text[i] or p[begin + i] == text[i]
                ):
                    i += 1
                if i == length:
                    return True
            entry += 3
        return False

    cdef Py_ssize_t _number_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept:
        """Return where a number ends, -1 if it may be one of those that are looked for.

        It has a digit at `at`, and nothing of it is before `low`.
        """
        cdef Py_ssize_t start = at, end
        cdef int digits = 0, dots = 0, others = 0, new_dots = 0, new_others = 0, signs = 0
        cdef bint is_beside = False, is_word
        at = start - 1
        while at >= low:
            if CLASS[p[at]] & DIGIT:
                start = at
                signs = 0
            elif CLASS[p[at]] & SIGN and signs < 2:
                signs += 1
            else:
                break
            at -= 1
        if start > 0 and CLASS[p[start - 1]] & (UPPER | PLUS):
            is_beside = True
        elif start > 1 and CLASS[p[start - 2]] & UPPER and p[start - 1] == c'-':
            is_beside = True
        if not is_beside and _is_date(p + start, size - start):
            return start + 10
        if start > 1 and CLASS[p[start - 2]] & UPPER and p[start - 1] == c' ':
            is_beside = True
        at = end = start
        while at < size:
            if CLASS[p[at]] & DIGIT:
                digits += 1
                dots += new_dots
                others += new_others
                new_dots = new_others = 0
                end = at + 1
            elif CLASS[p[at]] & SIGN and new_dots + new_others < 2:
                if p[at] == c'.':
                    new_dots += 1
                else:
                    new_others += 1
            else:
                break
            at += 1
        if start > 0 and p[start - 1] == c':' and _is_seconds(p + start, end - start):
            return end
        if end < size:
            if CLASS[p[end]] & (UPPER | PLUS):
                is_beside = True
            elif end + 1 < size and CLASS[p[end + 1]] & UPPER:
                is_beside = is_beside or p[end] == c'-' or p[end] == c' '
        # What is beside it is text, and no part of a length or a message's type: the first of the
        # four bytes of a length is no text, nor is what is behind a type. Nor is it how a line's end
        # is written.
        is_word = digits == end - start and (
            (
                start > 3 and CLASS[p[start - 1]] & LOWER_WORD
                and p[start - 2] != c'\\' and p[start - 4] >= c' '
                and not (start > 5 and p[start - 6] == c'\\' and p[start - 5] == c'u')
            )
            or (end + 1 < size and CLASS[p[end]] & LOWER_WORD and p[end + 1] >= c' ')
        )
        if (
            (self._bare and digits >= self._bare and not is_word)
            or (self._beside and is_beside and digits >= self._beside)
            or (self._spaced and (others or dots > 1) and digits >= self._spaced)
            or (self._dots and dots >= self._dots)
        ):
            return -1
        return end

    cdef Py_ssize_t _letters_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept:
        """Return where a run of upper-case letters and digits ends, -1 if it is long enough."""
        cdef Py_ssize_t start = at
        cdef int letters = 0
        cdef bint has_three = False
        while start > low and CLASS[p[start - 1]] & (UPPER | DIGIT):
            start -= 1
        at = start
        while at < size and CLASS[p[at]] & (UPPER | DIGIT):
            letters = letters + 1 if CLASS[p[at]] & UPPER else 0
            has_three = has_three or letters == 3
            at += 1
            if has_three and at - start >= self._letters:
                return -1
        return at

    cdef Py_ssize_t _colons_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept:
        """Return where a run of hex digits and colons ends, -1 if it may be an address."""
        cdef Py_ssize_t start = at
        cdef int colons = 0
        while start > low and CLASS[p[start - 1]] & (HEX | COLON):
            start -= 1
        at = start
        while at < size and CLASS[p[at]] & (HEX | COLON):
            if p[at] == c':':
                colons += 1
                if colons >= self._colons:
                    return -1
                if at + 1 < size and p[at + 1] == c':':
                    if at > start and CLASS[p[at - 1]] & HEX:
                        return -1
                    if at + 2 < size and CLASS[p[at + 2]] & HEX:
                        return -1
            at += 1
        return at


cdef bint _is_date(const uint8_t *p, Py_ssize_t size) noexcept:
    """Return whether a text begins as `2026-11-30 12:` does."""
    if size < 14 or p[4] != c'-' or p[7] != c'-' or p[13] != c':':
        return False
    if p[10] != c' ' and p[10] != c'T':
        return False
    return DIGIT & (
        CLASS[p[0]] & CLASS[p[1]] & CLASS[p[2]] & CLASS[p[3]] & CLASS[p[5]] & CLASS[p[6]]
        & CLASS[p[8]] & CLASS[p[9]] & CLASS[p[11]] & CLASS[p[12]]
    )


cdef bint _is_seconds(const uint8_t *p, Py_ssize_t size) noexcept:
    """Return whether a number is seconds, with up to six decimals and perhaps a zone's hours."""
    cdef Py_ssize_t at = 3
    if size < 4 or p[2] != c'.' or not CLASS[p[0]] & CLASS[p[1]] & DIGIT:
        return False
    while at < size and CLASS[p[at]] & DIGIT:
        at += 1
    if at < 4 or at > 9:
        return False
    if at == size:
        return True
    return (
        at + 3 == size
        and (p[at] == c'+' or p[at] == c'-')
        and CLASS[p[at + 1]] & CLASS[p[at + 2]] & DIGIT
    )


cdef inline int _pair(int one, int two) noexcept:
    return one | two << 8


cdef inline int _pair_at(const uint8_t *p) noexcept:
    return p[0] | p[1] << 8


def _spelt(both):
    """Return the numbers of the pairs of bytes that two bytes of an anchor stand for."""
    return {
        _pair(one, two) for one in {both[0], both.upper()[0]} for two in {both[1], both.upper()[1]}
    }


def _commonness(both):
    """Return about how often two bytes stand side by side."""
    places = [_COMMON.find(byte) for byte in both.lower()]
    one, two = (1 / (64 if place < 0 else 2 + place) for place in places)
    return one * two


cdef Py_ssize_t _stop(const uint8_t *p, Py_ssize_t at, Py_ssize_t size) except -1:
    cdef int32_t length
    if size - at < 5:
        raise ValueError("message")
    length = _int32(p + at + 1)
    if length < 4 or length > size - at - 1:
        raise ValueError("message")
    return at + 1 + length


cdef Py_ssize_t _after_text(const uint8_t *p, Py_ssize_t at, Py_ssize_t stop) except -1:
    cdef const void *found = memchr(p + at, 0, stop - at) if at < stop else NOWHERE
    if found == NOWHERE:
        raise ValueError("Bind")
    return <const uint8_t *> found - p + 1


cdef Py_ssize_t _bind_values(const uint8_t *p, Py_ssize_t at, Py_ssize_t stop) except -1:
    """Return where the number of a Bind's values is."""
    at = _after_text(p, _after_text(p, at, stop), stop)
    if stop - at < 2:
        raise ValueError("Bind")
    at += 2 + 2 * (p[at] << 8 | p[at + 1])
    if stop - at < 2:
        raise ValueError("Bind")
    return at


cdef Py_ssize_t _blank_values(
    const uint8_t *p, uint8_t *q, Py_ssize_t at, int count, Py_ssize_t stop
) except -1:
    cdef int32_t length
    for _ in range(count):
        if stop - at < 4:
            raise ValueError("values")
        length = _int32(p + at)
        _put32(q + at, 0)
        at += 4
        if length > stop - at:
            raise ValueError("values")
        if length > 0:
            at += length
    return at


cpdef bytes blank(bytes data, bint from_target):
    """See `sift.py`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef bytes made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), size)
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef uint8_t *q = <uint8_t *> PyBytes_AS_STRING(made)
    cdef Py_ssize_t at = 0, stop, begin, names
    cdef const void *found
    cdef uint8_t kind
    while at < size:
        stop = _stop(p, at, size)
        kind = p[at]
        memset(q + at, 0, 5)
        begin = at + 5
        if from_target:
            if kind == c'D':
                if stop - begin < 2:
                    raise ValueError("values")
                q[begin] = q[begin + 1] = 0
                _blank_values(p, q, begin + 2, p[begin] << 8 | p[begin + 1], stop)
            elif kind == c'A':
                memset(q + begin, 0, min(4, stop - begin))
            elif kind == c'E' or kind == c'N':
                while begin < stop and p[begin]:
                    q[begin] = 0
                    found = memchr(p + begin, 0, stop - begin)
                    if found == NOWHERE:
                        break
                    begin = <const uint8_t *> found - p + 1
        elif kind == c'B':
            names = _after_text(p, _after_text(p, begin, stop), stop)
            begin = _bind_values(p, begin, stop)
            memset(q + names, 0, begin + 2 - names)
            begin = _blank_values(p, q, begin + 2, p[begin] << 8 | p[begin + 1], stop)
            memset(q + begin, 0, stop - begin)
        elif (kind == c'D' or kind == c'C') and begin < stop:
            q[begin] = 0
        at = stop
    return made


cpdef tuple place(bytes data, bint from_target, Py_ssize_t message, Py_ssize_t where):
    """See `sift.py`."""
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at, stop, begin
    cdef int32_t length
    cdef int number
    if message < 0:
        raise ValueError("message")
    stop = _stop(p, message, size)
    while where >= stop:
        message = stop
        stop = _stop(p, message, size)
    begin = message + 5
    if p[message] == c'D' and from_target and stop - begin >= 2:
        at = begin
    elif p[message] == c'B' and not from_target:
        at = _bind_values(p, begin, stop)
    else:
        return message, -1, begin, stop
    for number in range(p[at] << 8 | p[at + 1]):
        if number == 0:
            at += 2
        if stop - at < 4:
            break
        length = max(0, _int32(p + at))
        at += 4
        if at <= where < at + length:
            return message, number, at, at + length
        at += length
    return message, -1, begin, stop


cpdef tuple change_rows(bytes data, changes, otherwise):
    """See `sift.py`."""
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), room = size + 4096, made = 0
    cdef Py_ssize_t at = 0, stop, place, row, columns
    cdef tuple each = tuple(changes)
    cdef list counts
    cdef int32_t length, new_length
    cdef int count, number
    cdef bint fits, is_null
    cdef object change, value
    cdef const char *new
    columns = len(each)
    counts = [0] * (columns + 1)
    cdef uint8_t *q = <uint8_t *> malloc(room)
    if not q:
        raise MemoryError
    try:
        while at < size:
            stop = _stop(p, at, size)
            if made + (stop - at) > room:
                room = 2 * room + (stop - at)
                q = _grown(q, room)
            if p[at] != c'D':
                memcpy(q + made, p + at, stop - at)
                made += stop - at
                at = stop
                continue
            if stop - at < 7:
                raise ValueError("values")
            count = p[at + 5] << 8 | p[at + 6]
            row = made
            memcpy(q + made, p + at, 7)
            made += 7
            place = at + 7
            fits = count == columns
            for number in range(count):
                if stop - place < 4:
                    raise ValueError("values")
                length = _int32(p + place)
                place += 4
                if length > stop - place:
                    raise ValueError("values")
                change = None if length < 0 else each[number] if fits else otherwise
                is_null = length < 0
                new = <const char *> p + place
                new_length = max(length, 0)
                if change is not None:
                    if type(change) is bytes:
                        value = None if change == _AS_NULL else change
                    else:
                        value = PyBytes_FromStringAndSize(<const char *> p + place, length)
                        change = value
                        value = (each[number] if fits else otherwise)(value)
                    if value is not change or type(each[number] if fits else otherwise) is bytes:
                        counts[number if fits else columns] += length
                    if value is None:
                        is_null = True
                        new_length = 0
                    else:
                        new = PyBytes_AS_STRING(<bytes?> value)
                        new_length = PyBytes_GET_SIZE(<bytes> value)
                if made + 4 + new_length > room:
                    room = 2 * room + new_length + 4
                    q = _grown(q, room)
                _put32(q + made, <uint32_t> -1 if is_null else new_length)
                made += 4
                memcpy(q + made, new, new_length)
                made += new_length
                if length > 0:
                    place += length
            if place != stop:
                raise ValueError("values")
            _put32(q + row + 1, made - row - 1)
            at = stop
        return PyBytes_FromStringAndSize(<const char *> q, made), counts
    finally:
        free(q)


cdef uint8_t *_grown(uint8_t *q, Py_ssize_t room) except NULL:
    cdef uint8_t *more = <uint8_t *> realloc(q, room)
    if not more:
        raise MemoryError
    return more


cpdef tuple copied(bytes data):
    """See `sift.py`."""
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at = 0, made = 0, stop
    cdef uint8_t *q = <uint8_t *> malloc(size + 1)
    if not q:
        raise MemoryError
    try:
        while at < size and p[at] == c'd':
            stop = _stop(p, at, size)
            memcpy(q + made, p + at + 5, stop - at - 5)
            made += stop - at - 5
            at = stop
        return PyBytes_FromStringAndSize(<const char *> q, made), at
    finally:
        free(q)
