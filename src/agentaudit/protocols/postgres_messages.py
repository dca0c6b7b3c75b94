"""PostgreSQL messages, one at a time: start-up packets, login, and the fields that we record.

A decoder takes the body of a message, without its type byte and length; an encoder returns the
whole frame. Strictness is the surprising part: a message whose parts do not add up to its length
is refused although a server might read on, because what two parsers read differently is what an
auditor cannot trust.

Format: postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentaudit._native.raw import cut, int32_at, nul_at, uint16_at
from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.protocols.postgres_values import PLAIN, TEXTS, UNWRITTEN, Writer

PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = 3 << 16 | 2

MAX_STARTUP_BYTES: Final = 10_000
"""The server's own limit (MAX_STARTUP_PACKET_LENGTH, src/include/libpq/pqcomm.h)."""

MAX_LOGIN_MESSAGE_BYTES: Final = 64 * 1024
"""Room for a token with hundreds of groups, and for any error that ends a login."""

CANCEL_REQUEST_CODE: Final = 80877102
SSL_REQUEST_CODE: Final = 80877103
GSSENC_REQUEST_CODE: Final = 80877104
_TLS_HANDSHAKE: Final = 0x16

_HEADER: Final = struct.Struct("!Bi")
_INT16: Final = struct.Struct("!h")
_UINT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!i")
_UINT32: Final = struct.Struct("!I")
_COLUMN: Final = struct.Struct("!IhIhih")


# Start-up packets: the only ones without a type byte.


