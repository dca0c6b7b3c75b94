"""One message at a time: what an encoder writes a decoder reads, and what is malformed is named."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.protocols import postgres_messages as messages
from agentaudit.protocols.postgres_values import ARRAYS, PLAIN, TEXTS
from tests.protocols import wire

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
no_nul = st.binary(max_size=40).filter(lambda value: b"\0" not in value)
formats = st.lists(st.sampled_from([0, 1]), max_size=1)


def startup(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!II", len(body) + 8, code) + body


# Start-up packets. Codes: src/include/libpq/pqcomm.h.


def test_an_ssl_request_is_eight_bytes() -> None:
    packet = bytes.fromhex("0000000804d2162f")

    assert messages.parse_startup(packet) == messages.SSLRequest(size=8)
    assert messages.ssl_request() == packet


def test_a_gssenc_request_is_eight_bytes() -> None:
    assert messages.parse_startup(bytes.fromhex("0000000804d21630")) == messages.GSSENCRequest()


def test_tls_at_once_is_known_by_its_first_byte() -> None:
    assert messages.parse_startup(b"\x16\x03\x01") == messages.DirectTLS()


@pytest.mark.parametrize("secret", [b"abcd", b"x" * 32, b"x" * 256])
def test_a_cancel_request_carries_a_secret_of_any_protocol_version(secret: bytes) -> None:
    packet = startup(80877102, struct.pack("!I", 4711) + secret)

    request = messages.parse_startup(packet)

    assert request == messages.CancelRequest(pid=4711, secret=secret, size=len(packet))
    assert messages.cancel_request(4711, secret) == packet


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (startup(80877102, b"\0\0\0\1abc"), "cancel request: length 15"),
        (startup(80877102, b"\0\0\0\1" + b"x" * 257), "cancel request"),
        (startup(80877103, b"x"), "encryption request: length 9"),
        (startup(2 << 16, b"user\0"), "protocol 2.0, expected 3"),
        (startup(0x30000, b""), "without their end"),
        (startup(0x30000, b"user\0x\0"), "without their end"),
        (startup(0x30000, b"user\0\0"), "without their end"),
        (startup(0x30000, b"user\0x\0\0\0\0"), "after the parameters' end"),
        (startup(0x30000, b"user\0\xff\0\0"), "not UTF-8"),
        (b"GET / HTTP/1.1\r\n", "length 1195725856, expected 8 to 10000"),
        (b"\0\0\0\7abcd", "length 7"),
        (b"\0\0\x27\x11", "length 10001"),
        (b"\0\0\0\x10garb", "expected 3"),  # known by its code before it is whole
    ],
)
def test_what_is_no_startup_packet_is_named(packet: bytes, said: str) -> None:
    with pytest.raises(ClientProtocolError, match=said):
        messages.parse_startup(packet)


def test_a_startup_message_without_parameters_is_whole() -> None:
    packet = startup(0x30000, b"\0")

    assert messages.parse_startup(packet) == messages.StartupMessage(0x30000, {}, size=9)


@given(st.dictionaries(names, texts, max_size=5), st.sampled_from([0x30000, 0x30002]))
def test_a_startup_message_reads_back_and_leaves_what_is_behind_it(
    parameters: dict[str, str], version: int
) -> None:
    packet = messages.startup_message(parameters, version)

    read = messages.parse_startup(packet + b"more")

    assert read == messages.StartupMessage(version, parameters, size=len(packet))
    for cut in range(len(packet)):
        assert messages.parse_startup(packet[:cut]) is None


@given(st.binary(max_size=40))
def test_garbage_is_a_startup_packet_an_error_or_too_short(data: bytes) -> None:
    try:
        packet = messages.parse_startup(data)
    except ClientProtocolError:
        return
    assert packet is None or packet.size <= len(data)


def test_a_nul_in_a_name_is_never_sent() -> None:
    with pytest.raises(ValueError, match="NUL"):
        messages.startup_message({"user": "a\0b"})


# The reader of the login.


@given(
    st.lists(st.tuples(st.sampled_from([b"R", b"S", b"K", b"Z"]), st.binary(max_size=30))),
    st.integers(1, 9),
)
def test_messages_come_whole_out_of_any_pieces(said: list[tuple[bytes, bytes]], size: int) -> None:
    data = b"".join(messages.frame(kind, body) for kind, body in said)
    reader = messages.MessageReader()

    heard = []
    for at in range(0, len(data), size):
        heard += list(reader.feed(data[at : at + size]))

    assert heard == said
    assert reader.rest() == b""


def test_what_is_behind_the_last_message_wanted_stays_for_whoever_comes_next() -> None:
    reader = messages.MessageReader()
    heard = reader.feed(messages.authentication_ok() + messages.ready_for_query() + b"rest")

    assert next(heard)[0] == b"R"
    assert next(heard) == (b"Z", b"I")
    assert reader.rest() == b"rest"
    assert reader.rest() == b""
    assert list(reader.feed(b"")) == []


@pytest.mark.parametrize("error", [ClientProtocolError, TargetProtocolError])
@pytest.mark.parametrize("length", [3, 65_537, 0xFFFFFFFF])
def test_an_impossible_length_in_a_login_is_whose_fault_it_is(
    error: type[ClientProtocolError | TargetProtocolError], length: int
) -> None:
    reader = messages.MessageReader(error=error)

    with pytest.raises(error, match="message 0x70"):
        list(reader.feed(b"p" + struct.pack("!I", length)))


# Login messages. Each against its bytes in the specification, and back.


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (messages.authentication_ok(), b"R\0\0\0\x08\0\0\0\0"),
        (messages.authentication_cleartext(), b"R\0\0\0\x08\0\0\0\3"),
        (messages.authentication_md5(b"salt"), b"R\0\0\0\x0c\0\0\0\5salt"),
        (messages.authentication_sasl(["A", "B"]), b"R\0\0\0\x0d\0\0\0\nA\0B\0\0"),
        (messages.authentication_sasl_continue(b"r=x"), b"R\0\0\0\x0b\0\0\0\x0br=x"),
        (messages.authentication_sasl_final(b"v=x"), b"R\0\0\0\x0b\0\0\0\x0cv=x"),
        (messages.parameter_status("a", "b"), b"S\0\0\0\x08a\0b\0"),
        (messages.backend_key_data(1, b"abcd"), b"K\0\0\0\x0c\0\0\0\1abcd"),
        (messages.ready_for_query(b"T"), b"Z\0\0\0\5T"),
        (messages.password_message("p"), b"p\0\0\0\6p\0"),
        (messages.password_message(b"p"), b"p\0\0\0\6p\0"),
        (messages.sasl_initial_response("M", b"n"), b"p\0\0\0\x0bM\0\0\0\0\1n"),
        (messages.sasl_response(b"c=x"), b"p\0\0\0\7c=x"),
        (messages.negotiate_protocol_version(0x30000, ["_pq_.x"]),
         b"v\0\0\0\x13\0\3\0\0\0\0\0\1_pq_.x\0"),
        (messages.sync(), wire.SYNC),
        (messages.flush(), wire.FLUSH),
        (messages.terminate(), wire.TERMINATE),
        (messages.parse("s", "SELECT 1"), wire.parse("s", "SELECT 1")),
    ],
)  # fmt: skip
def test_an_encoder_writes_what_the_specification_says(packet: bytes, expected: bytes) -> None:
    assert packet == expected


def body(packet: bytes) -> bytes:
    assert len(packet) == 1 + struct.unpack("!I", packet[1:5])[0]
    return packet[5:]


@given(st.lists(st.sampled_from(["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]), min_size=1, max_size=2))
def test_sasl_mechanisms_read_back(mechanisms: list[str]) -> None:
    code, rest = messages.decode_authentication(body(messages.authentication_sasl(mechanisms)))

    assert code == messages.AUTHENTICATION_SASL
    assert messages.decode_sasl_mechanisms(rest) == tuple(mechanisms)


@given(texts, texts)
def test_a_setting_reads_back(name: str, value: str) -> None:
    packet = messages.parameter_status(name, value)

    assert messages.decode_parameter_status(body(packet)) == (name, value)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=256))
def test_a_cancel_key_reads_back(pid: int, secret: bytes) -> None:
    packet = messages.backend_key_data(pid, secret)

    assert messages.decode_backend_key_data(body(packet)) == (pid, secret)


def test_a_cancel_key_before_protocol_3_2_has_four_bytes_of_secret() -> None:
    body = b"\0\0\0\1abcd"

    assert messages.decode_backend_key_data(body, messages.PROTOCOL_3_0) == (1, b"abcd")
    with pytest.raises(TargetProtocolError, match="9 bytes, expected 8"):
        messages.decode_backend_key_data(body + b"e", messages.PROTOCOL_3_0)


@given(st.integers(0, 2**31 - 1), st.lists(names, max_size=3))
def test_a_negotiation_of_the_protocol_reads_back(version: int, options: list[str]) -> None:
    packet = messages.negotiate_protocol_version(version, options)

    read = messages.decode_negotiate_protocol_version(body(packet))
    assert read == (version, tuple(options))


@pytest.mark.parametrize(
    "said", [b"", b"\0\3\0\0", b"\0\3\0\0\0\0\0\1", b"\0\3\0\0\0\0\0\0x\0", b"\0\3\0\0\0\0\0\1x"]
)
def test_a_malformed_negotiation_is_the_targets_fault(said: bytes) -> None:
    with pytest.raises(TargetProtocolError, match="NegotiateProtocolVersion"):
        messages.decode_negotiate_protocol_version(said)


@given(no_nul)
def test_a_password_reads_back(password: bytes) -> None:
    assert messages.decode_password(body(messages.password_message(password))) == password


@given(st.binary(max_size=40))
def test_a_first_sasl_message_reads_back(data: bytes) -> None:
    packet = messages.sasl_initial_response("SCRAM-SHA-256", data)

    assert messages.decode_sasl_initial_response(body(packet)) == ("SCRAM-SHA-256", data)


def test_a_first_sasl_message_may_be_missing() -> None:
    said = b"OAUTHBEARER\0\xff\xff\xff\xff"

    assert messages.decode_sasl_initial_response(said) == ("OAUTHBEARER", None)


@pytest.mark.parametrize(
    "said", [b"", b"name", b"name\0\0\0", b"name\0\0\0\0\5abc", b"name\0\xff\xff\xff\xffx"]
)
def test_a_malformed_first_sasl_message_is_the_clients_fault(said: bytes) -> None:
    with pytest.raises(ClientProtocolError, match="SASLInitialResponse"):
        messages.decode_sasl_initial_response(said)


@pytest.mark.parametrize("said", [b"", b"secret", b"se\0cret\0"])
def test_a_malformed_password_is_named_without_showing_it(said: bytes) -> None:
    with pytest.raises(ClientProtocolError) as raised:
        messages.decode_password(said)
    assert "cret" not in str(raised.value)


def test_malformed_login_messages_are_the_targets_fault() -> None:
    with pytest.raises(TargetProtocolError, match="Authentication: 3 bytes"):
        messages.decode_authentication(b"\0\0\0")
    with pytest.raises(TargetProtocolError, match="without their end"):
        messages.decode_sasl_mechanisms(b"SCRAM-SHA-256\0")
    with pytest.raises(TargetProtocolError, match="BackendKeyData: 7 bytes"):
        messages.decode_backend_key_data(b"\0" * 7)


# Errors and notices.


@given(texts, texts, texts)
def test_an_error_reads_back(message: str, detail: str, hint: str) -> None:
    packet = messages.error_response(code="42501", message=message, detail=detail, hint=hint)

    report = messages.decode_report(body(packet))

    assert (report.severity, report.code, report.message) == ("FATAL", "42501", message)
    assert (report.detail, report.hint) == (detail, hint)
    assert report.ends_connection
    assert packet[:1] == b"E"


def test_a_notice_ends_nothing() -> None:
    packet = messages.notice_response(message="waiting for approval")

    assert packet[:1] == b"N"
    report = messages.decode_report(body(packet))
    assert not report.ends_connection
    assert str(report) == "NOTICE 00000 waiting for approval"


def test_a_nul_cannot_hide_the_rest_of_an_error() -> None:
    packet = messages.error_response(code="42501", message="denied\0Mallowed")

    assert messages.decode_report(body(packet)).message == "denied\ufffdMallowed"


def test_the_severity_that_counts_is_the_untranslated_one() -> None:
    said = b"SFATALE\0VFATAL\0C57P01\0Mfin\0\0"

    assert messages.decode_report(said).ends_connection
    assert messages.decode_report(b"SERROR\0C42601\0Mx\0\0").severity == "ERROR"


# What is recorded.


@given(names, texts, st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_a_parse_reads_back(name: str, sql: str, types: list[int]) -> None:
    parse = messages.decode_parse(body(wire.parse(name, sql, *types)))

    assert (parse.name, parse.sql, parse.types) == (name.encode(), sql.encode(), tuple(types))


@given(names, names, st.lists(st.none() | st.binary(max_size=20), max_size=6), formats, formats)
def test_a_bind_reads_back(
    portal: str,
    statement: str,
    values: list[bytes | None],
    value_formats: list[int],
    result_formats: list[int],
) -> None:
    packet = wire.bind(portal, statement, values, value_formats, result_formats)

    bind = messages.decode_bind(body(packet))

    assert (bind.portal, bind.statement) == (portal.encode(), statement.encode())
    assert bind.values == tuple(values)
    assert bind.formats == tuple(value_formats)
    assert bind.result_formats == tuple(result_formats)


def test_a_statement_may_have_65535_parameters() -> None:
    bind = messages.decode_bind(body(wire.bind("", "", [b"x"] * 65_535, [0] * 65_535)))
    assert len(bind.values) == len(bind.formats) == 65_535

    described = body(wire.parameter_description(*[25] * 65_535))
    assert messages.decode_parameter_description(described) == (25,) * 65_535

    parse = messages.decode_parse(body(wire.parse("", "x", *[25] * 65_535)))
    assert len(parse.types) == 65_535


@given(st.lists(st.tuples(names, st.integers(0, 2**32 - 1), st.sampled_from([0, 1])), max_size=5))
def test_a_row_description_reads_back(columns: list[tuple[str, int, int]]) -> None:
    shape = messages.decode_row_description(body(wire.row_description(*columns)))

    assert [(c.name, c.type, c.format) for c in shape.columns] == columns
    assert shape.names == tuple(name for name, _, _ in columns)
    assert [(c.table, c.number) for c in shape.columns] == [
        (16384, n + 1) for n in range(len(columns))
    ]


def test_a_row_description_says_where_columns_come_from_in_the_servers_own_numbers() -> None:
    columns = [("a", 16401, 2), ("now", 0, 0), ("ctid", 4294967295, -1), ("whole", 16401, 0)]
    described = struct.pack("!h", len(columns)) + b"".join(
        name.encode() + b"\0" + struct.pack("!IhIhih", table, number, 25, -1, -1, 0)
        for name, table, number in columns
    )

    shape = messages.decode_row_description(described)

    assert shape.origins == ("16401.2", "", "4294967295.-1", "16401.0")
    nowhere = body(wire.message("T", struct.pack("!h", 1) + b"x\0" + bytes(18)))
    assert messages.decode_row_description(nowhere).origins == ()


def test_a_wide_row_description_reads_like_any_other() -> None:
    columns = [(f"column_{n}", 25) for n in range(1600)]

    shape = messages.decode_row_description(body(wire.row_description(*columns)))

    assert shape.names == tuple(name for name, _ in columns)


@given(st.lists(st.none() | st.binary(max_size=20), max_size=6))
def test_a_row_reads_back(values: list[bytes | None]) -> None:
    assert messages.decode_data_row(body(wire.data_row(*values))) == values


@pytest.mark.parametrize(
    "row", [b"", b"\0", b"\0\1", b"\0\1\0\0\0\5abc", b"\0\1\xff\xff\xff\xfe", b"\0\0x"]
)
def test_a_malformed_row_is_the_targets_fault(row: bytes) -> None:
    with pytest.raises(TargetProtocolError, match="DataRow"):
        messages.decode_data_row(row)


@given(st.binary(max_size=60))
def test_no_decoder_says_anything_but_a_protocol_error(data: bytes) -> None:
    for decode in (
        messages.decode_authentication,
        messages.decode_sasl_mechanisms,
        messages.decode_parameter_status,
        messages.decode_backend_key_data,
        messages.decode_row_description,
        messages.decode_parameter_description,
        messages.decode_data_row,
    ):
        try:
            decode(data)
        except TargetProtocolError:
            pass
    for read in (
        messages.decode_password,
        messages.decode_sasl_initial_response,
        messages.decode_parse,
        messages.decode_bind,
        messages.decode_execute,
        messages.decode_query,
    ):
        try:
            read(data)
        except ClientProtocolError:
            pass
    messages.decode_report(data)


# Parameters, as a person reads them. Binary forms are those of PostgreSQL's …send functions.


@pytest.mark.parametrize(
    ("value", "oid", "text"),
    [
        (b"\1", 16, "true"),
        (b"\0", 16, "false"),
        (struct.pack("!h", -2), 21, "-2"),
        (struct.pack("!i", -3), 23, "-3"),
        (struct.pack("!q", 2**62), 20, str(2**62)),
        (struct.pack("!I", 2**32 - 1), 26, str(2**32 - 1)),
        (struct.pack("!f", 0.5), 700, "0.5"),
        (struct.pack("!d", -0.25), 701, "-0.25"),
        (uuid.UUID(int=7).bytes, 2950, str(uuid.UUID(int=7))),
        ("é".encode(), 25, "é"),
        (b'{"a":1}', 114, '{"a":1}'),
        (b"\1\2", 17, "\\x0102"),
        (b"\1\2\3", 23, "\\x010203"),  # not four bytes: the server will say so
        (b"\0\1", 0, "\\x0001"),
    ],
)
def test_a_binary_parameter_is_decoded_where_its_type_is_plain(
    value: bytes, oid: int, text: str
) -> None:
    assert messages.parameter_text(value, True, oid, "utf-8") == text


@pytest.mark.parametrize(
    ("value", "oid", "text"),
    [
        # Of PostgreSQL 15's and 18's …send functions.
        ("0001000000000002000c", 1700, "12.00"),
        ("0000000000000000", 1114, "2000-01-01 00:00:00"),
        ("7fffffffffffffff", 1184, "infinity"),
        ("80000000", 1082, "-infinity"),
        ("00000001", 1082, "2000-01-02"),
        ("022000040a010203", 869, "10.1.2.3"),
        ("020801040a000000", 650, "10.0.0.0/8"),
        ("00000001000000010000001700000002000000010000000400000001ffffffff", 1007, "{1,NULL}"),
        ("017b7d", 3802, "{}"),
        ("027b7d", 3802, None),
        ("00000005b0", 1562, "10110"),
        ("6461726b20726564", 99_999, "dark red"),
        ("00000001", 99_999, None),
        ("000000000000007b", 790, None),
        ("00010000000000017fff000000010000", 1700, None),
    ],
)
def test_a_binary_parameter_reads_as_the_server_writes_it(
    value: str, oid: int, text: str | None
) -> None:
    data = bytes.fromhex(value)
    expected = "\\x" + value if text is None else text
    assert messages.parameter_text(data, True, oid, "utf-8") == expected


# What holds other values, or can be much longer than its bytes.
GROWING = [22, 1560, 1562, 1700, 2249, 2277, 3614, 3802, 3904, 3906, 3908, 4451, 4532]


@given(st.binary(max_size=80), st.sampled_from([*PLAIN, *TEXTS, *ARRAYS, *GROWING, 0, 99_999]))
def test_no_parameter_has_a_text_that_is_much_longer_than_it_is(value: bytes, oid: int) -> None:
    text = messages.parameter_text(value, True, oid, "utf-8")

    assert text is not None
    assert len(text.encode()) <= 4 * len(value) + 16


def in_a_row(value: bytes, oid: int) -> bytes:
    """Return a row with one field."""
    return struct.pack("!iIi", 1, oid, len(value)) + value


def test_rows_within_rows_cost_no_more_than_their_bytes() -> None:
    """Each level doubles the quotes of those within: a thousand would fill any memory."""
    value = b'"' * 100
    oid = 25
    for level in range(1_000):
        value, oid = in_a_row(value, oid), 2249
        text = messages.parameter_text(value, True, oid, "utf-8")
        assert text is not None
        assert len(text) <= 4 * len(value) + 16
        assert text.startswith("(" if level < 1 else ("(", "\\x"))
    assert text.startswith("\\x")


def test_a_small_numeric_that_stands_for_many_digits_is_shown_as_it_was_sent() -> None:
    large = struct.pack("!HhHHH", 1, 32_767, 0, 0, 1)  # 1e131068
    array = struct.pack("!iiIii", 1, 0, 1700, 3, 1) + 3 * (struct.pack("!i", len(large)) + large)

    assert messages.parameter_text(large, True, 1700, "utf-8") == "\\x" + large.hex()
    assert messages.parameter_text(array, True, 1231, "utf-8") == "\\x" + array.hex()


def test_a_text_parameter_is_itself_in_the_clients_encoding() -> None:
    assert messages.parameter_text(b"\xe9", False, 23, "latin-1") == "é"
    assert messages.parameter_text(b"\xe9", False, 23, "utf-8") == "\ufffd"
    assert messages.parameter_text(None, True, 23, "utf-8") is None


@pytest.mark.parametrize(
    ("client_encoding", "value", "text"),
    [
        ("UTF8", "é".encode(), "é"),
        ("latin1", b"\xe9", "é"),
        ("WIN1252", b"\x80", "€"),
        ("KOI8R", b"\xc1", "а"),
        ("EUC_JP", b"\xa4\xa2", "あ"),
        ("SQL_ASCII", "é".encode(), "é"),
        ("MULE_INTERNAL", b"a", "a"),  # unknown: read as UTF-8, kept as it is
    ],
)
def test_client_encodings_are_read_by_their_postgresql_names(
    client_encoding: str, value: bytes, text: str
) -> None:
    assert value.decode(messages.codec_of(client_encoding)) == text


@pytest.mark.parametrize("name", sorted(messages._CODECS.values()))
def test_all_of_ascii_is_itself_in_every_codec(name: str) -> None:
    # For a server too: a backslash that reads as a yen would say that a text has none.
    ascii_bytes = bytes(range(1, 128))
    assert ascii_bytes.decode(name) == ascii_bytes.decode("ascii")
    assert "a".encode(name) == b"a"
