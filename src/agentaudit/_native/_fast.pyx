# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: embedsignature=True, freethreading_compatible=False
"""What `_twin` says in Python, said again in C; the same names, arguments and answers.

Every length that comes from outside is held against its buffer before it is used: a journal or a
Parquet file may be anybody's.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from agentaudit._native.raw cimport _has_escapes, _put32, _put64
from agentaudit._native.raw cimport c_crc32 as _crc32

ctypedef int (*sha_init)(void *) noexcept nogil
ctypedef int (*sha_update)(void *, const void *, size_t) noexcept nogil
ctypedef int (*sha_final)(unsigned char *, void *) noexcept nogil

cdef sha_init c_init = NULL
cdef sha_update c_update = NULL
cdef sha_final c_final = NULL

cdef enum:
    FIXED = 72
    HEAD = 24
    MAX_FRAME = 64 << 20
    MAX_KEPT = 1 << 20
    NO_VALUE = -1
    ELSEWHERE = -2
    SESSION_OPEN = 1
    SESSION_CLOSE = 2
    COMMAND_END = 5
    DECISION = 6
    ACCESS = 9
    LAST_KIND = 12
    # request, response, content, notice, refused
    SIDED = (1 << 3) | (1 << 4) | (1 << 7) | (1 << 8) | (1 << 12)

cdef uint64_t MAX_SUM = 0x7FFFFFFFFFFFFFFF
cdef uint32_t NULL_LENGTH = 0xFFFFFFFF
cdef int64_t MAX_INT = (1LL << 53) - 1
cdef int32_t NO_STATUS = -0x7FFFFFFF - 1


def use_sha256(size_t init, size_t update, size_t final):
    """Take the addresses of OpenSSL's SHA256_Init, SHA256_Update and SHA256_Final."""
    global c_init, c_update, c_final
    c_init = <sha_init> init
    c_update = <sha_update> update
    c_final = <sha_final> final


def crc32(const uint8_t[::1] data):
    """Return the CRC-32 of `data`, as `zlib.crc32` does."""
    return _crc32(&data[0], data.shape[0]) if data.shape[0] else 0


cdef inline uint16_t _u16(const uint8_t *p) noexcept nogil:
    return <uint16_t> (p[0] << 8 | p[1])


cdef inline uint32_t _u32(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3]


cdef inline uint64_t _u64(const uint8_t *p) noexcept nogil:
    return <uint64_t> _u32(p) << 32 | _u32(p + 4)


cdef inline const uint8_t *_at(const uint8_t[::1] view) noexcept:
    return &view[0] if view.shape[0] else NULL


cdef object _new(Py_ssize_t size):
    made = PyByteArray_FromStringAndSize(NULL, size)
    return made


cdef inline uint8_t *_raw(object array):
    return <uint8_t *> PyByteArray_AS_STRING(array)


# --- the journal


def scan(const uint8_t[::1] data, Py_ssize_t start, const uint8_t[::1] marker, uint64_t first_event_no, Py_ssize_t most):
    """See `_twin.scan`."""
    cdef const uint8_t *base = _at(data)
    cdef const uint8_t *mark = _at(marker)
    cdef Py_ssize_t size = data.shape[0], at = start, rows = 0, room = 0, end, p
    cdef uint32_t length, part
    cdef int verdict = 0, k
    cdef int64_t places[6]
    if marker.shape[0] != 16 or start < 0 or start > size:
        raise ValueError("scan")
    fixed, texts, payloads, ends = _new(0), _new(0), _new(0), _new(0)
    extras = []
    cdef uint8_t *fixed_p = NULL
    cdef int64_t *texts_p = NULL
    cdef int64_t *payloads_p = NULL
    cdef int64_t *ends_p = NULL
    while True:
        if rows == most:
            verdict = 1
            break
        if size - at < HEAD or memcmp(base + at, mark, 16) != 0:
            break
        length = _u32(base + at + 16)
        if length < FIXED + 12 or length > MAX_FRAME or size - at - HEAD < length:
            break
        p = at + HEAD
        end = p + length
        if _crc32(base + p, length) != _u32(base + at + 20):
            break
        if _u64(base + p) != first_event_no + <uint64_t> rows:
            verdict = 2
            break
        p += FIXED
        for k in range(3):
            if end - p < 4:
                verdict = 3
                break
            part = _u32(base + p)
            p += 4
            places[2 * k] = p
            if part == NULL_LENGTH and k < 2:
                places[2 * k + 1] = NO_VALUE
            elif <Py_ssize_t> part > end - p:
                verdict = 3
                break
            else:
                places[2 * k + 1] = part
                p += part
        if verdict == 0 and p != end:
            verdict = 3
        if verdict:
            break
        if rows == room:
            room = min(most, 2 * room + 256)
            fixed.extend(bytes(room * FIXED - len(fixed)))
            texts.extend(bytes(room * 16 - len(texts)))
            payloads.extend(bytes(room * 16 - len(payloads)))
            ends.extend(bytes(room * 8 - len(ends)))
            fixed_p = _raw(fixed)
            texts_p = <int64_t *> _raw(texts)
            payloads_p = <int64_t *> _raw(payloads)
            ends_p = <int64_t *> _raw(ends)
        memcpy(fixed_p + rows * FIXED, base + at + HEAD, FIXED)
        texts_p[2 * rows] = places[0]
        texts_p[2 * rows + 1] = places[1]
        payloads_p[2 * rows] = places[2]
        payloads_p[2 * rows + 1] = places[3]
        ends_p[rows] = end
        if places[5]:
            extras.append((rows, places[4], places[5]))
        rows += 1
        at = end
    del fixed[rows * FIXED :], texts[rows * 16 :], payloads[rows * 16 :], ends[rows * 8 :]
    return rows, at, verdict, fixed, texts, payloads, ends, extras


