from agentaudit.protocols.postgres_ledger cimport Ledger
from agentaudit.protocols.postgres_replies cimport Replies
from agentaudit.protocols.postgres_requests cimport Requests

cdef class Conversation:
    cdef public Ledger _ledger
    cdef public Requests _requests
    cdef public Replies _replies
    cdef public object _broken

    cpdef receive(self, object side, bytes data)
