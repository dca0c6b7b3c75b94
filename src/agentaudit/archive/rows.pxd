from agentaudit.model cimport Command

cpdef bytes command_row(Command command, ended_us, duration_us)