# --- fixed fields, from and into columns


def pack(
    Py_ssize_t rows,
    const int64_t[::1] event_no,
    const int64_t[::1] observed_us,
    const int64_t[::1] mono_ns,
    const uint8_t[::1] session_id,
    const int32_t[::1] seq,
    const int32_t[::1] command_no,
    const int32_t[::1] kind,
    const int32_t[::1] flags,
    const int32_t[::1] status,
    const int64_t[::1] orig_len,
    const int64_t[::1] stored_len,
):
    """See `_twin.pack`."""
    cdef Py_ssize_t row
    cdef uint8_t *p
    if session_id.shape[0] != 16 * rows:
        raise ValueError("pack")
    if (
        event_no.shape[0] != rows or observed_us.shape[0] != rows or mono_ns.shape[0] != rows
        or seq.shape[0] != rows or command_no.shape[0] != rows or kind.shape[0] != rows
        or flags.shape[0] != rows or status.shape[0] != rows or orig_len.shape[0] != rows
        or stored_len.shape[0] != rows
    ):
        raise ValueError("pack")
    fixed = _new(rows * FIXED)
    for row in range(rows):
        if (
            event_no[row] < 0 or mono_ns[row] < 0 or seq[row] < 0 or kind[row] < 0 or kind[row] > 0xFFFF
            or flags[row] < 0 or flags[row] > 0xFFFF or orig_len[row] < 0 or stored_len[row] < 0
        ):
            raise ValueError(f"event in row {row}: a field out of its range")
        p = _raw(fixed) + row * FIXED
        _put64(p, <uint64_t> event_no[row])
        _put64(p + 8, <uint64_t> observed_us[row])
        _put64(p + 16, <uint64_t> mono_ns[row])
        memcpy(p + 24, &session_id[16 * row], 16)
        _put32(p + 40, <uint32_t> seq[row])
        _put32(p + 44, <uint32_t> command_no[row])
        p[48] = kind[row] >> 8
        p[49] = kind[row] & 0xFF
        p[50] = flags[row] >> 8
        p[51] = flags[row] & 0xFF
        _put32(p + 52, <uint32_t> status[row])
        _put64(p + 56, <uint64_t> orig_len[row])
        _put64(p + 64, <uint64_t> stored_len[row])
    return fixed


def unpack(const uint8_t[::1] fixed):
    """See `_twin.unpack`."""
    cdef Py_ssize_t rows = fixed.shape[0] // FIXED, row, bits = (rows + 7) // 8
    cdef const uint8_t *p = _at(fixed)
    cdef uint64_t wide
    cdef int kind
    longs = [_new(rows * 8) for _ in range(5)]
    ints = [_new(rows * 4) for _ in range(6)]
    ids = _new(rows * 16)
    sided, known = _new(bits), _new(bits)
    memset(_raw(sided), 0, bits)
    memset(_raw(known), 0, bits)
    cdef uint8_t *sided_p = _raw(sided)
    cdef uint8_t *known_p = _raw(known)
    cdef uint8_t *ids_p = _raw(ids)
    cdef int64_t *event_no = <int64_t *> _raw(longs[0])
    cdef int64_t *observed_us = <int64_t *> _raw(longs[1])
    cdef int64_t *mono_ns = <int64_t *> _raw(longs[2])
    cdef int64_t *orig_len = <int64_t *> _raw(longs[3])
    cdef int64_t *stored_len = <int64_t *> _raw(longs[4])
    cdef int32_t *seq = <int32_t *> _raw(ints[0])
    cdef int32_t *command_no = <int32_t *> _raw(ints[1])
    cdef int32_t *kinds = <int32_t *> _raw(ints[2])
    cdef int32_t *side = <int32_t *> _raw(ints[3])
    cdef int32_t *status = <int32_t *> _raw(ints[4])
    cdef int32_t *flags = <int32_t *> _raw(ints[5])
    for row in range(rows):
        kind = _u16(p + 48)
        wide = _u64(p) | _u64(p + 16) | _u64(p + 56) | _u64(p + 64)
        if kind < 1 or kind > LAST_KIND or wide >> 63 or p[40] & 0x80:
            raise ValueError(f"event in row {row}: a field out of its range")
        event_no[row] = <int64_t> _u64(p)
        observed_us[row] = <int64_t> _u64(p + 8)
        mono_ns[row] = <int64_t> _u64(p + 16)
        memcpy(ids_p + 16 * row, p + 24, 16)
        seq[row] = <int32_t> _u32(p + 40)
        command_no[row] = <int32_t> _u32(p + 44)
        kinds[row] = kind - 1
        flags[row] = _u16(p + 50)
        side[row] = flags[row] & 1
        if SIDED >> kind & 1:
            sided_p[row >> 3] |= 1 << (row & 7)
        status[row] = <int32_t> _u32(p + 52)
        if status[row] != NO_STATUS:
            known_p[row >> 3] |= 1 << (row & 7)
        orig_len[row] = <int64_t> _u64(p + 56)
        stored_len[row] = <int64_t> _u64(p + 64)
        p += FIXED
    return (*longs, ids, *ints, sided, known)


