from libc.stdint cimport uint8_t


cdef class Sieve:
    cdef readonly bint is_quick
    cdef uint8_t[8192] _even
    cdef uint8_t[8192] _begins
    cdef uint8_t[65536] _which
    cdef tuple _anchors
    cdef list _by_pair
    cdef int _digits
    cdef int _bare
    cdef int _colons
    cdef int _dots
    cdef int _letters

    cdef bint _is_at(self, const uint8_t *p, Py_ssize_t left, Py_ssize_t which) except -1
    cdef bint _may_hold_anchors(self, const uint8_t *p, Py_ssize_t size) except -1
    cdef Py_ssize_t _number_end(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept
    cpdef bint may_hold(self, bytes data) except -1

cpdef bytes blank(bytes data, bint from_target)
cpdef tuple place(bytes data, bint from_target, Py_ssize_t message, Py_ssize_t where)
cpdef tuple change_rows(bytes data, changes, otherwise)
cpdef tuple copied(bytes data)