@dataclass(frozen=True, slots=True)
class DirectTLS:
    """The client starts TLS at once (PostgreSQL 17 and newer); no byte of it was consumed."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """May the connection go on in TLS? The answer is one byte, `S` or `N`."""

    size: int = 8


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """May the connection go on under GSSAPI? We always answer `N`."""

    size: int = 8


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Stop what the connection with this key is doing; nothing is ever answered."""

    pid: int
    secret: bytes
    size: int = 16


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Who wants to talk about what; `version` is major << 16 | minor."""

    version: int
    parameters: Mapping[str, str]
    size: int = 0


Startup = DirectTLS | SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


def begins_startup(data: bytes) -> bool:
    """Return whether `data` begins as a start-up packet does, of protocol 3.0 or newer."""
    return len(data) >= 8 and data[4:6] == b"\0\3"


def parse_startup(data: bytes) -> Startup | None:
    """Return the first start-up packet in `data`, or None where more bytes are needed.

    `size` of the result says how many bytes it took. Whoever answers an `SSLRequest` must refuse
    bytes behind it: they were sent in the clear and are not the client's (CVE-2021-23214).

    Raises:
        ClientProtocolError: not a start-up packet of protocol 3, or one over 10,000 bytes.
    """
    if data[:1] and data[0] == _TLS_HANDSHAKE:
        return DirectTLS()
    if len(data) < 4:
        return None
    (size,) = _INT32.unpack_from(data)
    if not 8 <= size <= MAX_STARTUP_BYTES:
        raise ClientProtocolError(
            f"start-up packet: length {size}, expected 8 to {MAX_STARTUP_BYTES}",
            hint="only the PostgreSQL protocol is spoken on this port",
        )
    if len(data) < size:
        # The code is worth a look early: garbage need not be waited for.
        if len(data) >= 8:
            _check_startup_code(_UINT32.unpack_from(data, 4)[0])
        return None
    (code,) = _UINT32.unpack_from(data, 4)
    body = data[8:size]
    if code in (SSL_REQUEST_CODE, GSSENC_REQUEST_CODE):
        if body:
            raise ClientProtocolError(f"encryption request: length {size}, expected 8")
        return SSLRequest() if code == SSL_REQUEST_CODE else GSSENCRequest()
    if code == CANCEL_REQUEST_CODE:
        # Protocol 3.2 made the secret 4 to 256 bytes long.
        if not 8 <= len(body) <= 260:
            raise ClientProtocolError(f"cancel request: length {size}, expected 16 to 268")
        return CancelRequest(pid=_UINT32.unpack_from(body)[0], secret=bytes(body[4:]), size=size)
    _check_startup_code(code)
    return StartupMessage(version=code, parameters=_decode_parameters(body), size=size)


def _check_startup_code(code: int) -> None:
    known = (CANCEL_REQUEST_CODE, SSL_REQUEST_CODE, GSSENC_REQUEST_CODE)
    if code not in known and code >> 16 != 3:
        raise ClientProtocolError(
            f"start-up packet: protocol {code >> 16}.{code & 0xFFFF}, expected 3",
            hint="use a client of PostgreSQL 7.4 or newer",
        )


def _decode_parameters(body: bytes) -> dict[str, str]:
    # name NUL value NUL … NUL: without its end, the last of an even number of parts is missing.
    parts = body.split(b"\0")
    if len(parts) < 2 or parts[-1] or parts[-2] or len(parts) % 2:
        raise ClientProtocolError("start-up packet: parameters without their end")
    texts = [_startup_text(part) for part in parts[:-2]]
    if not all(texts[::2]):
        raise ClientProtocolError("start-up packet: bytes after the parameters' end")
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _startup_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ClientProtocolError(
            "start-up packet: a parameter is not UTF-8",
            hint="set it with SET after connecting",
        ) from None


def startup_message(parameters: Mapping[str, str], version: int = PROTOCOL_3_0) -> bytes:
    """Return the packet that opens a session with a server."""
    body = b"".join(_cstring(text) for item in parameters.items() for text in item) + b"\0"
    return _INT32.pack(len(body) + 8) + _UINT32.pack(version) + body


def ssl_request() -> bytes:
    """Return the packet that asks a server for TLS."""
    return struct.pack("!iI", 8, SSL_REQUEST_CODE)


def cancel_request(pid: int, secret: bytes) -> bytes:
    """Return the packet that asks a server to stop what `pid` is doing."""
    return struct.pack("!iII", 12 + len(secret), CANCEL_REQUEST_CODE, pid) + secret


# Frames.


def frame(kind: bytes, body: bytes = b"") -> bytes:
    """Return a whole message: type byte, length, body."""
    return kind + _INT32.pack(len(body) + 4) + body


def _cstring(text: str) -> bytes:
    encoded = text.encode()
    if b"\0" in encoded:
        raise ValueError("a protocol string cannot hold a NUL")
    return encoded + b"\0"


class MessageReader:
    """Whole messages out of bytes cut anywhere; for the login, where every message is looked at.

    It does not stop by itself: take one message at a time, and `rest()` when the login is over.
    """

    def __init__(
        self,
        *,
        error: type[ClientProtocolError | TargetProtocolError] = TargetProtocolError,
        max_bytes: int = MAX_LOGIN_MESSAGE_BYTES,
    ) -> None:
        self._held = bytearray()
        self._error = error
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take `data` and yield (type, body) of each whole message, lazily.

        Raises:
            ClientProtocolError, TargetProtocolError: as `error` says, for an impossible length.
        """
        self._held += data
        return self._messages()

    def rest(self) -> bytes:
        """Return and forget the bytes that no message was made of yet."""
        rest = bytes(self._held)
        self._held.clear()
        return rest

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        held = self._held
        while len(held) >= 5:
            kind, length = _HEADER.unpack_from(held)
            if not 4 <= length <= self._max_bytes:
                raise self._error(
                    f"login: message 0x{kind:02x} of length {length}, "
                    f"expected 4 to {self._max_bytes}"
                )
            if len(held) <= length:
                return
            body = bytes(held[5 : length + 1])
            del held[: length + 1]
            yield bytes((kind,)), body


# Login, what a server says.

AUTHENTICATION_OK: Final = 0
AUTHENTICATION_CLEARTEXT: Final = 3
AUTHENTICATION_MD5: Final = 5
AUTHENTICATION_SASL: Final = 10
AUTHENTICATION_SASL_CONTINUE: Final = 11
AUTHENTICATION_SASL_FINAL: Final = 12


