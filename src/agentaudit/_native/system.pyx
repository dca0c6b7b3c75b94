# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `system.py` says in Python, said again in C; the same names, arguments and answers."""

from struct import Struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.types cimport off_t

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *to, size_t size)
    ssize_t c_write "write"(int fd, const void *data, size_t size)
    ssize_t c_pwrite "pwrite"(int fd, const void *data, size_t size, off_t offset)
    int c_fdatasync "fdatasync"(int fd)


# --- clocks


cpdef long long now_us() except -1:
    """See `system.py`."""
    cdef timespec now
    clock_gettime(CLOCK_REALTIME, &now)
    return now.tv_sec * 1000000LL + now.tv_nsec // 1000


cpdef long long mono_ns() except -1:
    """See `system.py`."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000000000LL + now.tv_nsec


# --- files


def write_all(int fd, bytes data):
    """See `system.py`."""
    cdef const char *at = PyBytes_AS_STRING(data)
    cdef size_t left = PyBytes_GET_SIZE(data)
    cdef ssize_t written
    while True:
        with nogil:
            written = c_write(fd, at, left)
        if written < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
            continue
        left -= written
        at += written
        if not left:
            return


def write_all_at(int fd, bytes data, long long offset):
    """See `system.py`."""
    cdef const char *at = PyBytes_AS_STRING(data)
    cdef size_t left = PyBytes_GET_SIZE(data)
    cdef ssize_t written
    while left:
        with nogil:
            written = c_pwrite(fd, at, left, offset)
        if written < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()
            continue
        left -= written
        at += written
        offset += written


SYNC = Struct("=qq")


def sync_loop(int asked, int telling):
    """See `system.py`."""
    cdef int64_t[2] message
    cdef ssize_t got
    with nogil:
        while True:
            got = c_read(asked, message, sizeof(message))
            if got < 0 and errno == EINTR:
                continue
            if got != sizeof(message):
                break
            got = c_fdatasync(<int> message[0])
            message[0] = message[1]
            message[1] = errno if got < 0 else 0
            while c_write(telling, message, sizeof(message)) < 0 and errno == EINTR:
                pass


# --- sockets, which do not block


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout)

cdef epoll_event[256] _events


cpdef list poll(epoll, int most):
    """See `system.py`."""
    cdef int count, i, fd = epoll.fileno()
    cdef list ready = []
    while True:
        count = epoll_wait(fd, _events, min(most, 256), 0)
        if count >= 0:
            break
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
    for i in range(count):
        ready.append(_events[i].data.fd)
        ready.append(_events[i].events)
    return ready


cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *to, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef char[65536] _received


cpdef bytes receive(int fd, Py_ssize_t size):
    """See `system.py`."""
    cdef ssize_t got
    cdef bytes made
    if size <= 65536:
        while True:
            got = c_recv(fd, _received, size, MSG_DONTWAIT)
            if got >= 0:
                return PyBytes_FromStringAndSize(_received, got)
            if errno != EINTR:
                break
    else:
        made = PyBytes_FromStringAndSize(NULL, size)
        while True:
            got = c_recv(fd, PyBytes_AS_STRING(made), size, MSG_DONTWAIT)
            if got == size:
                return made
            if got >= 0:
                return made[:got]
            if errno != EINTR:
                break
    if errno == EAGAIN:
        return None
    PyErr_SetFromErrno(OSError)


cpdef Py_ssize_t send(int fd, bytes data) except -1:
    """See `system.py`."""
    cdef ssize_t sent
    while True:
        sent = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent >= 0:
            return sent
        if errno == EAGAIN:
            return 0
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
