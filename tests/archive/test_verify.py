"""Deep verification: what is not as the events say is found, whoever signed it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentaudit.archive import segment as segment_module
from agentaudit.archive.drill.machine import fresh_log, rewrite_parquet, sealed_as_it_is
from agentaudit.archive.journal import JournalReader, encode_frame
from agentaudit.archive.note import Checkpoint, Signer, sign_note
from agentaudit.archive.segment import SCHEMAS
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from agentaudit.errors import ArchiveError
from tests.archive.recording import (
    ANA,
    GATEWAY,
    Site,
    SteppingClock,
    answer,
    counted,
    crashed,
    exchange,
    new_site,
    record,
    recover,
    request,
    resign,
    rows,
    sealed_files,
    start,
    ticked,
)


def check(site: Site, **options: Any) -> Verification:
    return verify(site.archive, **{"key": site.vkey, "deep": True, "remember": False} | options)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small archive of one run: two segments, sessions across both, text and payload in blobs."""
    site = new_site(tmp_path_factory.mktemp("deep") / "site")

    async def run() -> None:
        recorder = await start(site, segment_events=8)
        session = recorder.open_session(ANA)
        exchange(session, 0, "select '" + "é" * 40_000 + "'", b"\xb7" * 9000)
        exchange(session, 1, "select 1", b"\xb7" * 9000)
        await counted(recorder)
        exchange(session, 2, "select 2", b"\xb8" * 9000)
        session.close("client")
        await recorder.stop()

    asyncio.run(run())
    return site


@pytest.fixture
def site(sealed: Site, tmp_path: Path) -> Site:
    return sealed.copy_to(tmp_path / "copy")


@contextmanager
def forged(site: Site, path: Path, change: Callable[[pa.Table], pa.Table]) -> Iterator[None]:
    """Change a table, its digest and the whole log, signed with the real keys, for a while."""
    kept = path.read_bytes()
    log = site.layout.log(GATEWAY)
    shutil.copytree(log, site.folder / "kept-log")
    try:
        rewrite_parquet(path, change)
        resign(site, sealed_as_it_is(site.archive, path))
        yield
    finally:
        path.write_bytes(kept)
        shutil.rmtree(log)
        shutil.move(site.folder / "kept-log", log)


