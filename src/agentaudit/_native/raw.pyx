# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `raw.py` says in Python, said again in C; the same names, arguments and answers."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memset

cdef enum:
    FIXED = 72
    HEAD = 24
    MAX_FRAME = 64 << 20
    MAX_KEPT = 1 << 20

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size)  # NULL: not valid Unicode

cdef int64_t MAX_INT = (1LL << 53) - 1
cdef char[200] PAIRS
for _number in range(100):
    PAIRS[2 * _number] = 48 + _number // 10
    PAIRS[2 * _number + 1] = 48 + _number % 10

cdef uint32_t NULL_LENGTH = 0xFFFFFFFF
cdef uint32_t[16][256] CRC


# --- numbers and slices


cpdef int uint16_at(bytes data, Py_ssize_t at) except -1:
    """See `raw.py`."""
    if at < 0 or at + 2 > PyBytes_GET_SIZE(data):
        raise IndexError
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data) + at
    return p[0] << 8 | p[1]


cpdef long long int32_at(bytes data, Py_ssize_t at) except? -2:
    """See `raw.py`."""
    if at < 0 or at + 4 > PyBytes_GET_SIZE(data):
        raise IndexError
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data) + at
    return <int32_t> (<uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3])


cpdef Py_ssize_t nul_at(bytes data, Py_ssize_t start) except -2:
    """See `raw.py`."""
    cdef const char *base = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if not 0 <= start < size:
        return -1
    cdef const void *found = memchr(base + start, 0, size - start)
    return -1 if found == NULL else <const char *> found - base


cpdef bytes cut(bytes data, Py_ssize_t start, Py_ssize_t stop):
    """See `raw.py`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if start == 0 and stop == size:
        return data
    if not 0 <= start <= stop <= size:
        raise IndexError
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, stop - start)


# --- the journal


cdef void _make_crc() noexcept:
    cdef uint32_t n, c
    cdef int k
    for n in range(256):
        c = n
        for k in range(8):
            c = (c >> 1) ^ 0xEDB88320 if c & 1 else c >> 1
        CRC[0][n] = c
    for n in range(256):
        for k in range(1, 16):
            CRC[k][n] = (CRC[k - 1][n] >> 8) ^ CRC[0][CRC[k - 1][n] & 0xFF]


_make_crc()


cdef inline uint32_t _word(const uint8_t *p, int table) noexcept nogil:
    """Return what four bytes add to a checksum, by the tables from `table` down."""
    return CRC[table][p[0]] ^ CRC[table - 1][p[1]] ^ CRC[table - 2][p[2]] ^ CRC[table - 3][p[3]]


# Where the processor multiplies without carries: four blocks of 16 bytes are folded into the four
# behind them, what is left into one, and that is reduced modulo the polynomial (Gopal et al., "Fast
# CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009).
cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <immintrin.h>

    static int can_fold(void) {
        return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    }

    #define LOADED(at) _mm_loadu_si128((const __m128i *) (at))
    #define FOLDED(x, k, next) _mm_xor_si128(_mm_xor_si128( \
        _mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), next)

    /* Goes on from the remainder c with n bytes, at least 64 and a multiple of 16. */
    __attribute__((target("pclmul,sse4.1")))
    static uint32_t folded_crc(const uint8_t *p, size_t n, uint32_t c) {
        const __m128i by_four = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
        const __m128i by_one = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
        const __m128i by_half = _mm_set_epi64x(0, 0x0163cd6124);
        const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
        const __m128i words = _mm_set_epi32(0, ~0, 0, ~0);
        __m128i x0 = _mm_xor_si128(LOADED(p), _mm_cvtsi32_si128((int) c));
        __m128i x1 = LOADED(p + 16), x2 = LOADED(p + 32), x3 = LOADED(p + 48), x;
        for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
            x0 = FOLDED(x0, by_four, LOADED(p));
            x1 = FOLDED(x1, by_four, LOADED(p + 16));
            x2 = FOLDED(x2, by_four, LOADED(p + 32));
            x3 = FOLDED(x3, by_four, LOADED(p + 48));
        }
        x = FOLDED(x0, by_one, x1);
        x = FOLDED(x, by_one, x2);
        x = FOLDED(x, by_one, x3);
        for (; n >= 16; p += 16, n -= 16)
            x = FOLDED(x, by_one, LOADED(p));
        x = _mm_xor_si128(_mm_clmulepi64_si128(x, by_one, 0x10), _mm_srli_si128(x, 8));
        x = _mm_xor_si128(
            _mm_clmulepi64_si128(_mm_and_si128(x, words), by_half, 0x00), _mm_srli_si128(x, 4));
        x0 = _mm_clmulepi64_si128(_mm_and_si128(x, words), barrett, 0x10);
        x0 = _mm_clmulepi64_si128(_mm_and_si128(x0, words), barrett, 0x00);
        return (uint32_t) _mm_extract_epi32(_mm_xor_si128(x, x0), 1);
    }
    #else
    static int can_fold(void) { return 0; }
    static uint32_t folded_crc(const uint8_t *p, size_t n, uint32_t c) { return c; }
    #endif
    """
    bint can_fold() noexcept nogil
    uint32_t folded_crc(const uint8_t *p, size_t n, uint32_t c) noexcept nogil

