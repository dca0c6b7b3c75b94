cpdef long long now_us() except -1
cpdef long long mono_ns() except -1
cpdef list poll(epoll, int most)
cpdef bytes receive(int fd, Py_ssize_t size)
cpdef Py_ssize_t send(int fd, bytes data) except -1
