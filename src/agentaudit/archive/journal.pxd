cimport cython

cdef class OpenSession:
    cdef public object session_id
    cdef public dict facts
    cdef public bytes key_m
    cdef public bytes key_t
    cdef public bytes key_p
    cdef public long long opened_us
    cdef public long long open_event_no
    cdef public long long events
    cdef public long long commands
    cdef public long long bytes_in
    cdef public long long bytes_out
    cdef public long long masked

cdef class JournalWriter:
    cdef public int fd
    cdef public long long end
    cdef public long long _room_end

    @cython.locals(end=cython.longlong, room_end=cython.longlong)
    cpdef write(self, bytes data)
