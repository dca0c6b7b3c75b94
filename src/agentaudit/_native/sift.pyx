# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `sift.py` says in Python, said again in C; the same names, arguments and answers."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

AS_NULL = b"\0NULL"
Change = object

cdef const void *NOWHERE = <const void *> 0
cdef object _AS_NULL = AS_NULL

cdef enum:
    DIGIT = 1
    LETTER = 2
    SIGN = 4  # may stand between two digits
    HEX = 8  # a digit too, or a dot
    COLON = 16
    DOT = 32
    PLUS = 64

cdef uint8_t[256] CLASS
cdef uint8_t[256] LOWER
for _byte in range(256):
    LOWER[_byte] = _byte + 32 if 65 <= _byte <= 90 else _byte
    CLASS[_byte] = 0
for _char in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
    CLASS[ord(_char)] |= LETTER
for _char in "0123456789":
    CLASS[ord(_char)] |= DIGIT
for _char in " ./()+-":
    CLASS[ord(_char)] |= SIGN
for _char in "0123456789abcdefABCDEF.":
    CLASS[ord(_char)] |= HEX
CLASS[58] |= COLON
CLASS[46] |= DOT
CLASS[43] |= PLUS


cdef inline int32_t _int32(const uint8_t *p) noexcept nogil:
    return <int32_t> (<uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3])


cdef inline void _put32(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xFF
    p[2] = (v >> 8) & 0xFF
    p[3] = v & 0xFF


cdef class Sieve:
    """See `sift.py`."""

    # Of each pair of bytes: 0, or which list of anchors begins so, as those of one pair share one.
    def __cinit__(
        self, anchors, int digits=0, int bare=0, int colons=0, int dots=0, int letters=0
    ):
        if any(len(anchor) < 2 for anchor in anchors):
            raise ValueError("an anchor has two bytes at least")
        self._anchors = tuple(anchors)
        self._digits = digits
        self._bare = bare
        self._colons = colons
        self._dots = dots
        self._letters = letters
        # Of each pair of bytes: whether an anchor begins so, in either case, and which ones.
        memset(self._begins, 0, sizeof(self._begins))
        memset(self._which, 0, sizeof(self._which))
        self._by_pair = [()]
        cdef Py_ssize_t pair
        pairs = {}
        for anchor in self._anchors:
            pairs.setdefault(anchor[:2], []).append(anchor)
        if len(pairs) > 255:
            raise ValueError("too many anchors")
        for both, those in pairs.items():
            for one in {both[0:1], both[0:1].upper()}:
                for two in {both[1:2], both[1:2].upper()}:
                    pair = one[0] << 8 | two[0]
                    self._begins[pair >> 3] |= 1 << (pair & 7)
                    self._which[pair] = len(self._by_pair)
            self._by_pair.append(tuple(those))
        # Anchors of three bytes or more have a pair at an even place, wherever they begin: half of
        # all places need no look.
        memset(self._even, 0, sizeof(self._even))
        self.is_quick = not (digits or bare or colons or dots or letters)
        for anchor in self._anchors:
            self.is_quick = self.is_quick and len(anchor) > 2
            for at in range(min(2, len(anchor) - 1)):
                for one in {anchor[at : at + 1], anchor[at : at + 1].upper()}:
                    for two in {anchor[at + 1 : at + 2], anchor[at + 1 : at + 2].upper()}:
                        pair = one[0] << 8 | two[0]
                        self._even[pair >> 3] |= 1 << (pair & 7)

    cpdef bint may_hold(self, bytes data) except -1:
        """See `sift.py`."""
        cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at, after = 0, letters = 0
        cdef int colons = 0, dots = 0
        cdef int kind, before = 0
        cdef Py_ssize_t pair
        if self.is_quick:
            return self._may_hold_anchors(p, size)
        for at in range(size):
            kind = CLASS[p[at]]
            if kind & DIGIT and at >= after:
                # A number begins here: all of it is looked at at once.
                after = self._number_end(p, at, size)
                if after < 0:
                    return True
            if kind & (LETTER | DIGIT):
                letters += 1
                if letters == self._letters:
                    return True
            else:
                letters = 0
            if kind & HEX:
                if kind & DOT:
                    dots += 1
                    if dots == self._dots:
                        return True
                elif kind & LETTER:
                    dots = 0
            elif kind & COLON:
                dots = 0
                colons += 1
                if colons == self._colons:
                    return True
            else:
                colons = dots = 0
            if at + 1 < size:
                pair = p[at] << 8 | p[at + 1]
                if self._begins[pair >> 3] >> (pair & 7) & 1:
                    if self._is_at(p + at, size - at, self._which[pair]):
                        return True
        return False

    cdef bint _may_hold_anchors(self, const uint8_t *p, Py_ssize_t size) except -1:
        cdef Py_ssize_t at = 0, begin, pair
        while at + 1 < size:
            pair = p[at] << 8 | p[at + 1]
            if self._even[pair >> 3] >> (pair & 7) & 1:
                # It is the first pair of an anchor, or the second of one that began before.
                for begin in range(at - 1 if at else 0, at + 1):
                    pair = p[begin] << 8 | p[begin + 1]
                    if self._begins[pair >> 3] >> (pair & 7) & 1:
                        if self._is_at(p + begin, size - begin, self._which[pair]):
                            return True
            at += 2
        return False

    cdef Py_ssize_t _number_end(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept:
        """Return where a number ends, -1 if it may be one of those that are looked for."""
        cdef Py_ssize_t start = at, end = at
        cdef int digits = 0, signs = 0
        cdef bint is_marked = False
        cdef int far = 0
        if start > 0:
            if CLASS[p[start - 1]] & (LETTER | PLUS):
                is_marked = True
            elif start > 1 and CLASS[p[start - 2]] & LETTER:
                if p[start - 1] == c'-':
                    is_marked = True
                elif p[start - 1] == c' ':
                    far = 1
        while at < size:
            if CLASS[p[at]] & DIGIT:
                is_marked = is_marked or signs != 0
                digits += 1
                signs = 0
                end = at + 1
            elif CLASS[p[at]] & SIGN and signs < 2:
                signs += 1
            else:
                break
            at += 1
        if end < size:
            if CLASS[p[end]] & (LETTER | PLUS):
                is_marked = True
            elif end + 1 < size and CLASS[p[end + 1]] & LETTER:
                if p[end] == c'-' or far and p[end] == c' ':
                    is_marked = True
        if self._bare and digits >= self._bare:
            return -1
        if self._digits and is_marked and digits >= self._digits:
            return -1
        return end

    cdef bint _is_at(self, const uint8_t *p, Py_ssize_t left, Py_ssize_t which) except -1:
        cdef bytes anchor
        cdef const uint8_t *a
        cdef Py_ssize_t length, i
        for anchor in <tuple> self._by_pair[which]:
            length = PyBytes_GET_SIZE(anchor)
            if length > left:
                continue
            a = <const uint8_t *> PyBytes_AS_STRING(anchor)
            i = 2
            while i < length and LOWER[p[i]] == a[i]:
                i += 1
            if i == length:
                return True
        return False


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
