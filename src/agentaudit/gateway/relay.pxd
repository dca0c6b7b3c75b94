cimport cython

from agentaudit.archive.recorder cimport Recorder, SessionRecorder, Waiter
from agentaudit.model cimport Command, Conversation, Event, Step

cdef class _Held(Waiter):
    cdef public Relay relay
    cdef public _Direction direction
    cdef public bytes data
    cdef public bint is_ready
    cdef public bint is_whole
    cdef public _Held behind

cdef class _Paused:
    cdef public object asked
    cdef public str commit
    cdef public list holds
    cdef public bint is_counting
    cdef public bint is_moot
    cdef public bint is_nudged
    cdef public bytes notice
    cdef public list rest
    cdef public list skipped
    cdef public list backlog
    cdef public Py_ssize_t backlog_bytes
    cdef public Step step

cdef class _Direction:
    cdef public _Held held
    cdef public _Held last_held
    cdef public Py_ssize_t held_bytes
    cdef public Py_ssize_t high_water_bytes
    cdef public bint is_behind
    cdef public bint is_sink_full
    cdef public bint is_source_paused
    cdef public bint is_held_up
    cdef public bint is_whole
    cdef public object sink
    cdef public bint sink_lost
    cdef public object source
    cdef public bint source_ended

    cdef hold(self, _Held held)
    @cython.locals(held=_Held)
    cdef release(self)
    cdef _take_off(self, _Held held)
    @cython.locals(must_wait=cython.bint)
    cpdef throttle(self)

cdef class _Leg:
    cdef public Relay _relay
    cdef public object _side
    cdef public _Direction _from_it
    cdef public _Direction _to_it
    cdef public bint _half_closes

cdef class Relay:
    cdef public SessionRecorder session
    cdef public bint is_closing
    cdef public bint was_busy
    cdef public Conversation _conversation
    cdef public object _judge
    cdef public object _masker
    cdef public object _withheld
    cdef public Recorder _recorder
    cdef public bint _all_synced
    cdef public bint _reads_unsynced
    cdef public long long _bytes_left
    cdef public object _client
    cdef public object _target
    cdef public object _asks
    cdef public _Paused _paused
    cdef public list _skipped
    cdef public _Direction _up
    cdef public _Direction _down
    cdef public object _ended
    cdef public object _gone
    cdef public set _reads
    cdef public bytes _last_client_frame
    cdef public str _reason
    cdef public bint _has_ended
    cdef public bint _is_gone
    cdef public tuple _drain_words
    cdef public object _linger

    @cython.locals(direction=_Direction, up=_Direction, conversation=Conversation)
    cpdef receive(self, object side, bytes data)
    @cython.locals(step=Step, last_down=Step, stand_in=Step, goes_up=cython.bint, up_synced=cython.bint, down_synced=cython.bint, command=Command)
    cdef _take(self, list steps)
    cdef _refuse(self, Step step, object refusal, list up)
    @cython.locals(command=Command)
    cdef object _begin(self, Step step)
    @cython.locals(event=Event)
    cdef _Paused _pause(self, Step step, list holds)
    cdef _keep(self, _Paused paused, bytes data)
    @cython.locals(command=Command)
    cdef _end_skipped(self, Step step)
    cdef _look_at_paused(self)
    cdef _give_notice(self, _Paused paused)
    @cython.locals(step=Step, command=Command)
    cdef _go_on(self, _Paused paused, object outcome)
    @cython.locals(held=_Held)
    cdef _hold(self, _Direction direction, list frames, bint synced, bint is_whole)
    cpdef finish(self, _Direction direction)

cdef int _CONTINUED, _LOW_SHARE

@cython.locals(last=Event)
cdef bint _is_whole(Step step) except -1
