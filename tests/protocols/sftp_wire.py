"""SFTP's packets, written from draft-ietf-secsh-filexfer-02 alone."""

from __future__ import annotations

import struct


def packet(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


def string(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def request(kind: int, number: int, *fields: bytes | int) -> bytes:
    """A request; integers are of four bytes, or of eight where they are offsets (`u64`)."""
    body = b"".join(struct.pack(">I", f) if isinstance(f, int) else f for f in fields)
    return packet(kind, struct.pack(">I", number) + body)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


INIT = packet(1, struct.pack(">I", 3))
VERSION = packet(2, struct.pack(">I", 3) + string(b"posix-rename@openssh.com") + string(b"1"))
NO_ATTRIBUTES = struct.pack(">I", 0)
READ, WRITE, CREATE = 1, 0x1A, 8


def opens(number: int, path: bytes, flags: int = READ) -> bytes:
    return request(3, number, string(path), flags, NO_ATTRIBUTES)


def closes(number: int, handle: bytes) -> bytes:
    return request(4, number, string(handle))


def reads(number: int, handle: bytes, offset: int, size: int) -> bytes:
    return request(5, number, string(handle), u64(offset), size)


def writes(number: int, handle: bytes, offset: int, data: bytes) -> bytes:
    return request(6, number, string(handle), u64(offset), string(data))


def status(number: int, code: int = 0, message: bytes = b"") -> bytes:
    return request(101, number, code, string(message), string(b""))


def handle(number: int, name: bytes) -> bytes:
    return request(102, number, string(name))


def data(number: int, content: bytes) -> bytes:
    return request(103, number, string(content))


def name(number: int, *names: bytes) -> bytes:
    entries = [string(one) + string(b"-rw------- 1 a b " + one) + NO_ATTRIBUTES for one in names]
    return request(104, number, len(names), *entries)