# --- sessions


@cython.final
cdef class _Run:
    cdef bytes session_id
    cdef Py_ssize_t first, last, rows, commands
    cdef uint32_t first_seq
    cdef uint64_t bytes_in, bytes_out
    cdef bint opens, closes


def assign(const uint8_t[::1] fixed):
    """See `_twin.assign`."""
    cdef Py_ssize_t rows = fixed.shape[0] // FIXED, row, broken = -1
    cdef const uint8_t *base = _at(fixed)
    cdef const uint8_t *p
    cdef const uint8_t *before = NULL
    cdef _Run run
    cdef int32_t slot = -1
    cdef int kind
    cdef uint64_t length
    slots = _new(rows * 4)
    cdef int32_t *slots_p = <int32_t *> _raw(slots)
    cdef list runs = []
    cdef list ends = []
    cdef list others = []
    cdef dict current = {}
    run = None
    for row in range(rows):
        p = base + row * FIXED
        kind = _u16(p + 48)
        if before is NULL or kind == SESSION_OPEN or memcmp(before, p + 24, 16) != 0:
            session_id = PyBytes_FromStringAndSize(<const char *> p + 24, 16)
            found = None if kind == SESSION_OPEN else current.get(session_id)
            if found is None:
                run = _Run()
                run.session_id = session_id
                run.first = run.last = row
                run.rows = run.commands = 0
                run.first_seq = _u32(p + 40)
                run.bytes_in = run.bytes_out = 0
                run.opens = kind == SESSION_OPEN
                run.closes = False
                slot = <int32_t> len(runs)
                current[session_id] = slot
                runs.append(run)
            else:
                slot = found
                run = runs[slot]
            before = p + 24
        if broken < 0 and <uint64_t> _u32(p + 40) != <uint64_t> run.first_seq + <uint64_t> run.rows:
            broken = row
        slots_p[row] = slot
        run.rows += 1
        run.last = row
        if kind <= 15 and SIDED >> kind & 1:
            length = _u64(p + 56)
            if p[51] & 1:
                if length > MAX_SUM - run.bytes_out:
                    raise ValueError("bytes of a session beyond int64")
                run.bytes_out += length
            else:
                if length > MAX_SUM - run.bytes_in:
                    raise ValueError("bytes of a session beyond int64")
                run.bytes_in += length
        elif kind == COMMAND_END:
            run.commands += 1
            ends.append(row)
        elif kind == DECISION or kind == ACCESS:
            others.append(row)
        elif kind == SESSION_CLOSE:
            run.closes = True
            current.pop(run.session_id, None)
            before = NULL
    made = []
    for run in runs:
        made.append(
            (
                run.session_id,
                run.first,
                run.last,
                run.rows,
                run.first_seq,
                run.opens,
                run.closes,
                run.commands,
                run.bytes_in,
                run.bytes_out,
            )
        )
    return slots, made, ends, others, broken


# --- hashes


cdef inline void _salt(void *ctx, uint8_t *block, const uint8_t *key, uint8_t *out) noexcept nogil:
    """`block` holds "AA1salt", room for a key, and seq as u64."""
    memcpy(block + 7, key, 32)
    c_init(ctx)
    c_update(ctx, block, 47)
    c_final(out, ctx)


@cython.final
cdef class _Values:
    """Texts or payloads: places in a buffer, and those that lie elsewhere."""

    cdef const int64_t[::1] places
    cdef const uint8_t[::1] data
    cdef dict elsewhere
    cdef bytes held

    def __cinit__(self, places, data, elsewhere, Py_ssize_t rows):
        self.places = memoryview(places).cast("B").cast("q")
        self.data = data
        self.elsewhere = elsewhere
        if self.places.shape[0] != 2 * rows:
            raise ValueError("places")

    cdef int64_t find(self, Py_ssize_t row, const uint8_t **p) except -3:
        """Return the length of a value, or -1 for null, and where it lies until the next call."""
        cdef int64_t at = self.places[2 * row], length = self.places[2 * row + 1]
        if length == ELSEWHERE:
            self.held = self.elsewhere[row]
            p[0] = <const uint8_t *> PyBytes_AS_STRING(self.held)
            return PyBytes_GET_SIZE(self.held)
        if length < 0:
            return -1
        if at < 0 or at > self.data.shape[0] or length > self.data.shape[0] - at:
            raise ValueError(f"event in row {row}: lies outside its buffer")
        p[0] = &self.data[at] if length else <const uint8_t *> b""
        return length


