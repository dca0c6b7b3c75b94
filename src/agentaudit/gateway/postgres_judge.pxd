cimport cython

from agentaudit.archive.recorder cimport SessionRecorder
from agentaudit.gateway.postgres_masks cimport PostgresMasks
from agentaudit.model cimport Command
from agentaudit.protocols.postgres_ledger cimport Execution
from agentaudit.protocols.postgres_prepared cimport Portal, Prepared

cdef class _Known:
    cdef public str operation
    cdef public str cls
    cdef public tuple resources
    cdef public str fingerprint
    cdef public str confidence
    cdef public str parser
    cdef public str cursor
    cdef public tuple risk
    cdef public object decision

cdef class Judge:
    cdef public object _conversation
    cdef public SessionRecorder _session
    cdef public PostgresMasks _masks
    cdef public object _policy
    cdef public bint _is_walsender
    cdef public object _inspector
    cdef public dict _uncounted
    cdef public list _limits
    cdef public object _before
    cdef public object _settings

    cpdef judge(self, Command command)
    @cython.locals(known=_Known)
    cdef _judge(self, Command command)
    @cython.locals(portal=Portal, known=_Known)
    cdef _Known _classify(self, Command command)
    cdef _Known _fetch(self, str text, str cursor)

@cython.locals(known=_Known)
cdef _Known _known(Prepared prepared)
