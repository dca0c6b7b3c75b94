"""SFTP's decoder: any cut gives the same steps, and what is no SFTP is said to be none."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.errors import ClientProtocolError, TargetProtocolError
from agentaudit.model import Command, Refusal, Side, Step
from agentaudit.protocols import sftp
from agentaudit.protocols.sftp import Packet, Sftp
from tests.protocols import sftp_wire as wire

C, T = Side.CLIENT, Side.TARGET
Said = list[tuple[Side, bytes]]


class Talk:
    """One conversation, and the steps and commands that it has had."""

    def __init__(self, *said: tuple[Side, bytes], begun: bool = True) -> None:
        self._next = 0
        self.sftp = Sftp(0, self._number)
        self.steps: list[Step] = []
        self.started: list[Command] = []
        self.ended: list[Command] = []
        for side, frame in ([(C, wire.INIT), (T, wire.VERSION)] if begun else []) + list(said):
            self.say(side, frame)

    def _number(self) -> int:
        self._next += 1
        return self._next

    def say(self, side: Side, frame: bytes) -> list[Step]:
        steps = list(self.sftp.receive(side, frame))
        self.steps += steps
        for step in steps:
            self.started += step.starts
            self.ended += step.ends
        return steps

    def of(self, operation: str) -> Command:
        (found,) = [each for each in self.started if each.operation == operation]
        return found


def contents(steps: Iterable[Step]) -> list[tuple[int, bytes, bool]]:
    """Return the pieces of files in `steps`: offset, bytes, and whether it follows."""
    packets: list[tuple[Step, Packet]] = [(step, step.about[0]) for step in steps]
    return [
        (p.offset, step.frame[p.content[0] : p.content[1]], p.follows)
        for step, p in packets
        if p.content is not None
    ]


DOWNLOAD: Said = [
    (C, wire.INIT),
    (T, wire.VERSION),
    (C, wire.request(16, 1, wire.string(b"."))),
    (T, wire.name(1, b"/srv/ops")),
    (C, wire.opens(2, b"/srv/a")),
    (T, wire.handle(2, b"\0\0\0\0")),
    (C, wire.reads(3, b"\0\0\0\0", 0, 4)),
    (C, wire.reads(4, b"\0\0\0\0", 4, 4)),
    (T, wire.data(3, b"abcd")),
    (C, wire.opens(5, b"b", wire.WRITE)),
    (T, wire.data(4, b"ef")),
    (T, wire.handle(5, b"\0\0\0\1")),
    (C, wire.writes(6, b"\0\0\0\1", 0, b"hi")),
    (T, wire.status(6)),
    (C, wire.reads(7, b"\0\0\0\0", 6, 4)),
    (T, wire.status(7, 1, b"End of file")),
    (C, wire.closes(8, b"\0\0\0\0") + wire.closes(9, b"\0\0\0\1")),
    (T, wire.status(8) + wire.status(9)),
    (C, wire.request(13, 10, wire.string(b"/srv/gone"))),
    (T, wire.status(10, 2, b"No such file")),
]


def facts(talk: Talk) -> list[Any]:
    steps = [
        (s.side, s.frame, [c.text for c in s.starts], [(c.text, c.status) for c in s.ends])
        for s in talk.steps
    ]
    return [steps, contents(talk.steps)]


def test_what_is_read_and_written_are_commands_of_their_handle() -> None:
    talk = Talk(*DOWNLOAD, begun=False)
    assert [(c.operation, c.cls, c.resources, c.status) for c in talk.ended] == [
        ("sftp.realpath", "session", (), "ok"),
        ("sftp.open", "read", ("/srv/a",), "ok"),
        ("sftp.open", "write", ("~/b", "/srv/ops/b"), "ok"),
        ("sftp.read", "read", ("/srv/a",), "ok"),
        ("sftp.write", "write", ("~/b", "/srv/ops/b"), "ok"),
        ("sftp.remove", "write", ("/srv/gone",), "error"),
    ]
    assert contents(talk.steps) == [(0, b"abcd", True), (4, b"ef", True), (0, b"hi", True)]
    removed = talk.of("sftp.remove")
    assert (removed.error_code, removed.error_text) == ("2", "no such file")
    of_read = talk.of("sftp.read").command_no
    assert [s.events[0].command_no for s in talk.steps if s.frame[4] == 103] == [of_read] * 2


def test_all_that_was_said_is_in_steps_in_its_order() -> None:
    talk = Talk(*DOWNLOAD, begun=False)
    for side in Side:
        said = b"".join(frame for of, frame in DOWNLOAD if of is side)
        assert b"".join(step.frame for step in talk.steps if step.side is side) == said
        assert talk.sftp.left(side) == b""


def test_byte_by_byte_gives_the_same_steps() -> None:
    whole, single = Talk(*DOWNLOAD, begun=False), Talk(begun=False)
    for side, frame in DOWNLOAD:
        for at in range(len(frame)):
            single.say(side, frame[at : at + 1])
    assert facts(single) == facts(whole)


@given(st.data())
def test_any_cut_gives_the_same_steps(draw: st.DataObject) -> None:
    whole, cut = Talk(*DOWNLOAD, begun=False), Talk(begun=False)
    for side, frame in DOWNLOAD:
        places = draw.draw(st.lists(st.integers(0, len(frame)), max_size=3))
        edges = [0, *sorted(places), len(frame)]
        for start, stop in pairwise(edges):
            cut.say(side, frame[start:stop])
    assert facts(cut) == facts(whole)


@given(st.lists(st.tuples(st.sampled_from(Side), st.binary(max_size=200)), max_size=6))
def test_garbage_is_a_protocol_error_and_nothing_else(said: Said) -> None:
    talk = Talk()
    blame = {C: ClientProtocolError, T: TargetProtocolError}
    for side, noise in said:
        try:
            talk.say(side, noise)
        except blame[side]:
            return


@given(st.integers(0, len(DOWNLOAD) - 1), st.data())
def test_a_packet_that_was_tampered_with_is_a_protocol_error_or_another_packet(
    which: int, draw: st.DataObject
) -> None:
    talk = Talk(*DOWNLOAD[:which], begun=False)
    side, frame = DOWNLOAD[which]
    damaged = bytearray(frame)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(frame) - 1))] = draw.draw(st.integers(0, 255))
    before = len(talk.steps)
    try:
        talk.say(side, bytes(damaged))
        passed = b"".join(step.frame for step in talk.steps[before:])
        assert passed + talk.sftp.left(side) == bytes(damaged)
    except (ClientProtocolError, TargetProtocolError):
        assert talk.sftp.left(side)


HANDLE = (C, wire.opens(1, b"/a")), (T, wire.handle(1, b"h"))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([(C, b"\xff\xff\xff\xff")], "a packet of 4294967295 bytes"),
        ([(C, b"\0\0\0\0")], "a packet of 0 bytes"),
        ([(C, b"GET / HTTP/1.1\r\n")], "a packet of 1195725856 bytes"),
        ([(C, wire.INIT)], "it has begun already"),
        ([(T, wire.VERSION)], "a version that nobody has asked for"),
        ([(C, wire.opens(1, b"/a")), (C, wire.opens(1, b"/b"))], "request 1 has not been answered"),
        ([(T, wire.status(9))], "an answer to request 9, which is none"),
        ([(C, wire.opens(1, b"/a")), (T, wire.request(3, 1))], "packet 3, which answers nothing"),
        ([*HANDLE, (C, wire.opens(2, b"/b")), (T, wire.handle(2, b"h"))], "in use already"),
        ([(C, wire.opens(1, b"/a\0b"))], "a path with a zero byte"),
        ([(C, wire.opens(1, b"/" * 4097))], "of 4097 bytes"),
        ([(C, wire.request(18, 1, wire.string(b"/a")))], "packet 18 is cut short"),
        ([(C, wire.writes(1, b"h", 0, b"x") + b"y")], ""),
        ([*HANDLE, (C, wire.request(6, 2, wire.string(b"h"), wire.u64(0), 9))], "cut short"),
        (
            [*HANDLE, (C, wire.request(5, 2, wire.string(b"h"), wire.u64(0), 9, 9))],
            "packet 5 is cut short",
        ),
    ],
)
def test_what_is_not_allowed_is_named(said: Said, why: str) -> None:
    talk = Talk()
    for side, frame in said[:-1]:
        talk.say(side, frame)
    side, frame = said[-1]
    if not why:  # the beginning of something else
        talk.say(side, frame)
        assert talk.sftp.left(side) == b"y"
        return
    with pytest.raises((ClientProtocolError, TargetProtocolError), match=why):
        talk.say(side, frame)
    assert talk.sftp.left(side) == frame


def test_what_came_before_something_that_is_not_allowed_counts() -> None:
    talk = Talk()
    steps = talk.sftp.receive(C, wire.opens(1, b"/a") + wire.INIT)
    assert next(steps).frame == wire.opens(1, b"/a")
    with pytest.raises(ClientProtocolError):
        next(steps)
    assert talk.sftp.left(C) == wire.INIT


@pytest.mark.parametrize("version", [2, 4, 6])
def test_a_version_that_is_not_understood_is_not_let_pass(version: int) -> None:
    talk = Talk((C, wire.packet(1, bytes([0, 0, 0, version]))), begun=False)
    with pytest.raises(TargetProtocolError, match=f"speaks version {version}, 3 expected"):
        talk.say(T, wire.packet(2, bytes([0, 0, 0, version])))


def test_nothing_is_asked_before_a_version_is_agreed_on() -> None:
    talk = Talk((C, wire.INIT), begun=False)
    with pytest.raises(ClientProtocolError, match="before a version"):
        talk.say(C, wire.opens(1, b"/a"))


def test_no_more_requests_may_wait_than_a_limit() -> None:
    talk = Talk()
    for number in range(sftp.MAX_PENDING):
        talk.say(C, wire.request(8, number, wire.string(b"h")))
    with pytest.raises(ClientProtocolError, match="4096 requests have not been answered"):
        talk.say(C, wire.request(8, sftp.MAX_PENDING, wire.string(b"h")))


def test_no_more_files_may_be_open_than_a_limit() -> None:
    talk = Talk()
    for number in range(sftp.MAX_HANDLES):
        talk.say(C, wire.opens(number, b"/a"))
        talk.say(T, wire.handle(number, str(number).encode()))
    talk.say(C, wire.opens(9999, b"/a"))
    with pytest.raises(TargetProtocolError, match="more than 1024 handles"):
        talk.say(T, wire.handle(9999, b"one more"))


def test_what_is_behind_a_step_waits_until_it_is_asked_for() -> None:
    talk = Talk()
    steps = talk.sftp.receive(C, wire.opens(1, b"/a") + wire.opens(2, b"/b"))
    assert next(steps).starts[0].text == "open /a (read)"
    steps.close()
    assert [step.starts[0].text for step in talk.sftp.receive(C, b"")] == ["open /b (read)"]


def test_a_request_that_waits_is_answered_by_nobody() -> None:
    talk = Talk()
    (step,) = talk.say(C, wire.request(13, 1, wire.string(b"/a")))
    talk.sftp.wait(step, True)
    with pytest.raises(TargetProtocolError, match="an answer to request 1, which is none"):
        talk.say(T, wire.status(1))


def test_a_refusal_is_the_answer_and_ends_the_command() -> None:
    talk = Talk()
    (step,) = talk.say(C, wire.request(13, 7, wire.string(b"/a")))
    answer = talk.sftp.refuse(step, Refusal(code="3", message="no"))
    assert answer.frame == wire.request(101, 7, 3, wire.string(b"no"), wire.string(b"en"))
    assert answer.synthetic
    assert [(c.operation, c.status, c.error_text) for c in answer.ends] == [
        ("sftp.remove", "denied", "no")
    ]
    talk.say(C, wire.request(13, 7, wire.string(b"/b")))  # its number is free again


def passing(*said: tuple[Side, bytes]) -> Packet:
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE)), (T, wire.handle(1, b"h")), *said)
    packets = [step.about[0] for step in talk.steps]
    return [packet for packet in packets if packet.passing is not None][-1]


@pytest.mark.parametrize(
    ("said", "is_whole", "size"),
    [
        ([(C, wire.writes(2, b"h", 0, b"ab")), (C, wire.writes(3, b"h", 2, b"c"))], True, 3),
        ([(C, wire.writes(2, b"h", 1, b"ab"))], False, 2),
        ([(C, wire.writes(2, b"h", 0, b"ab")), (C, wire.writes(3, b"h", 1, b"c"))], False, 3),
        ([(C, wire.writes(2, b"h", 0, b"ab")), (T, wire.status(2, 4))], False, 2),
        ([(C, wire.reads(2, b"h", 0, 2)), (T, wire.data(2, b"ab"))], True, 2),
        ([(C, wire.reads(2, b"h", 0, 2)), (T, wire.status(2, 1))], True, 0),
        ([(C, wire.reads(2, b"h", 0, 2)), (T, wire.status(2, 3))], False, 0),
        (
            [(C, wire.reads(2, b"h", 0, 2) + wire.reads(3, b"h", 2, 2))]
            + [(T, wire.data(3, b"cd") + wire.data(2, b"ab"))],
            False,
            4,
        ),
        (
            [(C, wire.reads(3, b"h", 0, 2) + wire.reads(2, b"h", 2, 2))]
            + [(T, wire.data(3, b"ab") + wire.data(2, b"cd"))],
            True,
            4,
        ),
    ],
)
def test_what_passed_is_whole_only_in_order_and_from_the_beginning(
    said: Said, is_whole: bool, size: int
) -> None:
    found = passing(*said).passing
    assert found is not None
    assert (found.is_whole, found.size) == (is_whole, size)


def test_what_is_appended_is_not_whole() -> None:
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE | 4)), (T, wire.handle(1, b"h")))
    (step,) = talk.say(C, wire.writes(2, b"h", 0, b"ab"))
    assert not step.about[0].passing.is_whole


@pytest.mark.parametrize(
    ("frame", "operation", "cls", "resources"),
    [
        (wire.opens(1, b"/a", wire.READ | wire.CREATE), "sftp.open", "write", ("/a",)),
        (wire.opens(1, b"/a", 0x100 | wire.READ), "sftp.open", "write", ("/a",)),
        (
            wire.request(18, 1, wire.string(b"/a"), wire.string(b"/b")),
            *("sftp.rename", "write", ("/a", "/b")),
        ),
        (
            wire.request(
                *(200, 1, wire.string(b"posix-rename@openssh.com")),
                *(wire.string(b"/a"), wire.string(b"/b")),
            ),
            *("sftp.rename", "write", ("/a", "/b")),
        ),
        (
            wire.request(200, 1, wire.string(b"made-up@x"), b"anything"),
            *("sftp.made-up@x", "unknown", ()),
        ),
        (wire.request(150, 1, b"anything"), "sftp.150", "unknown", ()),
        (
            wire.request(17, 1, wire.string(b"../../etc")),
            "sftp.stat",
            "read",
            ("~/../../etc", "/*"),
        ),
        (wire.request(13, 1, wire.string(b"caf\xe9")), "sftp.remove", "write", ("~/caf\\xe9",)),
        (
            wire.request(200, 1, wire.string(b"expand-path@openssh.com"), wire.string(b"~ana/x")),
            *("sftp.realpath", "session", ("~ana/x",)),
        ),
    ],
)
def test_what_a_request_does_is_told(
    frame: bytes, operation: str, cls: str, resources: tuple[str, ...]
) -> None:
    (command,) = Talk((C, frame)).started
    assert (command.operation, command.cls, command.resources) == (operation, cls, resources)


def test_what_is_copied_by_the_target_names_both_files() -> None:
    talk = Talk(
        *[(C, wire.opens(1, b"/a")), (T, wire.handle(1, b"1"))],
        *[(C, wire.opens(2, b"/b", wire.WRITE)), (T, wire.handle(2, b"2"))],
    )
    fields = wire.string(b"1") + wire.u64(0) + wire.u64(0) + wire.string(b"2") + wire.u64(0)
    talk.say(C, wire.request(200, 3, wire.string(b"copy-data"), fields))
    command = talk.of("sftp.copy-data")
    assert (command.cls, command.resources) == ("write", ("/a", "/b"))


def test_texts_are_where_they_are_said_to_be() -> None:
    talk = Talk((C, wire.request(12, 1, wire.string(b"h"))))
    (step,) = talk.say(T, wire.name(1, b"one", b"two") + b"")
    packet = step.about[0]
    said = [step.frame[start:stop] for start, stop in packet.texts]
    assert said == [b"one", b"-rw------- 1 a b one", b"two", b"-rw------- 1 a b two"]
    assert packet.rest == len(step.frame)


def test_what_is_set_through_a_handle_is_of_its_file() -> None:
    talk = Talk(*HANDLE, (C, wire.request(10, 2, wire.string(b"h"), wire.NO_ATTRIBUTES)))
    command = talk.of("sftp.setstat")
    assert (command.cls, command.resources, command.text) == ("write", ("/a",), "setstat /a")


@pytest.mark.parametrize(
    "asked",
    [
        wire.reads(9, b"\0\0\0\0", 0, 9),
        wire.writes(9, b"\0\0\0\0", 0, b"x"),
        wire.closes(9, b"\0\0\0\0"),
        wire.request(8, 9, wire.string(b"\0\0\0\0")),
        wire.request(12, 9, wire.string(b"\0\0\0\0")),
        wire.request(10, 9, wire.string(b"\0\0\0\0"), wire.NO_ATTRIBUTES),
        wire.request(200, 9, wire.string(b"fsync@openssh.com"), wire.string(b"\0\0\0\0")),
    ],
)
def test_a_handle_that_was_not_given_or_is_given_back_is_of_no_use(asked: bytes) -> None:
    """OpenSSH's are numbers from 0 on: a client can say them before it hears them."""
    opened: Said = [(C, wire.opens(1, b"/a")), (T, wire.handle(1, b"\0\0\0\0"))]
    closing: Said = [(C, wire.closes(2, b"\0\0\0\0")), (C, wire.opens(3, b"/b"))]
    refused = [
        Talk(*said, (C, asked)).steps[-1].about[0].refused
        for said in (opened[:1], opened, opened + closing)
    ]
    assert refused == ["this handle is not open", "", "this handle is not open"]


