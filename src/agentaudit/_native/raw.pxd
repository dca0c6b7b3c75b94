cimport cython

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef inline void _put32(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xFF
    p[2] = (v >> 8) & 0xFF
    p[3] = v & 0xFF


cdef inline void _put64(uint8_t *p, uint64_t v) noexcept nogil:
    _put32(p, <uint32_t> (v >> 32))
    _put32(p + 4, <uint32_t> v)


cdef inline uint64_t _has_zero(uint64_t word) noexcept nogil:
    """Return not 0 if a byte of `word` is 0; it may be not 0 where none is beside one that is."""
    return (word - 0x0101010101010101ULL) & ~word & 0x8080808080808080ULL


cdef inline bint _has_escapes(uint64_t word) noexcept nogil:
    """Say whether one of eight bytes may not stand in a JSON string, or begins an escape there."""
    return (
        (
            (word - 0x2020202020202020ULL) & ~word & 0x8080808080808080ULL
            | _has_zero(word ^ 0x2222222222222222ULL)
            | _has_zero(word ^ 0x5C5C5C5C5C5C5C5CULL)
        )
        != 0
    )


cdef uint32_t c_crc32(const uint8_t *p, size_t n) noexcept nogil
cpdef int uint16_at(bytes data, Py_ssize_t at) except -1
cpdef long long int32_at(bytes data, Py_ssize_t at) except? -2
cpdef Py_ssize_t nul_at(bytes data, Py_ssize_t start) except -2
cpdef bytes cut(bytes data, Py_ssize_t start, Py_ssize_t stop)
cpdef bytes frame(
    bytes marker, uint64_t event_no, int64_t observed_us, uint64_t mono_ns, bytes session_id,
    uint32_t seq, int32_t command_no, int kind, int flags, int32_t status, uint64_t orig_len,
    bytes text, bytes payload, bytes extra,
)


@cython.final
cdef class Members:
    cdef uint8_t *_data
    cdef size_t _size
    cdef size_t _room
    cdef bint _is_plain

    cdef int _make_room(self, size_t more) except -1
    cdef void _put(self, const void *data, size_t size) noexcept
    cdef int _name(self, bytes name) except -1
    cdef int _text(self, text) except -1
    cpdef begin(self)
    cpdef number(self, bytes name, object number)
    cpdef integer(self, bytes name, long long value)
    cpdef text(self, bytes name, value)
    cpdef texts(self, bytes name, tuple values)
    cpdef bytes end(self)
