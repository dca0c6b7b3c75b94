cimport cython

from agentaudit.archive.recorder cimport SessionRecorder
from agentaudit.model cimport Command
from agentaudit.protocols.postgres_ledger cimport Execution
from agentaudit.protocols.postgres_prepared cimport Portal

cdef class Judge:
    cdef public object _conversation
    cdef public SessionRecorder _session
    cdef public bint _is_walsender

    cpdef judge(self, Command command)
    @cython.locals(portal=Portal)
    cdef _classify(self, Command command)
