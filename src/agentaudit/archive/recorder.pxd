cimport cython

from agentaudit._native.raw cimport frame
from agentaudit._native.system cimport mono_ns, now_us

from agentaudit.archive.journal cimport JournalWriter, OpenSession
from agentaudit.archive.rows cimport command_row
from agentaudit.model cimport Command, Event

cdef class Waiter:
    cdef public long long event_no
    cdef public Waiter following

    cpdef go(self)

cdef class _Callback(Waiter):
    cdef public object _callback

cdef class _Waiters:
    cdef public Waiter first
    cdef public Waiter last
    cdef object _loop

    cpdef append(self, Waiter waiter)
    cpdef bint is_due(self, long long event_no)
    @cython.locals(waiter=Waiter)
    cpdef let_go(self, long long event_no)
    cdef _take_off(self, Waiter waiter)

cdef class Recorder:
    cdef public object failure
    cdef public bint is_recording
    cdef public bint is_behind
    cdef public bint is_starved
    cdef public object clock
    cdef public bint _is_system_clock
    cdef public object _place
    cdef public object _layout
    cdef public object _people
    cdef public int _mode_bits
    cdef public long long _segment_events
    cdef public long long _segment_bytes
    cdef public double _segment_age_s
    cdef public long long _disk_stop
    cdef public long long _journal_max
    cdef public object _on_failure
    cdef public object _on_notice
    cdef public object _on_behind
    cdef public object _loop
    cdef public dict _sessions
    cdef public long long _next_event_no
    cdef public JournalWriter _journal
    cdef public bytes _marker
    cdef public object _segment
    cdef public long long _segment_first
    cdef public double _segment_born_s
    cdef public list _buffer
    cdef public bint _flush_scheduled
    cdef public bint _in_turn
    cdef public bint _has_looked
    cdef public long long _now_us
    cdef public long long _mono_ns
    cdef public long long _written_no
    cdef public long long _synced_no
    cdef public long long _told_synced_no
    cdef public _Waiters _write_waiters
    cdef public _Waiters _sync_waiters
    cdef public set _waiting
    cdef public object _lazy_sync
    cdef public object _syncer
    cdef public object _sealer
    cdef public object _watch
    cdef public long long _ticked_no
    cdef public double _ticked_s
    cdef public double _starved_s
    cdef public bint _stopping
    cdef public bint _ended
    cdef public bint _ended_cleanly
    cdef public SessionRecorder control

    cpdef begin_turn(self)
    cpdef look(self)
    cpdef _tell(self)
    cpdef end_turn(self, bint more)
    cpdef release(self, callback, bint synced)
    cpdef hold(self, Waiter waiter, bint synced)
    @cython.locals(event_no=cython.longlong, framed=bytes)
    cdef long long _append(
        self,
        OpenSession state,
        bytes session_id,
        int kind,
        int flags,
        long long command_no,
        int status,
        long long orig_len,
        bytes text,
        bytes payload,
        bytes extra,
    ) except -1
    cdef _schedule_flush(self)
    @cython.locals(data=bytes)
    cpdef _flush(self, bint more=*)
    cpdef _sync_soon(self)

cdef class _Response:
    cdef public object digest
    cdef public long long size

cdef class SessionRecorder:
    cdef public OpenSession state
    cdef public bytes _id
    cdef public bint closed
    cdef public Recorder _recorder
    cdef public object _payload_limit
    cdef public dict _open
    cdef public dict _responses

    @cython.locals(recorder=Recorder, state=OpenSession, command=Command, flags=int, orig_len=cython.longlong, event_no=cython.longlong, payload=bytes, extra=bytes, text=object)
    cpdef record(self, Event event)
    @cython.locals(recorder=Recorder)
    cpdef begin(self, Command command)
    @cython.locals(recorder=Recorder, duration_us=cython.longlong, ended_us=cython.longlong, flags=int)
    cpdef end(self, Command command)

cdef bytes _utf8(str text)

cdef int _SESSION_OPEN, _SESSION_CLOSE, _COMMAND_END, _NO_STATUS, _FROM_TARGET, _MASKED, _TRUNCATED
