"""What a page may ask: names that are marked, with their arguments; whatever else it sends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agentaudit.errors import QuestionError
from agentaudit.widgets.questions import Buffered, Data, Questions, question


class Shop(Questions):
    """Answers about a shop; some of it fails."""

    secret = "the safe's number"

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    @question
    def price(self, name: str, count: int = 1) -> Data:
        self.calls.append((name, count))
        return {"price": 7 * count}

    @question
    def picture(self) -> Buffered:
        return {"width": 2}, [b"\x00\x01"]

    @question
    def sold_out(self) -> Data:
        raise QuestionError("sold out", hint="come back tomorrow")

    @question
    def broken(self) -> Data:
        raise TypeError("SELECT ssn FROM customers")

    def empty_the_till(self) -> Data:
        self.calls.append(("emptied",))
        return {}


class Annex(Shop):
    """Takes a question back: what overrides one and is not marked cannot be asked."""

    def price(self, name: str, count: int = 1) -> Data:
        return {"price": 0}


def ask(questions: Questions, message: object) -> list[tuple[Data, list[bytes]]]:
    told: list[tuple[Data, list[bytes]]] = []
    questions.answer(message, lambda answer, buffers: told.append((answer, buffers)))
    return told


def asked(op: object, args: object = None, number: object = 1) -> Data:
    return {"v": 1, "id": number, "op": op, "args": args}


def test_a_question_is_answered_under_its_number() -> None:
    shop = Shop()
    assert ask(shop, asked("price", {"name": "tea", "count": 3}, 41)) == [
        ({"v": 1, "id": 41, "ok": True, "data": {"price": 21}}, [])
    ]
    assert shop.calls == [("tea", 3)]


def test_an_answer_may_have_buffers_beside_it() -> None:
    assert ask(Shop(), {"v": 1, "id": 1, "op": "picture"}) == [
        ({"v": 1, "id": 1, "ok": True, "data": {"width": 2}}, [b"\x00\x01"])
    ]


@pytest.mark.parametrize(
    "op",
    [
        "sql",
        "",
        "empty_the_till",
        "secret",
        "answer",
        "_ask",
        "calls",
        "__init__",
        "__class__",
        "__init__.__globals__",
        "price ",
        None,
        7,
        ["price"],
        {"name": "price"},
    ],
)
def test_what_is_not_marked_cannot_be_asked(op: object) -> None:
    shop = Shop()
    ((answer, buffers),) = ask(shop, asked(op))
    assert answer["ok"] is False
    assert "does not know" in answer["error"]
    assert (buffers, shop.calls) == ([], [])


def test_what_overrides_a_question_without_the_mark_is_none() -> None:
    ((answer, _),) = ask(Annex(), asked("price", {"name": "tea"}))
    assert (answer["ok"], "does not know" in answer["error"]) == (False, True)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (None, "missing a required argument: 'name'"),
        ({}, "missing a required argument: 'name'"),
        ({"name": "tea", "colour": "green"}, "unexpected keyword argument 'colour'"),
        ({"name": "tea", "self": 1}, "multiple values for argument 'self'"),
        ({1: 2}, "keywords must be strings"),
        (["tea"], "must be a mapping"),
        ("tea", "must be a mapping"),
        (5, "must be a mapping"),
    ],
)
def test_arguments_that_a_question_does_not_have_are_told(args: object, error: str) -> None:
    shop = Shop()
    ((answer, _),) = ask(shop, asked("price", args))
    assert answer["ok"] is False
    assert answer["error"].startswith("question price: ")
    assert error in answer["error"]
    assert answer["hint"] == "reload the page"
    assert shop.calls == []


def test_what_cannot_be_answered_says_why_and_what_to_do() -> None:
    assert ask(Shop(), asked("sold_out", {})) == [
        ({"v": 1, "id": 1, "ok": False, "error": "sold out", "hint": "come back tomorrow"}, [])
    ]


def test_what_nobody_foresaw_is_told_without_its_text_and_raised() -> None:
    told: list[Any] = []
    with pytest.raises(TypeError, match="SELECT ssn"):
        Shop().answer(asked("broken"), lambda *answer: told.append(answer))
    error = {"v": 1, "id": 1, "ok": False, "error": "the kernel failed: TypeError"}
    assert told == [(error, [])]


@pytest.mark.parametrize(
    "message",
    [
        None,
        5,
        "open",
        b"open",
        [],
        ["v", 1],
        {},
        {"v": 2, "id": 1, "op": "price", "args": {"name": "tea"}},
        {"v": "1", "id": 1, "op": "price", "args": {"name": "tea"}},
        {"v": None, "id": 1, "op": "price"},
        {"v": [1], "id": 1, "op": "price"},
        {"id": 1, "op": "price", "args": {"name": "tea"}},
    ],
)
def test_a_message_of_another_language_is_passed_over(message: object) -> None:
    shop = Shop()
    assert ask(shop, message) == []
    assert shop.calls == []


@pytest.mark.parametrize("number", [None, -1, 2**70, "x" * 10_000, {"a": [1]}, [[[]]]])
def test_whatever_the_number_is_it_comes_back_as_it_was(number: object) -> None:
    ((answer, _),) = ask(Shop(), asked("price", {"name": "tea"}, number))
    assert (answer["id"], answer["ok"]) == (number, True)


def test_hostile_texts_are_values_and_nothing_else() -> None:
    shop = Shop()
    text = "'; DROP TABLE events; -- <script>\x1b]0;owned\x07 ../../etc/passwd \udc00"
    ((answer, _),) = ask(shop, asked("price", {"name": text}))
    assert answer["ok"] is True
    assert shop.calls == [(text, 1)]
    ((answer, _),) = ask(shop, asked(text, {}))
    assert text not in answer["error"]


def test_questions_that_come_together_are_answered_each() -> None:
    shop = Shop()
    broken, picture = asked("broken", None, 2), asked("picture", None, 3)
    batch = [asked("price", {"name": "tea"}, 1), picture, broken, "none", picture | {"id": 4}]
    told: list[Any] = []
    with pytest.raises(TypeError):
        shop.answer({"v": 1, "batch": batch}, lambda *answer: told.append(answer))
    ((answers, buffers),) = told
    assert [(one["id"], one["ok"], one["buffers"]) for one in answers["batch"]] == [
        (1, True, 0),
        (3, True, 1),
        (2, False, 0),
        (4, True, 1),
    ]
    assert buffers == [b"\x00\x01", b"\x00\x01"]
    many = [asked("price", {"name": "tea"}, number) for number in range(40)]
    ((answers, _),) = ask(shop, {"v": 1, "batch": many})
    assert len(answers["batch"]) == 32
    assert ask(shop, {"v": 2, "batch": many}) == []


def test_an_answer_that_is_late_keeps_no_other_waiting() -> None:
    told: list[object] = []

    class Slow(Shop):
        others_are_told = threading.Event()

        @question
        def slow(self) -> Data:
            assert self.others_are_told.wait(30)
            return {}

    shop = Slow()

    def send(answer: Data, buffers: list[bytes]) -> None:
        told.append(answer["id"])
        shop.others_are_told.set()

    shop.answer({"v": 1, "batch": [asked("slow", {}, 1), asked("price", {"name": "tea"}, 2)]}, send)
    assert told == [2, 1]
