from agentaudit.model cimport Command

cpdef bytes command_row(Command command, ended_us, duration_us)

cdef long long _MAX_INT32
