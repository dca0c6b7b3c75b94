cimport cython

from agentaudit.model cimport Command, begin
from agentaudit.protocols.postgres_messages cimport RowShape
from agentaudit.protocols.postgres_prepared cimport Names, Portal, Prepared

cdef class Execution(Command):
    cdef public str sql
    cdef public RowShape shape
    cdef public Portal portal
    cdef public bytes closing
    cdef public tuple described
    cdef public object plan
    cdef public Py_ssize_t planned_in
    cdef public RowShape planned_shape
    cdef public bint is_ambiguous
    cdef public bint is_only_bound
    cdef public bint is_ended

cdef class Batch:
    cdef public tuple commands
    cdef public Py_ssize_t cycle
    cdef public Py_ssize_t at

    cpdef bint is_last(self)
    cpdef bint is_over(self)

cdef class Refused:
    cdef public tuple commands
    cdef public bytes report
    cdef public Prepared statement

@cython.freelist(64)
cdef class Act:
    cdef public int kind
    cdef public Execution command
    cdef public object thing
    cdef public bint ends_copy
    cdef public bint is_ahead
    cdef public Act next

cdef class Owed:
    cdef public Py_ssize_t count
    cdef public Act first
    cdef public Act last

    cpdef append(self, Act act)
    cpdef drop(self)

cdef class Ledger:
    cdef public str codec
    cdef public bint is_reported
    cdef public bint is_converted
    cdef public list renaming
    cdef public bint is_standard_strings
    cdef public Names names
    cdef public Py_ssize_t next_command_no
    cdef public Owed owed
    cdef public Execution last
    cdef public Execution ending
    cdef public list ends
    cdef public bint is_skipping
    cdef public dict skipped
    cdef public dict skipped_portals
    cdef public str copy
    cdef public bint copy_is_binary
    cdef public bint is_copy_ended
    cdef public Py_ssize_t swallowed_syncs
    cdef public Py_ssize_t cycle
    cdef public str status
    cdef public Py_ssize_t txn_no
    cdef public bint is_txn_used
    cdef public bint is_watched

    @cython.locals(command=Execution)
    cpdef Execution begin(self, str sql, str text, Portal portal=*)
    cpdef bint is_ambiguous(self, bytes data, str sql)
    cpdef bint is_renaming(self, bytes name)
    cpdef end(self, Execution command, str txn_status)
    cpdef use_transaction(self, Execution command)
    cpdef end_transaction(self)
    cpdef owe(self, Act act)
    cpdef owe_ready(self)
    @cython.locals(act=Act)
    cpdef Act expect(self, int kind, int other=*)