def hash_rows(const uint8_t[::1] fixed, texts, payloads, slots, const uint8_t[::1] keys, dict spans, given, given_data):
    """See `_twin.hash_rows`."""
    cdef Py_ssize_t rows = fixed.shape[0] // FIXED, row
    cdef _Values text_values = _Values(*texts, rows)
    cdef _Values payload_values = _Values(*payloads, rows)
    cdef const int32_t[::1] slot = memoryview(slots).cast("B").cast("i")
    cdef const uint8_t[::1] how = given if given is not None else b""
    cdef const uint8_t[::1] what = given_data if given is not None else b""
    cdef Py_ssize_t sessions = keys.shape[0] // 96
    cdef uint64_t[32] context
    cdef void *ctx = <void *> context
    cdef uint8_t[47] block
    cdef uint8_t[201] leaf
    cdef uint8_t[32] full
    cdef uint8_t[20] head
    cdef const uint8_t *key
    cdef const uint8_t *p
    cdef const uint8_t *value = NULL
    cdef int64_t length
    cdef uint8_t *commit
    cdef int taken
    if c_init is NULL:
        raise RuntimeError("no SHA-256 yet")
    if slot.shape[0] != rows or (given is not None and (how.shape[0] != rows or what.shape[0] != 32 * rows)):
        raise ValueError("hash_rows")
    leaves, commits = _new(rows * 32), _new(rows * 32)
    cdef uint8_t *leaves_p = _raw(leaves)
    cdef uint8_t *commits_p = _raw(commits)
    memcpy(block, b"AA1salt", 7)
    memset(block + 39, 0, 4)
    leaf[0] = 0
    memcpy(leaf + 1, b"AA1\0", 4)
    for row in range(rows):
        if slot[row] < 0 or slot[row] >= sessions:
            raise ValueError("hash_rows")
        key = &keys[96 * slot[row]]
        p = &fixed[row * FIXED]
        memcpy(leaf + 5, p, FIXED)
        memcpy(block + 43, p + 40, 4)
        _salt(ctx, block, key, full)
        memcpy(leaf + 77, full, 16)

        length = text_values.find(row, &value)
        if length < 0:
            memset(leaf + 93, 0, 32)
        else:
            _salt(ctx, block, key + 32, full)
            memcpy(head, b"AA1t", 4)
            memcpy(head + 4, full, 16)
            c_init(ctx)
            c_update(ctx, head, 20)
            c_update(ctx, value, length)
            c_final(leaf + 93, ctx)

        commit = commits_p + row * 32
        taken = how[row] if given is not None else 0
        if taken == 1:
            memcpy(commit, &what[32 * row], 32)
        else:
            length = payload_values.find(row, &value)
            if length < 0:
                memset(commit, 0, 32)
            else:
                if taken == 2:
                    memcpy(full, &what[32 * row], 16)
                else:
                    _salt(ctx, block, key + 64, full)
                memcpy(head, b"AA1p", 4)
                memcpy(head + 4, full, 16)
                c_init(ctx)
                c_update(ctx, head, 20)
                c_update(ctx, value, length)
                c_final(commit, ctx)
        memcpy(leaf + 125, commit, 32)
        if spans and row in spans:
            memcpy(leaf + 157, PyBytes_AS_STRING(<bytes?> spans[row]), 32)
        else:
            memset(leaf + 157, 0, 32)
        c_init(ctx)
        c_update(ctx, leaf, 189)
        c_final(leaves_p + row * 32, ctx)
    return leaves, commits


def by_slot(const uint8_t[::1] leaves, slots, counts):
    """See `_twin.by_slot`."""
    cdef const int32_t[::1] slot = memoryview(slots).cast("B").cast("i")
    cdef Py_ssize_t rows = slot.shape[0], row, at = 0, n = len(counts), k
    if leaves.shape[0] != 32 * rows:
        raise ValueError("by_slot")
    grouped, cursor = _new(32 * rows), _new(16 * n)
    cdef uint8_t *grouped_p = _raw(grouped)
    cdef int64_t *next_p = <int64_t *> _raw(cursor)
    for k in range(n):
        next_p[2 * k] = at
        at += counts[k]
        next_p[2 * k + 1] = at
    if at != rows:
        raise ValueError("by_slot")
    for row in range(rows):
        k = slot[row]
        if k < 0 or k >= n or next_p[2 * k] >= next_p[2 * k + 1]:
            raise ValueError("by_slot")
        memcpy(grouped_p + 32 * next_p[2 * k], &leaves[32 * row], 32)
        next_p[2 * k] += 1
    return grouped