def another(value: Any, type_: pa.DataType) -> Any:
    """Return a value of the same type that differs from `value`."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_boolean(type_):
        return not value
    if pa.types.is_timestamp(type_) or pa.types.is_integer(type_):
        return 1 if value is None else value + 1
    if type_ == pa.uuid():
        return UUID(int=1).bytes
    if pa.types.is_fixed_size_binary(type_):
        return bytes(type_.byte_width - 1) + b"\x01"
    if pa.types.is_binary(type_):
        return (value or b"")[:-1] + b"!"
    if pa.types.is_string(type_):
        return (value or "") + "!"
    if pa.types.is_map(type_):
        return [("a", "b")]
    if pa.types.is_list(type_):
        if pa.types.is_struct(type_.value_type):
            return [{"rule": "r", "place": "text", "offset": 0, "length": 1}]
        return [*(value or []), "!"]
    raise TypeError(str(type_))


def edited(column: pa.Field, row: int) -> Callable[[pa.Table], pa.Table]:
    """Return what changes one value of `column`."""

    def change(table: pa.Table) -> pa.Table:
        type_ = column.type
        old = table.column(column.name).combine_chunks()
        if pa.types.is_timestamp(type_):
            values = old.cast(pa.int64()).to_pylist()
        elif type_ == pa.uuid():
            storage = old.storage if hasattr(old, "storage") else old.cast(pa.binary(16))
            values = storage.to_pylist()
        else:
            values = old.to_pylist()
        values[row] = another(values[row], type_)
        if type_ == pa.uuid():
            array = pa.ExtensionArray.from_storage(type_, pa.array(values, pa.binary(16)))
        else:
            array = pa.array(values, type_)
        index = table.schema.get_field_index(column.name)
        return table.set_column(index, table.schema.field(index), array)

    return change


@pytest.mark.parametrize("table", ["commands", "sessions", "events", "blobs"])
def test_an_edited_value_of_any_column_is_found_though_it_was_sealed_with_the_real_keys(
    site: Site, table: str
) -> None:
    assert check(site).ok is True
    path = sealed_files(site, table)[0]
    missed = []
    for column in SCHEMAS[table]:
        with forged(site, path, edited(column, row=1)):
            result = check(site)
        if result.ok is not False:
            missed.append(column.name)
    assert missed == []
    assert check(site).ok is True


def reversed_rows(table: pa.Table) -> pa.Table:
    return table.take(list(reversed(range(table.num_rows))))


def without_first(table: pa.Table) -> pa.Table:
    return table.slice(1)


def without_last(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows - 1)


def with_last_twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(table.num_rows - 1)])


def with_another_column(table: pa.Table) -> pa.Table:
    return table.append_column("verdict", pa.array(["harmless"] * table.num_rows))


def empty(table: pa.Table) -> pa.Table:
    return table.slice(0, 0)


@pytest.mark.parametrize("table", ["commands", "sessions", "events", "blobs"])
@pytest.mark.parametrize(
    "change",
    [reversed_rows, without_first, without_last, with_last_twice, with_another_column, empty],
)
def test_rows_and_columns_that_no_event_makes_are_found_though_sealed_with_the_real_keys(
    site: Site, table: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    path = sealed_files(site, table)[0]
    with forged(site, path, change):
        result = check(site)
    assert result.ok is False
    place = str(result.findings[0])
    assert path.stem in place


def without_origins(table: pa.Table) -> pa.Table:
    """Return rows of `commands` as they were sealed before the column existed."""
    return table.drop_columns(["origins"])


def test_commands_that_were_sealed_before_there_were_origins_are_whole(site: Site) -> None:
    with forged(site, sealed_files(site, "commands")[0], without_origins):
        assert check(site).ok is True
        (row,) = {row["session_id"] for row in rows(site, "commands")}
        assert check(site, session=row).ok is True


def test_origins_that_events_tell_of_cannot_be_left_out(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")

    async def run() -> UUID:
        recorder = await start(site)
        session = recorder.open_session(ANA)
        command = request(session, 0)
        command.columns, command.origins = ("ssn", "now"), ("16401.2", "")
        answer(session, command)
        session.close("client")
        await recorder.stop()
        return session.session_id

    session_id = asyncio.run(run())
    assert check(site).ok is True
    with forged(site, sealed_files(site, "commands")[0], without_origins):
        for asked in (None, session_id):
            (finding,) = check(site, session=asked).findings
            assert "commands.origins is not what its events say" in str(finding)


@pytest.mark.parametrize("table", ["events", "blobs", "commands", "sessions"])
def test_row_groups_cannot_hide_an_edit(site: Site, table: str) -> None:
    """Empty groups, and groups of other sizes than the sealer's."""
    path = sealed_files(site, table)[0]
    column = SCHEMAS[table].field({"blobs": "same_as"}.get(table, "user"))
    whole = edited(column, row=1)(pq.ParquetFile(path).read())
    for groups in ([0, whole.num_rows], [1, 0, whole.num_rows - 1], [1] * whole.num_rows):
        with forged(site, path, lambda table: table):
            with pq.ParquetWriter(path, whole.schema) as writer:
                start_row = 0
                for size in groups:
                    writer.write_table(whole.slice(start_row, size))
                    start_row += size
            resign(site, sealed_as_it_is(site.archive, path))
            result = check(site)
        assert result.ok is False, groups


def test_a_table_that_is_missing_in_a_seal_is_found(site: Site) -> None:
    for table in ("commands", "sessions", "blobs", "events"):
        copy = site.copy_to(site.folder.parent / table)
        path = sealed_files(copy, table)[0]
        path.unlink()

        def without(entries: list[dict[str, Any]], table: str = table) -> list[dict[str, Any]]:
            first = next(entry for entry in entries if entry["type"] == "seal")
            del first["files"][table]
            return entries

        resign(copy, without)
        assert check(copy).ok is False, table


def changed_entry(
    type_: str, member: str, value: Any, number: int = 0
) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        entry = [e for e in entries if e["type"] == type_][number]
        assert entry[member] != value
        entry[member] = value
        return entries

    return change


