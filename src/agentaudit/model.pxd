cimport cython

@cython.freelist(64)
cdef class Event:
    cdef public object kind
    cdef public object side
    cdef public Py_ssize_t command_no
    cdef public object text
    cdef public object payload
    cdef public Py_ssize_t orig_len
    cdef public object status
    cdef public int flags
    cdef public tuple spans

cdef class Command:
    cdef public Py_ssize_t command_no
    cdef public str text
    cdef public tuple params
    cdef public str operation
    cdef public str cls
    cdef public str fingerprint
    cdef public tuple resources
    cdef public tuple risk
    cdef public str confidence
    cdef public str parser
    cdef public str decision
    cdef public str rule
    cdef public object request_id
    cdef public str status
    cdef public str error_code
    cdef public str error_text
    cdef public tuple columns
    cdef public tuple origins
    cdef public object rows_returned
    cdef public object rows_affected
    cdef public object estimated_rows
    cdef public object txn_no
    cdef public str txn_status
    cdef public str target_ref
    cdef public str traceparent
    cdef public tuple paths
    cdef public tuple sha256
    cdef public Py_ssize_t masked
    cdef public Py_ssize_t bytes_in
    cdef public Py_ssize_t bytes_out
    cdef public long long started_at_us
    cdef public long long started_mono_ns
    cdef public long long first_event_no
    cdef public long long last_event_no

@cython.freelist(64)
cdef class Step:
    cdef public object side
    cdef public object frame
    cdef public tuple events
    cdef public tuple starts
    cdef public tuple ends
    cdef public bint synthetic
    cdef public tuple about

cpdef begin(Command command, Py_ssize_t command_no, str text)
@cython.locals(event=Event)
cpdef Event passed(object kind, object side, Py_ssize_t command_no, str text, bytes payload, int flags)
@cython.locals(step=Step)
cpdef Step step_of(object side, bytes frame, Event event, tuple starts, tuple ends, bint synthetic)

cdef class Conversation:
    cdef public object broken
    cdef public bint is_behind

    cpdef list receive(self, object side, bytes data)