def extend_tree(bytes subtrees, uint64_t size, const uint8_t[::1] leaves):
    """See `_twin.extend_tree`."""
    cdef uint8_t[64 * 32] stack
    cdef uint8_t[65] node
    cdef uint64_t[32] context
    cdef void *ctx = <void *> context
    cdef Py_ssize_t depth = PyBytes_GET_SIZE(subtrees) // 32, rows = leaves.shape[0] // 32, row
    cdef uint64_t n
    if depth > 60 or leaves.shape[0] % 32 or size >> 60:
        raise ValueError("extend_tree")
    n = size
    row = 0
    while n:
        row += <Py_ssize_t> (n & 1)
        n >>= 1
    if row != depth:
        raise ValueError("extend_tree")
    if c_init is NULL:
        raise RuntimeError("no SHA-256 yet")
    memcpy(stack, PyBytes_AS_STRING(subtrees), depth * 32)
    node[0] = 1
    for row in range(rows):
        memcpy(node + 33, &leaves[32 * row], 32)
        n = size
        while n & 1:
            depth -= 1
            memcpy(node + 1, stack + 32 * depth, 32)
            c_init(ctx)
            c_update(ctx, node, 65)
            c_final(node + 33, ctx)
            n >>= 1
        memcpy(stack + 32 * depth, node + 33, 32)
        depth += 1
        size += 1
    return PyBytes_FromStringAndSize(<const char *> stack, depth * 32)


# --- columns


def gather(values, Py_ssize_t rows, int64_t cap, bint is_text):
    """See `_twin.gather`."""
    cdef _Values source = _Values(*values, rows)
    cdef Py_ssize_t row, bits = (rows + 7) // 8
    cdef int64_t length, total = 0, cut
    cdef const uint8_t *p = NULL
    offsets, lengths, valid = _new(4 * (rows + 1)), _new(8 * rows), _new(bits)
    cdef int32_t *offsets_p = <int32_t *> _raw(offsets)
    cdef int64_t *lengths_p = <int64_t *> _raw(lengths)
    cdef uint8_t *valid_p = _raw(valid)
    memset(valid_p, 0, bits)
    longer = []
    offsets_p[0] = 0
    for row in range(rows):
        length = source.find(row, &p)
        lengths_p[row] = 0 if length < 0 else length
        if length >= 0:
            valid_p[row >> 3] |= 1 << (row & 7)
            cut = length
            if length > cap:
                cut = cap
                while is_text and cut > 0 and p[cut] & 0xC0 == 0x80:
                    cut -= 1
                longer.append(row)
            total += cut
            if total > 0x7FFFFFFF:
                raise ValueError("a batch beyond 2 GiB")
        offsets_p[row + 1] = <int32_t> total
    data = _new(total)
    cdef uint8_t *data_p = _raw(data)
    for row in range(rows):
        cut = offsets_p[row + 1] - offsets_p[row]
        if cut:
            source.find(row, &p)
            memcpy(data_p + offsets_p[row], p, cut)
    return offsets, data, valid, lengths, longer


def places_of(const int32_t[::1] offsets, valid, Py_ssize_t first, Py_ssize_t rows):
    """See `_twin.places_of`."""
    cdef Py_ssize_t row
    cdef const uint8_t[::1] bits = valid if valid is not None else b""
    if offsets.shape[0] != rows + 1 or (valid is not None and bits.shape[0] * 8 < first + rows):
        raise ValueError("places_of")
    places = _new(16 * rows)
    cdef int64_t *p = <int64_t *> _raw(places)
    for row in range(rows):
        p[2 * row] = offsets[row]
        if valid is not None and not bits[(first + row) >> 3] >> ((first + row) & 7) & 1:
            p[2 * row + 1] = NO_VALUE
        else:
            p[2 * row + 1] = <int64_t> offsets[row + 1] - offsets[row]
            if p[2 * row + 1] < 0:
                raise ValueError("places_of")
    return places


def lookup(slots, const int32_t[::1] table):
    """See `_twin.lookup`."""
    cdef const int32_t[::1] slot = memoryview(slots).cast("B").cast("i")
    cdef Py_ssize_t rows = slot.shape[0], row, n = table.shape[0]
    found = _new(4 * rows)
    cdef int32_t *p = <int32_t *> _raw(found)
    for row in range(rows):
        if slot[row] < 0 or slot[row] >= n:
            raise ValueError("lookup")
        p[row] = table[slot[row]]
    return found


# --- rows of commands, from canonical JSON


