"""What must hold of every file of the checkout, whoever wrote it."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import itertools
import json
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {path.name.removeprefix("requirements-").removesuffix(".lock"): path.read_text()
         for path in sorted(ROOT.glob("requirements-*.lock"))}  # fmt: skip
MAX_FILE_BYTES = 1_000_000

# Written so that this file does not hold what it looks for.
REGISTRY_HOST = re.compile(r"(py[p]i|python[h]osted|np[m]js|(deb|security)\.[d]ebian)\.(org|com)")
INDEX_OPTION = re.compile(
    r"--(extra-)?index-ur[l]|--find-link[s]|^\s*(r[e]gistry|index-ur[l])\s*="
    r"|\"resolve[d]\": \"\w+:",
    re.M,
)
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.])/(home|work|Users|root)/[\w.]")


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> dict[Path, str]:
    found = {}
    for path in tracked():
        # What is no UTF-8 is data: the sample archive's Parquet files and tiles.
        with contextlib.suppress(UnicodeDecodeError):
            found[path.relative_to(ROOT)] = path.read_bytes().decode()
    return found


@pytest.mark.parametrize("pattern", [REGISTRY_HOST, INDEX_OPTION, PATH_OF_A_MACHINE])
def test_no_file_names_a_registry_an_index_or_a_folder_of_somebodys_machine(
    pattern: re.Pattern[str],
) -> None:
    found = {
        f"{path}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}"
        for path, text in texts().items()
        for hit in pattern.finditer(text)
    }
    assert not found


def test_no_lock_holds_an_address() -> None:
    assert LOCKS
    assert [name for name, text in LOCKS.items() if "://" in text] == []


def test_npms_lock_pins_each_package_by_its_hash() -> None:
    packages = json.loads((ROOT / "extension/package-lock.json").read_text())["packages"]
    foreign = {
        name: each
        for name, each in packages.items()
        if name.startswith("node_modules/") and not each.get("link")
    }
    assert foreign
    assert [
        name for name, each in foreign.items() if not each["integrity"].startswith("sha512-")
    ] == []


def test_exactly_the_files_that_are_run_are_executable() -> None:
    wrong = []
    for path in tracked():
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        runs = path.read_bytes()[:2] == b"#!"
        if executable != runs:
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path, text in texts().items()
        if path.suffix == ".py" and text and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent


def test_no_tracked_file_is_large() -> None:
    assert [path.name for path in tracked() if path.stat().st_size > MAX_FILE_BYTES] == []


def test_no_text_ends_without_a_newline_or_holds_a_tab_that_aligns() -> None:
    ragged = [
        str(path)
        for path, text in texts().items()
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".sql", ".mjs", ".js", ".css"}
        and text
        and (not text.endswith("\n") or "\t" in text)
    ]
    assert not ragged


# --- the locks and pyproject.toml ---------------------------------------------------------------


def normal(requirement: str) -> str:
    """Return the normalised name of a requirement (PEP 503)."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def wanted(extra: str) -> set[str]:
    """Return the names that `extra` asks for, extras of our own resolved."""
    extras = PROJECT["project"]["optional-dependencies"]
    names = {normal(line) for line in PROJECT["project"]["dependencies"]}
    queue = [extra]
    while queue:
        for line in extras[queue.pop()]:
            own = re.fullmatch(r"agentaudit\[([a-z,]+)\]", line)
            if own:
                queue.extend(own.group(1).split(","))
            else:
                names.add(normal(line))
    return names


