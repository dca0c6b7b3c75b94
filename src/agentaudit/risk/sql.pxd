cimport cython

from agentaudit.risk.names cimport Ctes, Scope, note_column

@cython.locals(stack=list, node=dict, scope=Scope, kind=str, ctes=Ctes, inside=list, key=str,
               its_scope=Scope, its_kind=str, mark=str, each=dict)
cdef _walk(dict statement, object judgement, Scope scope)

cdef _check(str key, object value, object judgement)

cdef tuple _place(str key, object value, dict node, Scope scope, str kind)

cdef Ctes _push_ctes(dict clause, Scope scope, list stack, object judgement)

cdef _note_relation(dict node, Scope scope, object judgement)