@cython.final
cdef class _Bytes:
    """Bytes that grow."""

    cdef uint8_t *p
    cdef size_t size, room

    def __dealloc__(self):
        free(self.p)

    cdef int more(self, size_t size) except -1:
        cdef size_t room = 2 * self.room + size + 256
        cdef void *p = realloc(self.p, room)
        if p is NULL:
            raise MemoryError
        self.p = <uint8_t *> p
        self.room = room
        return 0

    cdef inline int grow(self, size_t size) except -1:
        if self.size + size > self.room:
            return self.more(size)
        return 0

    cdef inline int put32(self, int32_t value) except -1:
        self.grow(4)
        memcpy(self.p + self.size, &value, 4)
        self.size += 4
        return 0

    cdef inline int put64(self, int64_t value) except -1:
        self.grow(8)
        memcpy(self.p + self.size, &value, 8)
        self.size += 8
        return 0

    cdef inline int put8(self, uint8_t value) except -1:
        self.grow(1)
        self.p[self.size] = value
        self.size += 1
        return 0

    cdef object take(self):
        return PyBytes_FromStringAndSize(<const char *> self.p, self.size)


@cython.final
cdef class _Column:
    """One column under way. `valid` has a byte a row, `item_valid` one an item."""

    cdef bytes name
    cdef char form
    cdef bint default_null
    cdef _Bytes values, valid, data, item_valid
    cdef Py_ssize_t rows

    def __cinit__(self, bytes name, bytes form, bint default_null):
        self.name = name
        self.form = form[0]
        self.default_null = default_null
        self.values, self.valid, self.data, self.item_valid = _Bytes(), _Bytes(), _Bytes(), _Bytes()
        if self.form == c"s":
            self.values.put32(0)
        elif self.form == c"l":
            self.data.put32(0)
            self.values.put32(0)




cdef inline int _hex(uint8_t c) noexcept nogil:
    if c"0" <= c <= c"9":
        return c - c"0"
    if c"a" <= c <= c"f":
        return c - c"a" + 10
    if c"A" <= c <= c"F":
        return c - c"A" + 10
    return -1


cdef inline int _unit(const uint8_t *p, const uint8_t *end) noexcept nogil:
    """Return the UTF-16 code unit of four hexadecimal digits, or -1."""
    cdef int unit = 0, k, digit
    if end - p < 4:
        return -1
    for k in range(4):
        digit = _hex(p[k])
        if digit < 0:
            return -1
        unit = unit << 4 | digit
    return unit


cdef const uint8_t *_string(const uint8_t *p, const uint8_t *end, _Bytes out) except? NULL:
    """Append what the string whose first byte is at `p` means; return what follows its quote.

    NULL: not a string as this parser knows them.
    """
    cdef const uint8_t *run = p
    cdef uint8_t c
    cdef int unit, low
    cdef uint64_t word
    while True:
        # Eight bytes at a time, as long as none of them is a quote, a backslash or a control.
        while end - p >= 8:
            memcpy(&word, p, 8)
            if _has_escapes(word):
                break
            p += 8
        while p < end and p[0] != c'"' and p[0] != c"\\" and p[0] >= 0x20:
            p += 1
        if p == end:
            return NULL
        out.grow(p - run)
        memcpy(out.p + out.size, run, p - run)
        out.size += p - run
        if p[0] == c'"':
            return p + 1
        if p[0] != c"\\" or end - p < 2:
            return NULL
        c = p[1]
        p += 2
        if c == c'"' or c == c"\\" or c == c"/":
            out.put8(c)
        elif c == c"n":
            out.put8(10)
        elif c == c"t":
            out.put8(9)
        elif c == c"r":
            out.put8(13)
        elif c == c"b":
            out.put8(8)
        elif c == c"f":
            out.put8(12)
        elif c == c"u":
            unit = _unit(p, end)
            p += 4
            if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
                return NULL
            if 0xD800 <= unit:
                if 0xD800 <= unit <= 0xDBFF:
                    if end - p < 6 or p[0] != c"\\" or p[1] != c"u":
                        return NULL
                    low = _unit(p + 2, end)
                    if low < 0xDC00 or low > 0xDFFF:
                        return NULL
                    p += 6
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
            if unit < 0x80:
                out.put8(unit)
            elif unit < 0x800:
                out.put8(0xC0 | unit >> 6)
                out.put8(0x80 | unit & 0x3F)
            elif unit < 0x10000:
                out.put8(0xE0 | unit >> 12)
                out.put8(0x80 | unit >> 6 & 0x3F)
                out.put8(0x80 | unit & 0x3F)
            else:
                out.put8(0xF0 | unit >> 18)
                out.put8(0x80 | unit >> 12 & 0x3F)
                out.put8(0x80 | unit >> 6 & 0x3F)
                out.put8(0x80 | unit & 0x3F)
        else:
            return NULL
        run = p


cdef inline bint _is_null(const uint8_t *p, const uint8_t *end) noexcept nogil:
    return end - p >= 4 and memcmp(p, b"null", 4) == 0


