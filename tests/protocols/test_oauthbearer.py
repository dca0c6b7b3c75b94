"""OAUTHBEARER: the examples of RFC 7628, and what PostgreSQL's server refuses too."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.errors import ClientProtocolError
from agentaudit.protocols import oauthbearer

# RFC 7628, section 4.1, with a header that PostgreSQL takes: no authorization identity.
RFC_FIRST = (
    b"n,,\1host=server.example.com\1port=143\1"
    b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\1\1"
)


@pytest.mark.parametrize(
    ("first", "token"),
    [
        (RFC_FIRST, "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="),
        (b"n,,\1auth=Bearer a.b-c_d~e+f/g\1\1", "a.b-c_d~e+f/g"),
        (b"y,,\1auth=bearer x\1\1", "x"),
        (b"n,,\1auth=BEARER   x==\1\1", "x=="),
        (b"n,,\1auth=\1\1", ""),
        (b"n,,\1other=\1auth=Bearer x\1more=a b\t\1\1", "x"),
    ],
)
def test_a_first_message_holds_a_token_or_asks_where_to_get_one(first: bytes, token: str) -> None:
    assert oauthbearer.decode_client_first(first) == token


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"", "expected the header"),
        (b"auth=Bearer x\1\1", "expected the header"),
        (b"n,,auth=Bearer SECRET\1\1", "expected the header"),
        (b"x,,\1auth=Bearer SECRET\1\1", "expected the header"),
        (b"p=tls-server-end-point,,\1auth=Bearer SECRET\1\1", "channel binding"),
        (b"n,a=SECRET,\1auth=Bearer SECRET\1\1", "authorization identity"),
        (b"n,,", "no end"),
        (b"n,,\1auth=Bearer SECRET", "no end"),
        (b"n,,\1auth=Bearer SECRET\1", "no end"),
        (b"n,,\1auth=Bearer SECRET\1\1x", "no end"),
        (b"n,,\1\1", "no auth value"),
        (b"n,,\1host=SECRET\1\1", "0 auth values"),
        (b"n,,\1auth=\1auth=Bearer SECRET\1\1", "2 auth values"),
        (b"n,,\1SECRET\1\1", "keys and values"),
        (b"n,,\1a1=SECRET\1\1", "keys and values"),
        (b"n,,\1auth=Bearer SECRET\xff\1\1", "keys and values"),
        (b"n,,\1auth=Bearer SECRET\0\1\1", "keys and values"),
        (b"n,,\1auth=Basic SECRET\1\1", "not a bearer"),
        (b"n,,\1auth=Bearer\1\1", "not a bearer"),
        (b"n,,\1auth=BearerSECRET\1\1", "not a bearer"),
        (b"n,,\1auth=Bearer SEC RET\1\1", "not a bearer"),
        (b"n,,\1auth=Bearer \1\1", "not a bearer"),
        (b"n,,\1auth=Bearer SECRET \1\1", "not a bearer"),
        (b"n,,\1auth=Bearer ==SECRET\1\1", "not a bearer"),
    ],
)
def test_what_is_no_first_message_is_named_without_quoting_it(first: bytes, said: str) -> None:
    with pytest.raises(ClientProtocolError, match=said) as caught:
        oauthbearer.decode_client_first(first)
    assert "SEC" not in str(caught.value)


@given(st.binary(max_size=60))
def test_garbage_is_a_token_or_a_protocol_error(data: bytes) -> None:
    for message in (data, b"n,,\1" + data + b"\1\1", b"n,,\1auth=Bearer " + data + b"\1\1"):
        try:
            token = oauthbearer.decode_client_first(message)
        except ClientProtocolError:
            continue
        # More than one space may stand before it: RFC 6750, section 2.1, and RFC 7235.
        assert token == "" or (b"bearer " in message.lower() and token.encode() in message)


def test_the_challenge_is_json_of_the_rfc() -> None:
    said = oauthbearer.challenge("https://idp.example/.well-known/openid-configuration", "openid x")

    assert json.loads(said) == {
        "status": "invalid_token",
        "openid-configuration": "https://idp.example/.well-known/openid-configuration",
        "scope": "openid x",
    }
