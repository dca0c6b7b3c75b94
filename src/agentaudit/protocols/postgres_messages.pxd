cdef class Report:
    cdef public str severity
    cdef public str code
    cdef public str message
    cdef public str detail
    cdef public str hint

cdef class RowShape:
    cdef public tuple columns
    cdef public tuple names
    cdef public tuple origins