cdef const uint8_t *_value(const uint8_t *p, const uint8_t *end, _Column column, _Bytes items) except? NULL:
    """Append the value at `p` to `column`; NULL where it is not of the column's form."""
    cdef int64_t number = 0
    cdef int digits = 0
    cdef bint negative = False
    cdef uint8_t c
    if _is_null(p, end):
        _nothing(column, True)
        return p + 4
    if p == end:
        return NULL
    if column.form == c"i":
        if p[0] == c"-":
            negative = True
            p += 1
        while p < end and c"0" <= p[0] <= c"9" and digits <= 16:
            number = number * 10 + (p[0] - c"0")
            if digits == 0 and number == 0 and (negative or (end - p > 1 and c"0" <= p[1] <= c"9")):
                return NULL
            digits += 1
            p += 1
        if digits == 0 or number > MAX_INT:
            return NULL
        column.values.put64(-number if negative else number)
    elif column.form == c"s":
        if p[0] != c'"':
            return NULL
        p = _string(p + 1, end, column.data)
        if p is NULL:
            return NULL
        if column.data.size > 0x7FFFFFFF:
            raise ValueError("a batch beyond 2 GiB")
        column.values.put32(<int32_t> column.data.size)
    else:
        if p[0] != c"[":
            return NULL
        p += 1
        if p < end and p[0] == c"]":
            p += 1
        else:
            while True:
                if _is_null(p, end):
                    p += 4
                    column.item_valid.put8(0)
                elif p < end and p[0] == c'"':
                    p = _string(p + 1, end, items)
                    if p is NULL:
                        return NULL
                    column.item_valid.put8(1)
                else:
                    return NULL
                if items.size > 0x7FFFFFFF:
                    raise ValueError("a batch beyond 2 GiB")
                column.data.put32(<int32_t> items.size)
                if p == end:
                    return NULL
                c = p[0]
                p += 1
                if c == c"]":
                    break
                if c != c",":
                    return NULL
        column.values.put32(<int32_t> column.item_valid.size)
    column.valid.put8(1)
    column.rows += 1
    return p


cdef int _nothing(_Column column, bint is_null) except -1:
    """Append null, or what stands for a member that is not there."""
    if column.form == c"i":
        column.values.put64(0)
    elif column.form == c"s":
        column.values.put32(<int32_t> column.data.size)
    else:
        column.values.put32(<int32_t> column.item_valid.size)
    column.valid.put8(0 if is_null else 1)
    column.rows += 1
    return 0


def json_columns(payloads, Py_ssize_t rows, picked, members):
    """See `_twin.json_columns`."""
    cdef _Values source = _Values(*payloads, rows)
    cdef list columns = [_Column(name, form, default_null) for name, form, default_null in members]
    cdef list items = [_Bytes() for _ in members]
    cdef const uint8_t *p = NULL
    cdef const uint8_t *end
    cdef const uint8_t *name
    cdef int64_t length
    cdef Py_ssize_t done = 0, k, n = len(columns), name_size, row
    cdef _Column column
    cdef int order
    cdef uint8_t c
    for picked_row in picked:
        row = picked_row
        if row < 0 or row >= rows:
            raise ValueError("json_columns")
        length = source.find(row, &p)
        if length < 2 or p[0] != c"{":
            return None
        end = p + length
        p += 1
        k = 0
        if p[0] == c"}":
            p += 1
        else:
            while True:
                # Members come sorted, as our columns do: one pass over both, and none twice.
                if p == end or p[0] != c'"':
                    return None
                p += 1
                name = p
                while p < end and p[0] != c'"':
                    p += 1
                if end - p < 2 or p[1] != c":":
                    return None
                name_size = p - name
                p += 2
                while True:
                    if k == n:
                        return None
                    column = <_Column> columns[k]
                    order = _compare(name, name_size, column.name)
                    if order == 0:
                        break
                    if order < 0:
                        return None
                    _nothing(column, column.default_null)
                    k += 1
                p = _value(p, end, column, <_Bytes> items[k])
                k += 1
                if p is NULL or p == end:
                    return None
                c = p[0]
                p += 1
                if c == c"}":
                    break
                if c != c",":
                    return None
        if p != end:
            return None
        while k < n:
            column = <_Column> columns[k]
            _nothing(column, column.default_null)
            k += 1
        done += 1
    made = []
    for k in range(n):
        column = <_Column> columns[k]
        made.append(
            (
                column.valid.take(),
                column.values.take(),
                column.data.take(),
                column.item_valid.take(),
                (<_Bytes> items[k]).take(),
            )
        )
    return made


cdef inline int _compare(const uint8_t *name, Py_ssize_t size, bytes other) noexcept:
    cdef Py_ssize_t other_size = PyBytes_GET_SIZE(other)
    cdef int order = memcmp(name, PyBytes_AS_STRING(other), min(size, other_size))
    if order:
        return order
    return -1 if size < other_size else 1 if size > other_size else 0


