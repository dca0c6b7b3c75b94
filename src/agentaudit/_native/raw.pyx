# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `raw.py` says in Python, said again in C; the same names, arguments and answers."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

cdef enum:
    FIXED = 72
    HEAD = 24
    MAX_FRAME = 64 << 20

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


cdef uint32_t c_crc32(const uint8_t *p, size_t n) noexcept nogil:
    """CRC-32 of zlib, sixteen bytes at a time."""
    cdef uint32_t c = ~(<uint32_t> 0)
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
