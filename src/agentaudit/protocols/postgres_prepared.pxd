cimport cython

from agentaudit.protocols.postgres_messages cimport RowShape

cdef class Prepared:
    cdef public bytes name
    cdef public str sql
    cdef public str text
    cdef public tuple types
    cdef public Py_ssize_t cycle
    cdef public RowShape shape
    cdef public Prepared older
    cdef public Py_ssize_t size
    cdef public bint is_agreed
    cdef public bint is_void
    cdef public bint is_closed
    cdef public bint is_ambiguous
    cdef public object judged
    cdef public object masked
    cdef public Py_ssize_t masked_in
    cdef public tuple described
    cdef public object plan
    cdef public Py_ssize_t planned_in
    cdef public RowShape planned_shape
    cdef public tuple planned_formats

@cython.freelist(64)
cdef class Portal:
    cdef public bytes name
    cdef public Prepared statement
    cdef public tuple params
    cdef public tuple result_formats
    cdef public Py_ssize_t cycle
    cdef public RowShape shape
    cdef public tuple sha256
    cdef public Portal older
    cdef public bint is_agreed
    cdef public bint is_void
    cdef public bint is_closed
    cdef public bint is_doubtful
    cdef public object approved
    cdef public bint has_binary
    cdef public tuple masked

cdef frozenset _FIRST

cpdef bint may_rename(str sql)

cdef class Names:
    cdef public dict _statements
    cdef public dict _portals
    cdef public Py_ssize_t _bytes
    cdef public bint is_doubtful

    @cython.locals(known=Prepared)
    cpdef Prepared statement(self, bytes name, str codec)
    @cython.locals(statement=Prepared)
    cpdef bint is_unsettled(self, bytes name, Py_ssize_t cycle)
    @cython.locals(statement=Prepared)
    cdef Prepared _known(self, bytes name)
    @cython.locals(portals=dict, name=bytes)
    cpdef bind(self, Portal portal)
    cpdef agree_portal(self, Portal portal)
    @cython.locals(portal=Portal)
    cpdef Portal portal(self, bytes name)
    @cython.locals(portal=Portal)
    cpdef bint is_unsettled_portal(self, bytes name, Py_ssize_t cycle)
    @cython.locals(portals=dict, portal=Portal, ended=list)
    cpdef end_transaction(self, Py_ssize_t cycle)
    @cython.locals(portals=dict, portal=Portal)
    cdef Portal _bound(self, bytes name)