cdef bint CAN_FOLD = can_fold()


cdef uint32_t c_crc32(const uint8_t *p, size_t n) noexcept nogil:
    """CRC-32 of zlib, sixteen bytes at a time."""
    cdef uint32_t c = ~(<uint32_t> 0)
    if CAN_FOLD and n >= 64:
        c = folded_crc(p, n & ~(<size_t> 15), c)
        p += n & ~(<size_t> 15)
        n &= 15
    while n >= 16:
        c = (
            CRC[15][(c ^ p[0]) & 0xFF] ^ CRC[14][((c >> 8) ^ p[1]) & 0xFF]
            ^ CRC[13][((c >> 16) ^ p[2]) & 0xFF] ^ CRC[12][(c >> 24) ^ p[3]]
            ^ _word(p + 4, 11) ^ _word(p + 8, 7) ^ _word(p + 12, 3)
        )
        p += 16
        n -= 16
    while n:
        c = (c >> 8) ^ CRC[0][(c ^ p[0]) & 0xFF]
        p += 1
        n -= 1
    return ~c


cpdef bytes frame(
    bytes marker, uint64_t event_no, int64_t observed_us, uint64_t mono_ns, bytes session_id,
    uint32_t seq, int32_t command_no, int kind, int flags, int32_t status, uint64_t orig_len,
    bytes text, bytes payload, bytes extra,
):
    """See `raw.py`."""
    if len(marker) != 16 or len(session_id) != 16 or not 0 <= kind < 65536 or not 0 <= flags < 65536:
        raise ValueError("frame")
    cdef size_t text_len = 0 if text is None else PyBytes_GET_SIZE(text)
    cdef size_t payload_len = 0 if payload is None else PyBytes_GET_SIZE(payload)
    cdef size_t extra_len = PyBytes_GET_SIZE(extra)
    cdef size_t length = FIXED + 12 + text_len + payload_len + extra_len
    if length > MAX_FRAME:
        raise ValueError("frame")
    cdef bytes made = PyBytes_FromStringAndSize(NULL, HEAD + length)
    cdef uint8_t *head = <uint8_t *> PyBytes_AS_STRING(made)
    cdef uint8_t *p = head + HEAD
    memcpy(head, PyBytes_AS_STRING(marker), 16)
    _put32(head + 16, <uint32_t> length)
    _put64(p, event_no)
    _put64(p + 8, <uint64_t> observed_us)
    _put64(p + 16, mono_ns)
    memcpy(p + 24, PyBytes_AS_STRING(session_id), 16)
    _put32(p + 40, seq)
    _put32(p + 44, <uint32_t> command_no)
    p[48] = kind >> 8
    p[49] = kind & 0xFF
    p[50] = flags >> 8
    p[51] = flags & 0xFF
    _put32(p + 52, <uint32_t> status)
    _put64(p + 56, orig_len)
    _put64(p + 64, payload_len)
    p = _put_part(p + FIXED, text, text_len)
    p = _put_part(p, payload, payload_len)
    _put_part(p, extra, extra_len)
    _put32(head + 20, c_crc32(head + HEAD, length))
    return made


cdef inline uint8_t *_put_part(uint8_t *p, bytes part, size_t size) noexcept:
    _put32(p, NULL_LENGTH if part is None else <uint32_t> size)
    if size:
        memcpy(p + 4, PyBytes_AS_STRING(part), size)
    return p + 4 + size


