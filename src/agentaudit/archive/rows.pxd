cimport cython

from agentaudit._native.raw cimport Members
from agentaudit.model cimport Command

cdef long long _MAX_INT32
cdef Members _members

@cython.locals(row=Members)
cpdef bytes command_row(Command command, long long ended_us, long long duration_us)