def _authentication(code: int, rest: bytes = b"") -> bytes:
    return frame(b"R", _INT32.pack(code) + rest)


def authentication_ok() -> bytes:
    """Return the message that ends a successful authentication."""
    return _authentication(AUTHENTICATION_OK)


def authentication_cleartext() -> bytes:
    """Return the demand for a password as it is."""
    return _authentication(AUTHENTICATION_CLEARTEXT)


def authentication_md5(salt: bytes) -> bytes:
    """Return the demand for a password hashed with this salt of four bytes."""
    return _authentication(AUTHENTICATION_MD5, salt)


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """Return the offer of SASL mechanisms, best first."""
    return _authentication(AUTHENTICATION_SASL, b"".join(map(_cstring, mechanisms)) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """Return the server's challenge."""
    return _authentication(AUTHENTICATION_SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    """Return the server's last word in SASL; `authentication_ok` follows it."""
    return _authentication(AUTHENTICATION_SASL_FINAL, data)


def decode_authentication(body: bytes) -> tuple[int, bytes]:
    """Return the code of an Authentication message, and what follows it."""
    if len(body) < 4:
        raise TargetProtocolError(f"Authentication: {len(body)} bytes, expected 4 or more")
    return _INT32.unpack_from(body)[0], body[4:]


def decode_sasl_mechanisms(rest: bytes) -> tuple[str, ...]:
    """Return the mechanisms that follow the code of an AuthenticationSASL message."""
    if not rest.endswith(b"\0\0"):
        raise TargetProtocolError("AuthenticationSASL: mechanisms without their end")
    return tuple(name.decode("ascii", "replace") for name in rest[:-2].split(b"\0"))


def parameter_status(name: str, value: str) -> bytes:
    """Return the report of a setting."""
    return frame(b"S", _cstring(name) + _cstring(value))


def decode_parameter_status(body: bytes) -> tuple[str, str]:
    """Return name and value of a setting."""
    parts = body.split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise TargetProtocolError("ParameterStatus: expected two strings")
    return parts[0].decode("utf-8", "replace"), parts[1].decode("utf-8", "replace")


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """Return the key that a client needs to cancel: 4 bytes of secret before protocol 3.2."""
    return frame(b"K", _UINT32.pack(pid) + secret)


def decode_backend_key_data(body: bytes, version: int = PROTOCOL_3_2) -> tuple[int, bytes]:
    """Return process id and secret, which has exactly 4 bytes before protocol 3.2."""
    most = 260 if version >= PROTOCOL_3_2 else 8
    if not 8 <= len(body) <= most:
        expected = "8" if most == 8 else f"8 to {most}"
        raise TargetProtocolError(f"BackendKeyData: {len(body)} bytes, expected {expected}")
    return _UINT32.unpack_from(body)[0], body[4:]


def negotiate_protocol_version(version: int, unknown: Sequence[str] = ()) -> bytes:
    """Return the newest version that is spoken, and the `_pq_.` options that are not known."""
    body = struct.pack("!ii", version, len(unknown)) + b"".join(map(_cstring, unknown))
    return frame(b"v", body)


def decode_negotiate_protocol_version(body: bytes) -> tuple[int, tuple[str, ...]]:
    """Return the newest version that a server speaks, and the options that it does not know."""
    names = body[8:].split(b"\0")
    if len(body) < 8 or names[-1] or _UINT32.unpack_from(body, 4)[0] != len(names) - 1:
        raise TargetProtocolError("NegotiateProtocolVersion: expected a version and options")
    options = tuple(name.decode("utf-8", "replace") for name in names[:-1])
    return _UINT32.unpack_from(body)[0], options


def ready_for_query(status: bytes = b"I") -> bytes:
    """Return the message that hands the turn to the client: `I`, `T` or `E`."""
    return frame(b"Z", status)


# Login, what a client says.


def password_message(password: bytes | str) -> bytes:
    """Return the answer to a demand for a password."""
    encoded = password.encode() if isinstance(password, str) else password
    return frame(b"p", encoded + b"\0")


def decode_password(body: bytes) -> bytes:
    """Return the password that a client sent, without looking at it."""
    if not body.endswith(b"\0") or b"\0" in body[:-1]:
        raise ClientProtocolError("PasswordMessage: expected one string")
    return body[:-1]


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """Return the choice of a mechanism with the client's first message."""
    return frame(b"p", _cstring(mechanism) + _INT32.pack(len(data)) + data)


def decode_sasl_initial_response(body: bytes) -> tuple[str, bytes | None]:
    """Return mechanism and first message, None where the client sent none."""
    name, found, rest = body.partition(b"\0")
    if not found or len(rest) < 4:
        raise ClientProtocolError("SASLInitialResponse: expected a mechanism and a length")
    (length,) = _INT32.unpack_from(rest)
    if length == -1 and len(rest) == 4:
        return name.decode("ascii", "replace"), None
    if length != len(rest) - 4:
        raise ClientProtocolError(f"SASLInitialResponse: length {length}, seen {len(rest) - 4}")
    return name.decode("ascii", "replace"), rest[4:]


def sasl_response(data: bytes) -> bytes:
    """Return a further message of the client in SASL."""
    return frame(b"p", data)


# What the gateway itself says after the login.


def query(sql: str) -> bytes:
    """Return the message that runs statements at once."""
    return frame(b"Q", _cstring(sql))


def parse(name: str, sql: str, types: Sequence[int] = ()) -> bytes:
    """Return the message that prepares a statement; 0 of `types` lets the server find out."""
    counted = _UINT16.pack(len(types)) + b"".join(map(_UINT32.pack, types))
    return frame(b"P", _cstring(name) + _cstring(sql) + counted)


def bind(parameters: Sequence[str | None] = ()) -> bytes:
    """Return the message that binds the nameless statement to `parameters`, as text all of them."""
    values = bytearray()
    for each in parameters:
        value = None if each is None else each.encode()
        values += _INT32.pack(-1) if value is None else _INT32.pack(len(value)) + value
    return frame(b"B", b"\0\0\0\0" + _UINT16.pack(len(parameters)) + bytes(values) + b"\0\0")


def execute() -> bytes:
    """Return the message that runs the nameless portal to its end."""
    return frame(b"E", b"\0\0\0\0\0")


def flush() -> bytes:
    """Return the message that asks for the answers so far."""
    return frame(b"H")


def sync() -> bytes:
    """Return the message that ends a run of the extended protocol."""
    return frame(b"S")


def terminate() -> bytes:
    """Return the message that ends a session."""
    return frame(b"X")


def error_response(
    *, severity: str = "FATAL", code: str, message: str, detail: str = "", hint: str = ""
) -> bytes:
    """Return an ErrorResponse; a NUL in a text becomes U+FFFD."""
    return _report(b"E", severity, code, message, detail, hint)


def notice_response(
    *, severity: str = "NOTICE", code: str = "00000", message: str, detail: str = "", hint: str = ""
) -> bytes:
    """Return a NoticeResponse, which a client may show at any time."""
    return _report(b"N", severity, code, message, detail, hint)


def _report(kind: bytes, severity: str, code: str, message: str, detail: str, hint: str) -> bytes:
    fields = {"S": severity, "V": severity, "C": code, "M": message, "D": detail, "H": hint}
    body = "".join(
        f"{tag}{text.replace(chr(0), chr(0xFFFD))}\0" for tag, text in fields.items() if text
    )
    return frame(kind, body.encode("utf-8", "replace") + b"\0")


# What is recorded.


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An ErrorResponse or NoticeResponse; `severity` is the untranslated one where there is one."""

    severity: str
    code: str
    message: str
    detail: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.message}"

    @property
    def ends_connection(self) -> bool:
        """Whether the server closes after it."""
        return self.severity in ("FATAL", "PANIC")


def decode_report(body: bytes, codec: str = "utf-8") -> Report:
    """Return the fields of an error or a notice; one that was cut keeps what is whole.

    Unknown fields are skipped, as the specification asks.
    """
    fields = {part[:1]: part[1:].decode(codec, "replace") for part in body.split(b"\0") if part}
    return Report(
        severity=fields.get(b"V") or fields.get(b"S", ""),
        code=fields.get(b"C", ""),
        message=fields.get(b"M", ""),
        detail=fields.get(b"D", ""),
        hint=fields.get(b"H", ""),
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: `table` and `number` are zero unless it is a table's own column.

    `format` is 0 for text and 1 for binary.
    """

    name: str
    table: int
    number: int
    type: int
    size: int
    modifier: int
    format: int


@dataclass(frozen=True, slots=True)
class RowShape:
    """The columns of a result, and their names and origins ready for a command.

    An origin is `table.number` in the server's own numbers, empty where it gives none; there are
    no origins where no column has one.
    """

    columns: tuple[Column, ...] = ()
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


def decode_row_description(body: bytes, codec: str = "utf-8") -> RowShape:
    """Return the columns that a RowDescription announces.

    Raises:
        TargetProtocolError: the columns do not fill the message.
    """
    known = _SHAPES.get(body)
    if known is not None and codec == "utf-8":
        return known
    shape = _row_shape(body, codec)
    if codec == "utf-8" and len(body) <= 4096:
        if len(_SHAPES) == _MAX_SHAPES:
            _SHAPES.clear()
        _SHAPES[body] = shape
    return shape


# Drivers have the same statement described again and again. Wide results are not kept: what a
# server sends must not fill the memory.
_SHAPES: Final[dict[bytes, RowShape]] = {}
_MAX_SHAPES: Final = 512


def _row_shape(body: bytes, codec: str) -> RowShape:
    try:
        (count,) = _INT16.unpack_from(body)
        columns = []
        at = 2
        for _ in range(count):
            end = body.index(0, at)
            name = body[at:end].decode(codec, "replace")
            columns.append(Column(name, *_COLUMN.unpack_from(body, end + 1)))
            at = end + 1 + _COLUMN.size
    except (struct.error, ValueError):
        raise TargetProtocolError("RowDescription: cut off") from None
    if count < 0 or at != len(body):
        raise TargetProtocolError(f"RowDescription: {count} columns do not fill {len(body)} bytes")
    origins = tuple(f"{c.table}.{c.number}" if c.table else "" for c in columns)
    names = tuple(column.name for column in columns)
    return RowShape(tuple(columns), names, origins if any(origins) else ())


def decode_parameter_description(body: bytes) -> tuple[int, ...]:
    """Return the type OIDs of a statement's parameters."""
    if len(body) < 2:
        raise TargetProtocolError("ParameterDescription: cut off")
    count = (len(body) - 2) // 4
    # The count is 16 bits: 65,535 parameters read as -1 in a signed one.
    if (len(body) - 2) % 4 or int.from_bytes(body[:2], "big") != count:
        raise TargetProtocolError("ParameterDescription: count and length differ")
    return struct.unpack_from(f"!{count}I", body, 2)


@dataclass(slots=True)
class Parse:
    """A statement to prepare; `types` may be shorter than its parameters, 0 is unspecified."""

    name: bytes
    sql: bytes
    types: tuple[int, ...]


def decode_parse(body: bytes) -> Parse:
    """Return the parts of a Parse message.

    Raises:
        ClientProtocolError: the parts do not fill the message.
    """
    name_end = nul_at(body, 0)
    sql_end = nul_at(body, name_end + 1)
    at = sql_end + 3
    if name_end < 0 or sql_end < 0 or at > len(body):
        raise ClientProtocolError("Parse: cut off")
    count = uint16_at(body, sql_end + 1)
    if at + 4 * count != len(body):
        raise ClientProtocolError(f"Parse: {count} types do not fill the message")
    types = struct.unpack_from(f"!{count}I", body, at) if count else ()
    return Parse(cut(body, 0, name_end), cut(body, name_end + 1, sql_end), types)


@dataclass(slots=True)
class Bind:
    """A portal to be made of a statement: values are bytes as sent, None for NULL."""

    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


def decode_bind(body: bytes) -> Bind:
    """Return the parts of a Bind message.

    Raises:
        ClientProtocolError: the parts do not fill the message.
    """
    try:
        portal_end = nul_at(body, 0)
        statement_end = nul_at(body, portal_end + 1)
        if portal_end < 0 or statement_end < 0:
            raise ClientProtocolError("Bind: expected two names")
        at = statement_end + 1
        formats = _decode_formats(body, at)
        at += 2 + 2 * len(formats)
        count = uint16_at(body, at)
        at += 2
        values: list[bytes | None] = []
        at = _decode_values(body, at, count, values)
        if at < 0:
            raise ClientProtocolError(f"Bind: value {len(values)} leaves the message")
        result_formats = _decode_formats(body, at)
        at += 2 + 2 * len(result_formats)
    except IndexError:
        raise ClientProtocolError("Bind: cut off") from None
    if at != len(body):
        raise ClientProtocolError(f"Bind: {len(body) - at} bytes too many")
    if len(formats) > 1 and len(formats) != count:
        raise ClientProtocolError(f"Bind: {len(formats)} formats for {count} values")
    return Bind(
        cut(body, 0, portal_end),
        cut(body, portal_end + 1, statement_end),
        formats,
        tuple(values),
        result_formats,
    )


def text_of(data: bytes, codec: str) -> str:
    """Return what `data` says, with U+FFFD for what says nothing in `codec`."""
    if codec == "utf-8":
        return data.decode("utf-8", "replace")  # spelt out, it needs no look for a decoder
    return data.decode(codec, "replace")


def decode_bind_names(body: bytes) -> tuple[bytes, bytes, int]:
    """Return portal, statement, and where the rest of a Bind message begins."""
    portal_end = nul_at(body, 0)
    statement_end = nul_at(body, portal_end + 1)
    if portal_end < 0 or statement_end < 0:
        raise ClientProtocolError("Bind: expected two names")
    return cut(body, 0, portal_end), cut(body, portal_end + 1, statement_end), statement_end + 1


def _decode_formats(body: bytes, at: int) -> tuple[int, ...]:
    """Return the format codes that are counted at `at`.

    Raises:
        IndexError: they are cut off.
    """
    count = uint16_at(body, at)
    if count == 0:
        return ()
    if at + 2 + 2 * count > len(body):
        raise IndexError
    return struct.unpack_from(f"!{count}h", body, at + 2)


def decode_name(kind: str, body: bytes) -> tuple[int, bytes]:
    """Return what a Describe or Close is about: `S` or `P` as a number, and the name.

    Raises:
        ClientProtocolError: not a subtype and one string.
    """
    if len(body) < 2 or body[0] not in b"SP" or nul_at(body, 0) != len(body) - 1:
        raise ClientProtocolError(f"{kind}: expected S or P and one name")
    return body[0], cut(body, 1, len(body) - 1)


def decode_execute(body: bytes) -> tuple[bytes, int]:
    """Return portal and largest number of rows, 0 for all.

    Raises:
        ClientProtocolError: not one string and four bytes.
    """
    end = nul_at(body, 0)
    if end < 0 or end + 5 != len(body):
        raise ClientProtocolError("Execute: expected a name and a number of rows")
    return cut(body, 0, end), int32_at(body, end + 1)


def decode_query(body: bytes) -> bytes:
    """Return the text of a Query.

    Raises:
        ClientProtocolError: no NUL at the end, or one before it: the server reads up to the
            first, and nobody may read further than the server.
    """
    if nul_at(body, 0) != len(body) - 1 or not body:
        raise ClientProtocolError("Query: expected one string")
    return cut(body, 0, len(body) - 1)


def decode_data_row(body: bytes) -> list[bytes | None]:
    """Return the values of a row as sent, None for NULL.

    Raises:
        TargetProtocolError: the values do not fill the message.
    """
    values: list[bytes | None] = []
    try:
        count = uint16_at(body, 0)
        at = _decode_values(body, 2, count, values)
    except IndexError:
        raise TargetProtocolError("DataRow: cut off") from None
    if at < 0:
        raise TargetProtocolError(f"DataRow: value {len(values)} leaves the row")
    if at != len(body):
        raise TargetProtocolError(f"DataRow: {count} values do not fill {len(body)} bytes")
    return values


def _decode_values(body: bytes, at: int, count: int, values: list[bytes | None]) -> int:
    """Append `count` values, each behind its length; return where they end, -1 if one cannot.

    Raises:
        IndexError: a length is cut off.
    """
    end = len(body)
    for _ in range(count):
        length = int32_at(body, at)
        at += 4
        if length == -1:
            values.append(None)
            continue
        if not 0 <= length <= end - at:
            return -1
        values.append(cut(body, at, at + length))
        at += length
    return at


# Parameters, as a person reads them.

_CODECS: Final = {
    "UTF8": "utf-8",
    "SQL_ASCII": "utf-8",
    "LATIN1": "latin-1",
    "LATIN2": "iso8859-2",
    "LATIN3": "iso8859-3",
    "LATIN4": "iso8859-4",
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5",
    "ISO_8859_6": "iso8859-6",
    "ISO_8859_7": "iso8859-7",
    "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866",
    "WIN874": "cp874",
    **{f"WIN{page}": f"cp{page}" for page in range(1250, 1259)},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp",
    "EUC_KR": "euc_kr",
    "EUC_CN": "gb2312",
    "EUC_JIS_2004": "euc_jis_2004",
    "SHIFT_JIS_2004": "postgres_shift_jis_2004",
    "SJIS": "cp932",
    "BIG5": "big5",
    "GBK": "gbk",
    "GB18030": "gb18030",
    "UHC": "cp949",
    "JOHAB": "johab",
}


_SHIFT_JIS_2004: Final = codecs.lookup("shift_jis_2004")


def _decode_shift_jis_2004(data: Any, errors: str = "strict") -> tuple[str, int]:
    text, length = _SHIFT_JIS_2004.decode(data, errors)
    # For a server all that is ASCII is itself; Python has JIS X 0201's two other characters.
    return text.replace("\u00a5", "\\").replace("\u203e", "~"), length


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != "postgres_shift_jis_2004":
        return None
    return codecs.CodecInfo(_SHIFT_JIS_2004.encode, _decode_shift_jis_2004, name=name)


codecs.register(_find_codec)


def codec_of(client_encoding: str) -> str:
    """Return Python's name for a `client_encoding`; what is unknown reads as UTF-8.

    The bytes are kept as they are, so a wrong guess spoils a text and never the evidence.
    """
    return _CODECS.get(client_encoding.upper(), "utf-8")


_BINARY: Final[Mapping[int, Callable[[bytes], str]]] = {
    **PLAIN,
    16: lambda value: "true" if value == b"\1" else "false",
}


def parameter_text(value: bytes | None, binary: bool, oid: int, codec: str) -> str | None:
    """Return a parameter as a person reads it; binary that has no short text as `\\x` hex.

    A text takes at most four bytes for each byte of the value, and 16 more.
    """
    if value is None:
        return None
    if not binary or oid in TEXTS:
        return value.decode(codec, "replace")
    decode = _BINARY.get(oid)
    try:
        if decode is not None:
            return decode(value)
        if oid:
            room = 4 * len(value) + 16
            text = Writer(codec, room).write(oid, value)
            if len(text) <= room and (text.isascii() or len(text.encode()) <= room):
                return text
    except UNWRITTEN:
        pass  # A form that the type does not have: the server will say so.
    return "\\x" + value.hex()