def test_what_a_link_says_is_meant_from_its_folder_whichever_path_that_is() -> None:
    for paths in ((b"../etc/shadow", b"/tmp/x"), (b"/tmp/x", b"../etc/shadow")):
        talk = Talk((C, wire.request(20, 1, *map(wire.string, paths))))
        assert "/tmp/../etc/shadow" in talk.of("sftp.symlink").resources


def test_what_concerns_the_server_alone_is_no_command() -> None:
    talk = Talk((C, wire.request(200, 1, wire.string(b"limits@openssh.com"))))
    (step,) = talk.say(T, wire.request(201, 1, b"\0" * 32))
    assert (talk.started, step.events[0].command_no) == ([], 0)


@pytest.mark.parametrize("which", ["read", "write", "close"])
def test_what_failed_is_an_error_when_it_is_closed(which: str) -> None:
    talk = Talk((C, wire.opens(1, b"/a", wire.WRITE)), (T, wire.handle(1, b"h")))
    say = wire.reads(2, b"h", 0, 1) if which == "read" else wire.writes(2, b"h", 0, b"x")
    talk.say(C, say)
    talk.say(T, wire.status(2, 0 if which == "close" else 4))
    talk.say(C, wire.closes(3, b"h"))
    talk.say(T, wire.status(3, 4 if which == "close" else 0))
    (ended,) = [each for each in talk.ended if each.operation != "sftp.open"]
    assert (ended.status, ended.error_code, ended.error_text) == ("error", "4", "failure")


ATTRIBUTES = (bytes.fromhex("8000000f") + bytes(8 + 8 + 4 + 8) + bytes([0, 0, 0, 1])) + wire.string(
    b"type"
)


@pytest.mark.parametrize("cut", [0, 1, 5, 20, 33, 38, 46])
def test_names_are_read_as_far_as_they_go(cut: int) -> None:
    """Whatever a target says of them: nothing but masks needs them."""
    whole = wire.string(b"one") + wire.string(b"long one") + ATTRIBUTES + wire.string(b"value")
    talk = Talk((C, wire.request(12, 1, wire.string(b"h"))))
    frame = wire.request(104, 1, 2, whole, whole[: len(whole) - cut] if cut else whole)
    (step,) = talk.say(T, frame)
    packet = step.about[0]
    said = [frame[start:stop] for start, stop in packet.texts]
    assert said[:5] == [b"one", b"long one", b"type", b"value", b"one"]
    assert (packet.rest == len(frame)) == (not cut)
