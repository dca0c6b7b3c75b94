cimport cython

from agentaudit._native.system cimport poll, receive, send

cdef class Poller:
    cdef public object loop
    cdef public object _turns
    cdef public int _most
    cdef public object _epoll
    cdef public dict _connections

    cpdef watch(self, Connection connection, int mask)
    cpdef _run(self)
    @cython.locals(connection=Connection, ready=list, at=Py_ssize_t)
    cdef bint _turn(self, bint may_go_on) except -1
    cdef _call(self, Connection connection, int mask)

cdef class Connection:
    cdef public int fd
    cdef public Poller _poller
    cdef public object _loop
    cdef public object _socket
    cdef public object _protocol
    cdef public object _tls
    cdef public object _incoming
    cdef public object _outgoing
    cdef public object _handshake
    cdef public int _mask
    cdef public Py_ssize_t _read_size
    cdef public list _waiting
    cdef public Py_ssize_t _waiting_bytes
    cdef public Py_ssize_t _high
    cdef public Py_ssize_t _low
    cdef public bint _is_reading
    cdef public bint _has_read_all
    cdef public bint _is_writing_paused
    cdef public bint _is_closing
    cdef public bint _wants_eof
    cdef public bint _is_lost
    cdef object __weakref__

    cdef ready(self, int mask)
    cdef _watch(self)
    @cython.locals(size=Py_ssize_t, got=Py_ssize_t)
    cdef _receive(self)
    cdef _receive_tls(self, bytes data)
    cpdef _decrypt(self)
    cpdef write(self, bytes data)
    cpdef _send_encrypted(self)
    @cython.locals(sent=Py_ssize_t)
    cdef _send(self, bytes data)
    @cython.locals(sent=Py_ssize_t, done=Py_ssize_t)
    cdef _send_waiting(self)
    cpdef _lose(self, object error)