# --- canonical JSON


cdef uint8_t[128] ESCAPE
cdef const char *HEX = b"0123456789abcdef"
memset(ESCAPE, 0, 128)
for _pair in (b'""', b"\\\\", b"\bb", b"\tt", b"\nn", b"\ff", b"\rr"):
    ESCAPE[<int> _pair[0]] = _pair[1]


cdef class Members:
    """See `raw.py`."""

    def __dealloc__(self):
        free(self._data)

    cdef int _make_room(self, size_t more) except -1:
        cdef void *grown
        if self._room - self._size < more:
            grown = realloc(self._data, 2 * (self._size + more))
            if grown == NULL:
                raise MemoryError
            self._data = <uint8_t *> grown
            self._room = 2 * (self._size + more)
        return 0

    cdef inline void _put(self, const void *data, size_t size) noexcept:
        memcpy(self._data + self._size, data, size)
        self._size += size

    cdef int _name(self, bytes name) except -1:
        self._make_room(PyBytes_GET_SIZE(name) + 32)
        self._put(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return 0

    cdef int _text(self, text) except -1:
        """Add a string as JSON has it."""
        cdef Py_ssize_t size = 0, i = 0
        cdef const uint8_t *data
        cdef uint8_t c
        cdef uint8_t *to
        cdef uint64_t word
        if type(text) is not str:
            self._is_plain = False
            return 0
        data = <const uint8_t *> PyUnicode_AsUTF8AndSize(text, &size)
        if data == NULL:
            PyErr_Clear()
            self._is_plain = False
            return 0
        self._make_room(6 * <size_t> size + 16)
        to = self._data + self._size
        to[0] = 34
        to += 1
        while i < size:
            if i + 8 <= size:
                memcpy(&word, data + i, 8)
                if not _has_escapes(word):
                    memcpy(to, &word, 8)
                    to += 8
                    i += 8
                    continue
            c = data[i]
            i += 1
            if c >= 32 and c != 34 and c != 92:
                to[0] = c
                to += 1
                continue
            to[0] = 92
            if ESCAPE[c]:
                to[1] = ESCAPE[c]
                to += 2
                continue
            memcpy(to + 1, b"u00", 3)
            to[4] = 48 + (c >> 4)
            to[5] = HEX[c & 15]
            to += 6
        to[0] = 34
        self._size = to + 1 - self._data
        return 0

    cpdef begin(self):
        """See `raw.py`."""
        self._is_plain = True
        self._size = 0

    cpdef number(self, bytes name, object number):
        """See `raw.py`."""
        cdef int overflow = 0
        cdef long long value = PyLong_AsLongLongAndOverflow(number, &overflow)
        if overflow:
            self._is_plain = False
        else:
            self.integer(name, value)

    cpdef integer(self, bytes name, long long value):
        """See `raw.py`."""
        cdef char[24] digits
        cdef int at = 24
        cdef unsigned long long left = <unsigned long long> (-value if value < 0 else value)
        if not -MAX_INT <= value <= MAX_INT:
            self._is_plain = False
            return
        self._name(name)
        while left >= 100:
            at -= 2
            memcpy(&digits[at], &PAIRS[2 * (left % 100)], 2)
            left //= 100
        at -= 2
        memcpy(&digits[at], &PAIRS[2 * left], 2)
        if left < 10:
            at += 1
        if value < 0:
            at -= 1
            digits[at] = 45
        self._put(&digits[at], 24 - at)

    cpdef text(self, bytes name, value):
        """See `raw.py`."""
        self._name(name)
        self._text(value)

    cpdef texts(self, bytes name, tuple values):
        """See `raw.py`."""
        cdef bint is_first = True
        self._name(name)
        self._put(b"[", 1)
        for item in values:
            self._make_room(16)
            if not is_first:
                self._put(b",", 1)
            is_first = False
            if item is None:
                self._put(b"null", 4)
            else:
                self._text(item)
        self._make_room(16)
        self._put(b"]", 1)

    cpdef bytes end(self):
        """See `raw.py`."""
        cdef bytes made = None
        self._make_room(1)
        self._put(b"}", 1)
        if self._is_plain:
            made = PyBytes_FromStringAndSize(<char *> self._data, self._size)
        if self._room > MAX_KEPT:
            free(self._data)
            self._data = NULL
            self._room = self._size = 0
        return made
