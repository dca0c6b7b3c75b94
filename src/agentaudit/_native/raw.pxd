from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef inline void _put32(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = v >> 24
    p[1] = (v >> 16) & 0xFF
    p[2] = (v >> 8) & 0xFF
    p[3] = v & 0xFF


cdef inline void _put64(uint8_t *p, uint64_t v) noexcept nogil:
    _put32(p, <uint32_t> (v >> 32))
    _put32(p + 4, <uint32_t> v)


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
