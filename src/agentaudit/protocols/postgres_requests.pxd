cimport cython

from agentaudit._native.raw cimport cut, int32_at

from agentaudit.model cimport Event, Step, passed, step_of
from agentaudit.protocols.postgres_ledger cimport Act, Batch, Execution, Ledger
from agentaudit.protocols.postgres_messages cimport (
    Bind, Parse, decode_bind, decode_execute, decode_name, decode_parse, decode_query, text_of,
)
from agentaudit.protocols.postgres_prepared cimport Portal, Prepared

cdef int QUERY, PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, SYNC, REFUSED, FLUSH, FUNCTION_CALL, TERMINATE, COPY_DATA, COPY_DONE, COPY_FAIL
cdef Py_ssize_t MAX_EVENT_BYTES
cdef bytes _LEAST, _IS_ALONE, _IS_CLOSE
cdef tuple _MOST

cdef class _Long:
    cdef public Execution command
    cdef public object hash
    cdef public int kind
    cdef public Py_ssize_t left
    cdef public Portal portal
    cdef public object refused
    cdef public bytes start

cdef class Requests:
    cdef public Ledger _ledger
    cdef public object _split
    cdef public object may_bind
    cdef public bytearray _held
    cdef public Py_ssize_t _need
    cdef public _Long _long
    cdef public list _parts
    cdef public Py_ssize_t _parts_bytes
    cdef public list _acts
    cdef public tuple _starts
    cdef public Execution _owner
    cdef public str _text
    cdef public bint _is_due
    cdef public bint _is_copy
    cdef public list _about
    cdef public bint is_waiting

    @cython.locals(start=Py_ssize_t, at=Py_ssize_t, end=Py_ssize_t, need=Py_ssize_t, stop=Py_ssize_t, kind=int, least=int, length=cython.longlong)
    cpdef receive(self, bytes data, list steps)
    @cython.locals(owner=Execution, step=Step)
    cdef _release(self, bytes frame, list steps, bint keep_acts=*)
    cdef _hold_or_release(self, bytes frame, list steps)
    cdef _take(self, int kind, bytes body)
    cdef _owe(self, int kind, object thing=*)
    @cython.locals(ledger=Ledger, last=Execution, command=Execution)
    cdef _close_group(self, int kind)
    @cython.locals(ledger=Ledger, parse=Parse)
    cdef _parse(self, bytes body)
    @cython.locals(ledger=Ledger)
    cdef Prepared _statement(self, bytes name)
    @cython.locals(ledger=Ledger)
    cdef bint _is_unsettled(self, bytes name)
    cdef bint _is_in_doubt(self, bytes name)
    @cython.locals(ledger=Ledger)
    cdef Portal _portal(self, bytes name)
    cdef _bind_name(self, Portal portal)
    cdef _describe_or_close(self, int kind, bytes body)
    @cython.locals(ledger=Ledger, statement=Prepared, portal=Portal, bind=Bind)
    cdef _bind(self, bytes body)
    cdef tuple _params(self, Bind bind, tuple types, bint is_short)
    @cython.locals(ledger=Ledger, portal=Portal, statement=Prepared, command=Execution, act=Act)
    cdef _execute(self, bytes body)
    @cython.locals(ledger=Ledger, act=Act, each=Act, portal=object, statement=Prepared, command=Execution)
    cdef _begin_bound(self, object may_bind)
    @cython.locals(ledger=Ledger)
    cdef _query(self, bytes body)
    @cython.locals(ledger=Ledger, last=Execution, act=Act)
    cdef _copy(self, int kind)