def pins(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", LOCKS[lock], re.M):
        found.setdefault(normal(name), set()).add(version)
    return found


@pytest.mark.parametrize("lock", sorted(set(LOCKS) - {"build", "fuzz"}))
def test_a_lock_pins_all_that_its_extra_asks_for(lock: str) -> None:
    assert wanted(lock) <= set(pins(lock))


def test_the_lock_of_the_build_pins_the_build_system() -> None:
    asked = PROJECT["build-system"]["requires"]
    assert asked == PROJECT["dependency-groups"]["build"]
    assert {normal(line) for line in asked} <= set(pins("build"))


def test_the_lock_of_the_fuzzer_pins_it_alone() -> None:
    asked = PROJECT["dependency-groups"]["fuzz"]
    assert {normal(line) for line in asked} == set(pins("fuzz"))


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_every_pin_of_a_lock_has_a_hash(lock: str) -> None:
    unhashed = [
        line
        for line, following in itertools.pairwise([*LOCKS[lock].splitlines(), ""])
        if "==" in line and "--hash=sha256:" not in following
    ]
    assert not unhashed


@pytest.mark.parametrize("lock", sorted(set(LOCKS) - {"dev"}))
def test_the_locks_agree_so_that_one_environment_can_hold_them(lock: str) -> None:
    development = pins("dev")
    differing = {
        name: (versions, development[name])
        for name, versions in pins(lock).items()
        if name in development and not versions <= development[name]
    }
    assert not differing


def test_a_gateway_gets_no_notebook_and_an_analyst_no_server() -> None:
    assert not {"duckdb", "polars", "jupyterlab", "anywidget", "ipykernel"} & set(pins("gateway"))
    assert not {"uvloop", "scramp", "pglast", "asyncssh"} & set(pins("lab"))


def test_every_package_that_the_code_imports_is_asked_for_by_name() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = wanted("dev")
    undeclared = set()
    for path, text in texts().items():
        if path.suffix == ".py" and path.parts[0] in {"src", "tools", "tests", "benchmarks"}:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                else:
                    continue
                for module in {module.partition(".")[0] for module in modules}:
                    owners = {normal(owner) for owner in distributions.get(module, [])}
                    if owners and not owners & (declared | {"agentaudit"}):
                        undeclared.add(f"{path}: {module} of {', '.join(sorted(owners))}")
    assert not undeclared


# --- layers -------------------------------------------------------------------------------------


def test_everything_without_io_that_exists_is_kept_from_it_by_contract() -> None:
    pure = {"protocols", "policy", "risk", "masking", "archive.merkle", "archive.note"}
    pure |= {"archive.retention", "archive.tlog_policy", "paths", "witness.protocol"}
    package = ROOT / "src/agentaudit"
    there = {
        f"agentaudit.{name}"
        for name in pure
        if (package / f"{name.replace('.', '/')}.py").exists() or any((package / name).glob("*.py"))
    }
    (contract,) = (
        contract
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract["id"] == "pure"
    )
    assert set(contract["source_modules"]) == there
    assert set(contract["forbidden_modules"]) >= {
        "asyncio", "socket", "ssl", "time", "os", "random", "asyncssh", "pyarrow"
    }  # fmt: skip


# --- deploy -------------------------------------------------------------------------------------


def test_the_image_is_made_of_pinned_packages_and_runs_as_nobody_special() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    commands = text.replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", commands)
    assert installs
    assert all("--require-hashes" in one or "--no-deps /tmp/wheel/" in one for one in installs)
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["python:3.11-slim"] * 2
    assert re.search(r"^USER (\d+):\d+$", text, re.M)
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M)
    allowed = (ROOT / "deploy/Dockerfile.dockerignore").read_text()
    for source in itertools.chain.from_iterable(line.split() for line in copied):
        assert (ROOT / source).exists()
        assert f"!{source}\n" in allowed


def test_the_compose_file_takes_every_privilege_away() -> None:
    (service,) = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert (ROOT / "deploy" / service["build"]["context"] / "pyproject.toml").exists()


def test_the_unit_is_closed_and_leaves_the_sealer_time_to_seal() -> None:
    lines = (ROOT / "deploy/agentaudit.service").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
    assert values["ProtectSystem"] == "strict"
    assert values["NoNewPrivileges"] == "yes"
    assert values["CapabilityBoundingSet"] == ""
    # SIGTERM to the whole group would end the sealer before the gateway has drained.
    assert values["KillMode"] == "mixed"
    assert int(values["TimeoutStopSec"]) > 30


def test_notebooks_are_committed_without_outputs() -> None:
    kept = []
    for path in tracked():
        if path.suffix == ".ipynb":
            cells = json.loads(path.read_text())["cells"]
            kept += [path.name for cell in cells if cell.get("outputs")]
    assert not kept


def test_ci_is_one_executable_script() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
