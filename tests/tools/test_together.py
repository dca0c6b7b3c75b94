"""What a module makes once is made once, however many workers there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.together import group

ROOT = Path(__file__).parents[2]

SHARED = """
import pathlib, pytest

@pytest.fixture({scope})
def made():
    with pathlib.Path("{name}").open("a") as file:
        file.write("made\\n")

@pytest.mark.parametrize("number", range(6))
def test_it(made, number): pass
"""


def test_a_fixture_of_a_module_is_made_in_one_worker_and_other_tests_go_to_all(
    tmp_path: Path,
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("one", "two", "three"):
        text = SHARED.format(scope='scope="module"', name=name)
        (tmp_path / f"test_{name}.py").write_text(text)
    (tmp_path / "test_each.py").write_text(SHARED.format(scope="", name="each"))
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "xdist", "-p", "tools.together", "-n", "2"]
        + ["-p", "no:cacheprovider"],
        cwd=tmp_path,
        # Of a dozen plugins one has to do with it, and each worker loads all.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "24 passed" in said
    made = {name: (tmp_path / name).read_text().count("made") for name in ("one", "two", "three")}
    assert made == {"one": 1, "two": 1, "three": 1}
    assert (tmp_path / "each").read_text().count("made") == 6
    assert "[gw0]" in said
    assert "[gw1]" in said


def test_what_may_take_longest_begins_first(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = timeout(seconds)\n")
    (tmp_path / "test_a.py").write_text(
        "import pytest\ndef test_short(): pass\n@pytest.mark.timeout(300)\ndef test_long(): pass\n"
    )
    fixture = '@pytest.fixture(scope="module")\ndef made(): pass\n'
    of_two = "import pytest\n" + fixture + "def test_1(made): pass\ndef test_2(made): pass\n"
    (tmp_path / "test_b.py").write_text(of_two)
    (tmp_path / "test_c.py").write_text("import pytest\npytestmark = pytest.mark.timeout(600)\n")
    with (tmp_path / "test_c.py").open("a") as file:
        file.write("def test_longest(): pass\n")
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "tools.together"]
        + ["--collect-only", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    names = ["c.py::test_longest", "a.py::test_long", "b.py::test_1", "b.py::test_2"]
    assert said.split()[:5] == [f"test_{name}" for name in [*names, "a.py::test_short"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('pytestmark = pytest.mark.xdist_group("drill")\n@pytest.fixture(scope="module")', "drill"),
        ('@pytest.fixture(scope="module", params=[1])', "tests/test_a.py"),
        ('@pytest.fixture(scope="session")', None),
        ("", None),
    ],
)
def test_a_module_says_by_its_text_what_its_tests_are_kept_together_by(
    text: str, expected: str | None
) -> None:
    assert group("tests/test_a.py", text) == expected
