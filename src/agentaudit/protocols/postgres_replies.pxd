cimport cython

from agentaudit._native.raw cimport cut, int32_at

from agentaudit.model cimport Event, Step, passed, step_of
from agentaudit.protocols.postgres_ledger cimport Act, Batch, Execution, Ledger, Owed
from agentaudit.protocols.postgres_messages cimport Report, RowShape, decode_row_description
from agentaudit.protocols.postgres_prepared cimport Portal, Prepared

cdef int QUERY, PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, SYNC, REFUSED, _DATA_ROW, _ERROR, _BOUND, _ROWS, _COMPLETE, _READY, _COPIED
cdef Py_ssize_t MAX_EVENT_BYTES
cdef dict _TAGS

cdef class _Long:
    cdef public object hash
    cdef public int kind
    cdef public Py_ssize_t left
    cdef public Execution owner
    cdef public bytes start

cdef class Replies:
    cdef public Ledger _ledger
    cdef public dict parameters
    cdef public bytearray _held
    cdef public Py_ssize_t _need
    cdef public _Long _long
    cdef public Py_ssize_t _rows
    cdef public list _texts
    cdef public tuple _starts
    cdef public list _about

    @cython.locals(start=Py_ssize_t, at=Py_ssize_t, end=Py_ssize_t, need=Py_ssize_t, stop=Py_ssize_t, kind=int, length=cython.longlong, ledger=Ledger, owner=Execution, now=Execution, owed=Owed)
    cpdef receive(self, bytes data, list steps)
    @cython.locals(rows=Py_ssize_t, end=Py_ssize_t, limit=Py_ssize_t, last_header=Py_ssize_t, length=cython.longlong, stop=Py_ssize_t)
    cdef Py_ssize_t _skip_rows(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t at) except -1
    @cython.locals(step=Step)
    cdef _release(self, Execution owner, bytes frame, list steps, object flags=*)
    cdef _take_piece(self, _Long long, bytes piece, list steps)
    @cython.locals(ledger=Ledger)
    cdef _take(self, int kind, bytes body)
    cdef Act _expect_rows(self)
    cpdef _copy_data(self, bytes body)
    cpdef _bind_complete(self, bytes body)
    @cython.locals(ledger=Ledger, act=Act, shape=RowShape)
    cpdef _row_description(self, bytes body)
    @cython.locals(command=Execution, known=tuple, tag=str, verb=str)
    cpdef _command_complete(self, bytes body)
    @cython.locals(ledger=Ledger, owed=Owed, first=Act)
    cpdef _ready(self, bytes body)
    @cython.locals(ledger=Ledger, command=Execution, batch=Batch, following=Act)
    cdef Execution _complete(self, Act act, str verb, object count)
    cdef _count_rows(self, Execution command, str verb, object count)
    cdef _end_copy(self, Execution command, object count)
