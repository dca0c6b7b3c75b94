"""The documentation is complete, its links lead somewhere, and its examples run.

What must be documented is read from the code: a verb, a setting or a public name that is added
without a word fails here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentaudit import cli
from agentaudit.analysis.investigate import Investigation
from agentaudit.settings.default import write_default
from agentaudit.settings.file import SECTIONS, keys_of, load

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "extension").glob("*.md")]
    if "_build" not in path.parts
)
FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<body>.*?)^```$", re.M | re.S)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fences(page: Path, language: str) -> list[str]:
    return [
        match["body"]
        for match in FENCE.finditer(page.read_text())
        if match["language"].strip() == language
    ]


# --- complete -----------------------------------------------------------------------------------


def verbs() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (
        action.choices
        for action in cli.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found: dict[str, argparse.ArgumentParser] = {}
    for name, one in choices.items():
        actions = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
        nested = {f"{name} {action}": each for a in actions for action, each in a.choices.items()}
        found |= nested or {name: one}
    return found


def test_every_verb_and_each_of_its_options_is_documented() -> None:
    text = (DOCS / "cli.md").read_text()
    missing = [verb for verb in verbs() if not re.search(rf"agentaudit {verb}\b|`{verb}\b", text)]
    for verb, parser in verbs().items():
        for action in parser._actions:
            long = [option for option in action.option_strings if option.startswith("--")]
            if long and long != ["--help"] and not any(f"{option}" in text for option in long):
                missing.append(f"{verb} {long[0]}")
    assert not missing


def test_the_documentation_names_no_verb_that_does_not_exist() -> None:
    known = {verb.partition(" ")[0] for verb in verbs()}
    unknown = {
        f"{name_of(page)}: {verb}"
        for page in PAGES
        if page.name != "CHANGELOG.md"
        for body in fences(page, "sh") + fences(page, "console")
        for verb in re.findall(r"^(?:\$ )?agentaudit ([a-z][a-z-]*)", body, re.M)
        if verb not in known
    }
    assert not unknown


def setting_keys() -> Iterator[str]:
    for table in filter(None, SECTIONS):
        inner = table.partition(".")[2]
        keys = keys_of(table)
        yield from [f"`{inner}.{key}`" for key in keys] if inner else [f"[{table}]", *keys]


def test_every_setting_is_documented() -> None:
    text = (DOCS / "settings.md").read_text()
    assert [key for key in setting_keys() if key not in text] == []


def public_names(module: str) -> list[str]:
    loaded = importlib.import_module(module)
    return list(loaded.__all__)


@pytest.mark.parametrize("module", ["agentaudit", "agentaudit.widgets"])
def test_every_public_name_and_each_of_its_public_methods_is_documented(module: str) -> None:
    text = (DOCS / "python.md").read_text()
    missing = []
    for name in public_names(module):
        value = getattr(importlib.import_module(module), name)
        if name not in text:
            missing.append(name)
        if inspect.isclass(value) and module == "agentaudit":
            missing += [
                f"{name}.{member}"
                for member in vars(value)
                if not member.startswith("_") and not re.search(rf"\b{member}\b", text)
            ]
    assert not missing


def test_every_question_of_an_investigation_is_documented_with_an_example() -> None:
    page = DOCS / "investigate.md"
    text, examples = page.read_text(), "".join(fences(page, "python"))
    questions = [name for name in vars(Investigation) if not name.startswith("_")]
    assert [q for q in questions if f"**`{q}`**" not in text or f"ask.{q}(" not in examples] == []


@pytest.mark.parametrize("module", ["agentaudit", "agentaudit.widgets"])
def test_every_public_name_has_a_docstring(module: str) -> None:
    loaded = importlib.import_module(module)
    assert [name for name in public_names(module) if not getattr(loaded, name).__doc__] == []


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_of_the_checkout_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    broken = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in link
        and not link.startswith(("#", "mailto:"))
        and not (page.parent / link.partition("#")[0]).exists()
    ]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_prose_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # tells of what was, too
    text = FENCE.sub("", page.read_text())
    named = re.findall(
        r"`((?:src|tests|docs|deploy|tools|benchmarks|notebooks|sample_data)/[\w./-]+)`", text
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_begins_with_the_two_commands() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line]
    assert lines[0].startswith("# ")
    assert [line.split("#")[0].strip() for line in lines[2:4]] == ["make demo", "make test"]


def test_make_targets_that_the_documentation_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^)make ([a-z][a-z-]*)(?:`|$| )", page.read_text(), re.M)
    }
    assert named
    assert named <= targets


# --- examples -----------------------------------------------------------------------------------


TOML_BLOCKS = [(page, body) for page in PAGES for body in fences(page, "toml")]


@pytest.mark.parametrize(
    ("page", "body"), TOML_BLOCKS, ids=[name_of(page) for page, _ in TOML_BLOCKS]
)
def test_toml_examples_are_toml(page: Path, body: str) -> None:
    assert tomllib.loads(body), name_of(page)


def test_the_settings_that_init_writes_load_as_they_are(tmp_path: Path) -> None:
    write_default(tmp_path)
    assert load(tmp_path / "agentaudit.toml").gateway.name == "gw1"


def commands() -> dict[str, str]:
    """Return each documented command that reads nothing but the sample, and a page that has it.

    `lab` opens a browser, which tests/widgets drive; `drill` takes long, and is run by
    tests/archive/test_drill_on_the_sample.py.
    """
    return {
        line: name_of(page)
        for page in PAGES
        for language in ("sh", "console")
        for body in fences(page, language)
        for line in (line.removeprefix("$ ") for line in body.splitlines())
        if re.match(r"agentaudit (?!(?:lab|drill)\b)[^|]*sample_data/archive", line)
    }


@pytest.mark.parametrize(("line", "page"), commands().items())
def test_commands_that_the_documentation_shows_on_the_sample_work(
    line: str, page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    argv = shlex.split(line, comments=True)[1:]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = cli.main(argv)
    assert status == 0, f"{page}: {line}"
    assert out.getvalue()


# The blocks of one page are one program: later ones use what earlier ones have made.
PYTHON_PROGRAMS = [
    (page, program)
    for page, program in ((page, "\n".join(fences(page, "python"))) for page in PAGES)
    if "agentaudit" in program
]


@pytest.mark.parametrize(
    ("page", "program"), PYTHON_PROGRAMS, ids=[name_of(page) for page, _ in PYTHON_PROGRAMS]
)
def test_python_examples_run_on_the_sample(
    page: Path, program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(program, name_of(page), "exec"), {"__name__": "example"})


def test_there_are_examples_to_run() -> None:
    assert commands()
    assert PYTHON_PROGRAMS
