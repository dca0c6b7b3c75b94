from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef struct Ends:
    # Up to where each kind of run has been looked at.
    Py_ssize_t number
    Py_ssize_t colons
    Py_ssize_t letters


cdef struct Runs:
    # Of the 64 bytes before, a bit each: which may be in a number, at which two such, four or eight
    # side by side end, and which are capitals. And whether their last run is worth a look.
    uint64_t parts
    uint64_t twos
    uint64_t fours
    uint64_t eights
    uint64_t uppers
    bint is_near


cdef class Sieve:
    cdef uint8_t[65536] _parts
    cdef uint16_t[65536] _list
    cdef bytes _texts
    cdef bytes _entries
    cdef int _bare
    cdef int _beside
    cdef int _spaced
    cdef int _short
    cdef int _dots
    cdef int _colons
    cdef int _letters

    cdef Py_ssize_t _next(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept
    cdef Py_ssize_t _word(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t stop, Py_ssize_t size, Ends *ends
    ) noexcept
    cdef Py_ssize_t _number(
        self,
        const uint8_t *p,
        Py_ssize_t at,
        Py_ssize_t stop,
        Py_ssize_t size,
        Runs *runs,
        Ends *ends,
    ) noexcept
    cdef bint _is_anchor(self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size) noexcept
    cdef Py_ssize_t _number_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept
    cdef Py_ssize_t _letters_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept
    cdef Py_ssize_t _colons_end(
        self, const uint8_t *p, Py_ssize_t at, Py_ssize_t size, Py_ssize_t low
    ) noexcept
    cpdef bint may_hold(self, bytes data)
    cpdef list suspects(self, bytes data)

cpdef bytes blank(bytes data, bint from_target)
cpdef tuple place(bytes data, bint from_target, Py_ssize_t message, Py_ssize_t where)
cpdef tuple change_rows(bytes data, changes, otherwise)
cpdef tuple copied(bytes data)
