from agentaudit cimport model
from agentaudit.protocols.postgres_ledger cimport Ledger
from agentaudit.protocols.postgres_replies cimport Replies
from agentaudit.protocols.postgres_requests cimport Requests

cdef class Conversation(model.Conversation):
    cdef public Ledger _ledger
    cdef public Requests _requests
    cdef public Replies _replies

    cpdef list receive(self, object side, bytes data)

cdef Py_ssize_t MAX_OWED
