cimport cython

from agentaudit.model cimport Event, Step
from agentaudit.protocols.postgres_ledger cimport Execution
from agentaudit.protocols.postgres_messages cimport RowShape
from agentaudit.protocols.postgres_prepared cimport Portal, Prepared
from agentaudit._native.sift cimport Sieve

cdef class PostgresMasks:
    cdef public object _masks
    cdef public object _conversation
    cdef public object _tables
    cdef public object _statements
    cdef public Sieve _sieve
    cdef public Sieve _statement_sieve
    cdef public object _values
    cdef public set _unhashed
    cdef public bint is_withholding
    cdef public bint _is_streaming
    cdef public object _prepared
    cdef public bint _is_unsettled
    cdef public bint _was_running
    cdef public object _hidden
    cdef public bint _may_look_elsewhere
    cdef public dict _commands
    cdef public dict _looks
    cdef public set _dirty
    cdef public dict _copies
    cdef public dict _longs

    @cython.locals(command=Execution)
    cpdef mask(self, Step step)
    cpdef judged(self, command)
    @cython.locals(portal=Portal)
    cdef _begin(self, Execution command)
    @cython.locals(portal=Portal)
    cdef _look_of(self, Execution command)
    @cython.locals(epoch=Py_ssize_t)
    cdef _look_at_statement(self, Prepared statement)
    cdef bint _may_hold(self, bytes data) except -1
    cdef bint _may_be_said(self, bytes data) except -1
    cdef _end(self, Execution command)
    cdef _request(self, Step step, Event event)
    @cython.locals(command=Execution, portal=Portal)
    cdef bint _passes(self, Step step, bytes payload) except -1
    @cython.locals(owner=Execution)
    cdef _response(self, Step step, Event event)
    @cython.locals(epoch=Py_ssize_t, portal=Portal, statement=Prepared, shape=RowShape)
    cdef _plan_of(self, Execution owner)

cdef int _CONTINUED, _COPY_DATA