# --- texts


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* Where `needle` next begins in `p[at..end)`, or -1: its first and last byte are looked for side
       by side, sixteen places at a time, and only what has both is compared. */
    static int64_t next_place(
        const uint8_t *p, int64_t at, int64_t end, const uint8_t *needle, int64_t size)
    {
        const int64_t last = end - size;
    #ifdef __SSE2__
        const __m128i head = _mm_set1_epi8((char) needle[0]);
        const __m128i tail = _mm_set1_epi8((char) needle[size - 1]);
        for (; at + 15 <= last; at += 16) {
            const __m128i heads = _mm_loadu_si128((const __m128i *)(p + at));
            const __m128i tails = _mm_loadu_si128((const __m128i *)(p + at + size - 1));
            unsigned both = (unsigned) _mm_movemask_epi8(
                _mm_and_si128(_mm_cmpeq_epi8(heads, head), _mm_cmpeq_epi8(tails, tail)));
            for (; both; both &= both - 1) {
                const int64_t place = at + __builtin_ctz(both);
                if (!memcmp(p + place, needle, (size_t) size))
                    return place;
            }
        }
    #endif
        for (; at <= last; at++)
            if (p[at] == needle[0] && !memcmp(p + at, needle, (size_t) size))
                return at;
        return -1;
    }
    """
    int64_t next_place(
        const uint8_t *p, int64_t at, int64_t end, const uint8_t *needle, int64_t size
    ) noexcept nogil


def holders(data, const int32_t[::1] offsets, bytes needle):
    """See `_twin.holders`."""
    cdef const uint8_t[::1] view = data
    cdef const uint8_t *p = _at(view)
    cdef const uint8_t *wanted = <const uint8_t *> PyBytes_AS_STRING(needle)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(needle), texts = offsets.shape[0] - 1, text
    cdef int64_t at, end
    if size == 0 or texts < 0 or offsets[0] < 0 or offsets[texts] > view.shape[0]:
        raise ValueError("holders")
    found = _new(texts)
    cdef uint8_t *marks = _raw(found)
    cdef bint is_sound = True
    with nogil:
        memset(marks, 0, texts)
        for text in range(texts):
            is_sound = is_sound and offsets[text] <= offsets[text + 1]
        if is_sound:
            text = 0
            end = offsets[texts]
            at = next_place(p, offsets[0], end, wanted, size)
            while at >= 0:
                while offsets[text + 1] <= at:
                    text += 1
                if at + size <= offsets[text + 1]:
                    marks[text] = 1
                    at = offsets[text + 1]
                else:
                    at += 1
                at = next_place(p, at, end, wanted, size)
    if not is_sound:
        raise ValueError("holders")
    return found


def marked(const uint8_t[::1] marks, const uint32_t[::1] codes):
    """See `_twin.marked`."""
    cdef Py_ssize_t rows = codes.shape[0], row, n = 0
    cdef uint32_t size = <uint32_t> min(<uint64_t> marks.shape[0], <uint64_t> 0xFFFFFFFF)
    cdef bint is_sound = True
    found = _new(4 * rows)
    cdef uint32_t *places = <uint32_t *> _raw(found)
    with nogil:
        for row in range(rows):
            if codes[row] >= size:
                is_sound = False
                break
            # No branch: which rows come next is nothing that a processor could guess.
            places[n] = <uint32_t> row
            n += marks[codes[row]] != 0
    if not is_sound:
        raise ValueError("marked")
    return found[: 4 * n]


cdef uint8_t[128] TEXT
memset(TEXT, 0, 128)
# 1 what may stand there, 2 a part of a word, 4 a digit.
for _letter in list(b" \t\r\n.,=<>()*+;$/%-"):
    TEXT[<int> _letter] = 1
for _letter in list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"):
    TEXT[<int> _letter] = 1 | 2
for _letter in list(b"0123456789"):
    TEXT[<int> _letter] = 1 | 2 | 4


def without_numbers(str text):
    """See `_twin.without_numbers`."""
    cdef Py_ssize_t size = 0, i, start
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size) if text.isascii() else NULL
    cdef uint8_t c, before = 32
    cdef bint has_numbers = False
    if data == NULL:
        return text
    for i in range(size):
        c = <uint8_t> data[i]
        if not TEXT[c] or (c == 45 and before == 45) or (c == 42 and before == 47):
            return text
        has_numbers = has_numbers or TEXT[c] & 4
        before = c
    if not has_numbers:
        return text
    cdef bytearray made = _new(size)
    cdef uint8_t *to = _raw(made)
    i = 0
    before = 32
    while i < size:
        c = <uint8_t> data[i]
        if not TEXT[c] & 4 or TEXT[before] & 2 or before == 46 or before == 36:
            to[0] = c
            to += 1
            before = c
            i += 1
            continue
        start = i
        while i < size and TEXT[<uint8_t> data[i]] & 4:
            i += 1
        if i - start <= 9 and (i == size or not (TEXT[<uint8_t> data[i]] & 2 or data[i] == 46)):
            to[0] = 49
            to += 1
        else:
            memcpy(to, data + start, i - start)
            to += i - start
        before = 48
    return PyUnicode_DecodeASCII(<char *> _raw(made), to - _raw(made), NULL)
