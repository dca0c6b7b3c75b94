cimport cython

cdef class Ctes:
    cdef public Py_ssize_t _count
    cdef public Ctes _outer
    cdef public object _places

cdef class Scope:
    cdef public Ctes ctes
    cdef public str does
    cdef public bint has_star
    cdef public Scope outer
    cdef public object outputs
    cdef public Py_ssize_t relations
    cdef public dict tables

    cpdef Scope beside(self)

cdef _note_targets(str name, object targets, dict columns)

cdef _called(dict item)

@cython.locals(tables=dict, stack=list, item=dict, body=dict)
cdef _add_tables(object items, Scope scope, dict columns)

@cython.locals(names=list, each=dict, around=list, seen=Scope)
cpdef note_column(list fields, Scope scope, dict columns)

@cython.locals(seen=Scope)
cdef _note_qualified(list names, Scope scope, dict columns)