SEALED = [
    ("first_event", 1),
    ("n", 7),
    ("root", "00" * 32),
    ("head", "log\n1\n"),
    ("first_at", 0),
    ("last_at", 0),
    ("sessions_opened", 9),
    ("sessions_closed", 9),
    ("sessions_open", 9),
    ("commands", 9),
    ("decisions", 9),
    ("policy", "00" * 32),
    ("previous", "018bcfe5-6800-7def-8123-456789abcdef"),
    ("segment", "018bcfe5-6800-7def-8123-456789abcdef"),
    ("files", {}),
]


@pytest.mark.parametrize(("member", "value"), SEALED, ids=[member for member, _ in SEALED])
def test_a_seal_that_does_not_say_what_its_segment_holds_is_found(
    site: Site, member: str, value: Any
) -> None:
    resign(site, changed_entry("seal", member, value, number=1))
    assert check(site).ok is False


@pytest.mark.parametrize("member", ["bytes", "rows", "sha256", "path"])
def test_a_seal_that_does_not_say_what_its_files_hold_is_found(site: Site, member: str) -> None:
    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        seal = next(entry for entry in entries if entry["type"] == "seal")
        file = seal["files"]["commands"]
        file[member] = file[member] + (1 if isinstance(file[member], int) else "0")
        return entries

    resign(site, change)
    assert check(site).ok is False


@pytest.mark.parametrize(
    ("type_", "member", "value"),
    [
        ("genesis", "gateway", "gw2"),
        ("genesis", "origin", "other"),
        ("genesis", "format", 2),
        ("genesis", "key", "x"),
        ("genesis", "type", "start"),
        ("start", "type", "genesis"),
        ("open_segment", "first_event", 5),
        ("open_segment", "segment", "018bcfe5-6800-7def-8123-456789abcdef"),
        ("stop", "next_event", 0),
    ],
)
def test_a_statement_that_cannot_stand_where_it_stands_is_found(
    site: Site, type_: str, member: str, value: Any
) -> None:
    resign(site, changed_entry(type_, member, value))
    assert check(site).ok is False


