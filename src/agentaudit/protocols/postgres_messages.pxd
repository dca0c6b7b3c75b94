cimport cython

from agentaudit._native.raw cimport cut, int32_at, nul_at, uint16_at

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

cdef dict _SHAPES

@cython.locals(known=RowShape)
cpdef RowShape decode_row_description(bytes body, str codec=*)

@cython.freelist(64)
cdef class Parse:
    cdef public bytes name
    cdef public bytes sql
    cdef public tuple types

@cython.freelist(64)
cdef class Bind:
    cdef public bytes portal
    cdef public bytes statement
    cdef public tuple formats
    cdef public tuple values
    cdef public tuple result_formats

@cython.locals(name_end=Py_ssize_t, sql_end=Py_ssize_t, at=Py_ssize_t, count=Py_ssize_t)
cpdef Parse decode_parse(bytes body)
@cython.locals(portal_end=Py_ssize_t, statement_end=Py_ssize_t, at=Py_ssize_t, count=Py_ssize_t, formats=tuple, values=list, result_formats=tuple)
cpdef Bind decode_bind(bytes body)
@cython.locals(count=Py_ssize_t)
cdef tuple _decode_formats(bytes body, Py_ssize_t at)
@cython.locals(length=cython.longlong, end=Py_ssize_t, _=Py_ssize_t)
cdef Py_ssize_t _decode_values(bytes body, Py_ssize_t at, Py_ssize_t count, list values) except? -2
@cython.locals(end=Py_ssize_t)
cpdef tuple decode_execute(bytes body)
cpdef tuple decode_name(str kind, bytes body)
cpdef bytes decode_query(bytes body)
cpdef str text_of(bytes data, str codec)