def with_tick(n: int, root: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Add a tick of the first segment just before its seal."""

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        number = next(i for i, entry in enumerate(entries) if entry["type"] == "seal")
        tick = {"type": "tick", "at": 1, "n": n, "root": root}
        return [
            *entries[:number],
            tick | {"segment": entries[number]["segment"]},
            *entries[number:],
        ]

    return change


def test_ticks_that_the_sealed_segment_contradicts_are_found(site: Site) -> None:
    seal = next(entry for entry in site.log_entries() if entry["type"] == "seal")
    for n, root in ((seal["n"], "00" * 32), (2, "00" * 32), (seal["n"] + 1, seal["root"])):
        copy = site.copy_to(site.folder.parent / f"tick-{n}-{root[:2]}")
        resign(copy, with_tick(n, root))
        result = check(copy)
        assert result.ok is False
        assert "tick" in {finding.check for finding in result.findings}


def test_a_right_tick_is_no_finding(site: Site) -> None:
    seal = next(entry for entry in site.log_entries() if entry["type"] == "seal")
    resign(site, with_tick(seal["n"], seal["root"]))
    assert check(site).ok is True


MALFORMED: list[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = [
    changed_entry("seal", "segment", 5),
    changed_entry("seal", "segment", "../../etc/passwd"),
    changed_entry("seal", "first_at", 2**53 - 1),
    changed_entry("seal", "first_at", "yesterday"),
    changed_entry("seal", "files", [1]),
    changed_entry("seal", "files", {"events": None}),
    changed_entry("seal", "files", {"secrets": {"path": "x", "sha256": "x"}}),
    changed_entry("seal", "n", "many"),
    changed_entry("seal", "head", None),
    changed_entry("seal", "root", "zz"),
    changed_entry("genesis", "epoch_key", "x"),
    changed_entry("open_segment", "segment", None),
    lambda entries: [
        {key: value for key, value in entry.items() if key in ("type", "at")} for entry in entries
    ],
    lambda entries: entries[1:],
    lambda entries: [*entries, {"type": "policy", "sha256": "../../../etc/passwd"}],
    lambda entries: [*entries, {"type": "policy", "sha256": 5}],
    lambda entries: [*entries, {"type": "tick", "segment": "x", "n": 1, "root": "zz"}],
    lambda entries: [*entries, {"type": "key_epoch", "key": "x", "signature": "x"}],
]


@pytest.mark.parametrize("change", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_log_is_a_finding_and_never_an_exception(
    site: Site, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    resign(site, change)
    for deep in (False, True):
        result = check(site, deep=deep)
        assert result.ok is False
        assert result.findings


def test_a_malformed_journal_with_right_checksums_is_a_finding(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    ticked(site)
    (path,) = site.journals()
    whole = path.read_bytes()
    reader = JournalReader(path)
    begin = reader.offset
    entries = list(reader.read())
    fixed = entries[0].fixed
    bodies = [
        encode_frame(reader.header.marker, fixed, b"\xff", b"{", b"{"),
        encode_frame(reader.header.marker, fixed, None, b"[]", b"{}"),
        encode_frame(reader.header.marker, fixed, None, b"{}", b'{"key_m":5}'),
        encode_frame(reader.header.marker, fixed, None, b"{}", b"[]"),
        encode_frame(reader.header.marker, fixed[:-30] + b"\xff" * 30, b"\xff", None),
    ]
    for body in bodies:
        path.write_bytes(whole[:begin] + body)
        for deep in (False, True):
            assert check(site, deep=deep).ok is False


def test_a_sealed_file_that_is_no_parquet_is_a_finding(site: Site) -> None:
    for table in ("events", "blobs", "commands", "sessions"):
        copy = site.copy_to(site.folder.parent / table)
        path = sealed_files(copy, table)[0]
        data = bytearray(path.read_bytes())
        for place in range(100, len(data) - 12, 97):
            data[place] ^= 0x55
        path.write_bytes(data)

        def change(
            entries: list[dict[str, Any]], path: Path = path, copy: Site = copy
        ) -> list[dict[str, Any]]:
            relative = path.relative_to(copy.archive).as_posix()
            for entry in entries:
                for file in entry.get("files", {}).values():
                    if file["path"] == relative:
                        file["sha256"] = sha256(path.read_bytes()).hexdigest()
            return entries

        resign(copy, change)
        result = check(copy)
        assert result.ok is False
        assert "content" not in str(result.findings)


# --- epochs


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("epochs") / "site")
    record(site, commands=1)
    record(site, commands=1)
    return site


def test_yesterday_cannot_be_rewritten_with_the_keys_of_today(
    two_epochs: Site, tmp_path: Path
) -> None:
    """Whoever holds the log key and the current epoch key, and nothing else."""
    site = two_epochs.copy_to(tmp_path / "copy")

    def change(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        entries[1]["at"] += 1
        return entries

    resign(site, change)
    result = check(site)
    assert result.ok is False
    assert {finding.check for finding in result.findings} == {"epoch"}
    assert "not signed by the epoch key before it" in str(result.findings[0])


def begun_anew(site: Site) -> None:
    """Write the whole log again with the log key, and a chain of epoch keys of one's own."""
    folder = site.layout.log(GATEWAY)
    entries = [e for e in site.log_entries() if e["type"] != "key_epoch"]
    epoch = Signer.generate(f"{site.place.log_origin}/epoch")
    for entry in entries:
        if entry["type"] == "genesis":
            entry["epoch_key"] = str(epoch.verifier)
        if entry["type"] == "seal":
            checkpoint = Checkpoint.parse(entry["head"].split("\n\n")[0] + "\n")
            entry["head"] = sign_note(checkpoint.text(), [site.signer, epoch]).decode()
            head = site.layout.head(UUID(entry["segment"]))
            head.write_text(entry["head"])
    memory = site.folder / "memory"
    fresh_log(folder, site.place.log_origin, [site.signer, epoch], memory).append(entries)


def test_a_chain_of_epochs_that_begins_anew_is_found_by_who_has_the_first_key(
    two_epochs: Site, tmp_path: Path
) -> None:
    site = two_epochs.copy_to(tmp_path / "copy")
    begun_anew(site)
    result = check(site)
    assert result.ok is False
    assert "begins with another epoch key than the one given" in str(result.findings[0])
    # The limit of the log key alone, which is why both are handed out.
    assert check(site, key=site.vkey.splitlines()[0]).ok is True


@pytest.mark.parametrize("count", [0, 1])
def test_a_head_and_a_checkpoint_need_both_signatures(
    two_epochs: Site, tmp_path: Path, count: int
) -> None:
    for place in ("head", "checkpoint"):
        site = two_epochs.copy_to(tmp_path / f"{place}-{count}")
        signers = [site.signers[count]]
        if place == "checkpoint":
            path = site.layout.checkpoint(GATEWAY)
            text = path.read_text().split("\n\n")[0] + "\n"
            path.write_bytes(sign_note(text, signers))
        else:

            def change(
                entries: list[dict[str, Any]], signers: list[Signer] = signers, site: Site = site
            ) -> list[dict[str, Any]]:
                seal = [entry for entry in entries if entry["type"] == "seal"][-1]
                text = seal["head"].split("\n\n")[0] + "\n"
                seal["head"] = sign_note(text, signers).decode()
                site.layout.head(UUID(seal["segment"])).write_text(seal["head"])
                return entries

            resign(site, change)
        result = check(site, deep=False)
        assert result.ok is False, place


def test_a_segment_that_was_rewritten_with_todays_keys_is_found(
    two_epochs: Site, tmp_path: Path
) -> None:
    """A consistent forgery of the first segment: rows, root, head, digests, log."""
    site = two_epochs.copy_to(tmp_path / "copy")
    path = sealed_files(site, "commands")[0]
    rewrite_parquet(path, edited(SCHEMAS["commands"].field("text"), row=0))
    resign(site, sealed_as_it_is(site.archive, path))
    assert check(site, deep=False).ok is False


# --- what it says of a sound archive


def test_it_counts_what_there_is(site: Site) -> None:
    result = check(site)
    assert result.ok is True
    assert (result.gateways, result.segments, result.sessions, result.commands) == (1, 2, 2, 3)
    assert result.events == len(rows(site, "events"))
    assert result.scripted_clocks == []
    assert result.checkpoints["gw1"].size == len(site.log_entries())


def test_it_tells_progress(site: Site) -> None:
    said: list[tuple[str, int, int]] = []
    check(site, progress=lambda *step: said.append(step))
    size = len(site.log_entries())
    seals = [n for n, entry in enumerate(site.log_entries()) if entry["type"] == "seal"]
    assert said == [("log of gw1", number, size) for number in seals]


def test_it_says_where_the_clock_was_scripted(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    record(site, commands=1)
    assert check(site).scripted_clocks == []
    record(site, commands=1, clock=SteppingClock())
    assert check(site).scripted_clocks == ["gw1"]


def test_segments_of_several_row_groups_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    monkeypatch.setattr("agentaudit.archive.open_segment.ROW_GROUP_ROWS", 4)
    monkeypatch.setattr(segment_module, "ROW_GROUP_ROWS", 4)
    recover(site)
    metadata = pq.ParquetFile(sealed_files(site, "events")[0]).metadata
    assert metadata.num_row_groups > 3
    assert check(site).ok is True


def test_segments_with_large_events_end_row_groups_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path / "site")
    crashed(site)
    monkeypatch.setattr("agentaudit.archive.open_segment.ROW_GROUP_BYTES", 500)
    monkeypatch.setattr("agentaudit.archive.journal.BATCH_ROWS", 3)
    recover(site)
    assert pq.ParquetFile(sealed_files(site, "events")[0]).metadata.num_row_groups > 3
    assert check(site).ok is True


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: None,
        lambda folder: folder.mkdir(),
        lambda folder: folder.write_bytes(b""),
    ],
)
def test_what_is_no_archive_is_no_answer(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "folder")
    with pytest.raises(ArchiveError, match="FORMAT"):
        verify(tmp_path / "folder")


def test_an_archive_without_a_log_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_bytes(b"agentaudit archive 1\n")
    result = verify(tmp_path)
    assert result.ok is False
    assert result.findings[0].place == "log"


@pytest.mark.parametrize("key", ["x", "a+b+c", ["a+b"]])
def test_a_malformed_key_or_checkpoint_is_no_answer(site: Site, key: Any) -> None:
    with pytest.raises(ArchiveError):
        check(site, key=key)
    with pytest.raises(ArchiveError):
        check(site, since="rubbish")


def test_findings_hold_no_content(site: Site) -> None:
    path = sealed_files(site, "commands")[0]
    secret = "select 'hunter2'"

    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index("text")
        values = [secret] * table.num_rows
        return table.set_column(index, "text", pa.array(values, pa.string()))

    with forged(site, path, change):
        result = check(site)
    assert result.ok is False
    assert "hunter2" not in json.dumps([str(finding) for finding in result.findings])
