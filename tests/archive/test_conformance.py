"""What is missing was purged lawfully, or `verify` says which purge was not, and why.

Attackers here hold every key of the gateway: what they forge is signed, and its digests fit. Those
who purge more than they may do so with our own sealer, made blind to what forbids it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from agentaudit.archive import canonical
from agentaudit.archive.drill.machine import rewrite_parquet
from agentaudit.archive.ids import uuid7
from agentaudit.archive.retention import DAY_US, Standing
from agentaudit.archive.verification import Verification
from agentaudit.archive.verify import verify
from tests.archive.purging import (
    KEEP,
    apply,
    apply_for_days,
    entries_of,
    event_of,
    hmac_of,
    hold,
    recorded,
    require_proven,
    split,
)
from tests.archive.recording import (
    Site,
    new_site,
    order,
    record,
    resign,
    retention,
    rows,
    sealed_files,
)

Entries = list[dict[str, Any]]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Three sessions that are due, one whose payloads are, one that is kept."""
    site = new_site(tmp_path_factory.mktemp("before") / "site")
    recorded(site)
    return site


@pytest.fixture(scope="module")
def lawful(before: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same after retention was applied."""
    site = before.copy_to(tmp_path_factory.mktemp("lawful") / "site")
    apply_for_days(site)
    return site


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Segments that went whole, and some that did not."""
    site = new_site(tmp_path_factory.mktemp("whole") / "site")
    split(site)
    apply(site)
    return site


@pytest.fixture
def site(lawful: Site, tmp_path: Path) -> Site:
    return lawful.copy_to(tmp_path / "copy")


def check(site: Site, *, deep: bool = True) -> Verification:
    return verify(site.archive, key=site.vkey, deep=deep, remember=False)


def require_found(site: Site, check_name: str, words: str, *, deep: bool = False) -> None:
    """Verification says no, for this reason; a fast one too unless it takes a `deep` one."""
    for is_deep in {deep, True}:
        result = check(site, deep=is_deep)
        assert result.ok is False
        found = [str(f) for f in result.findings if f.check == check_name and words in str(f)]
        assert found, [str(finding) for finding in result.findings]


def changed(kind: str, number: int = 0, **members: Any) -> Callable[[Entries], Entries]:
    """Change members of the `number`th entry of a kind."""

    def change(entries: Entries) -> Entries:
        [e for e in entries if e["type"] == kind][number].update(members)
        return entries

    return change


def without(kind: str) -> Callable[[Entries], Entries]:
    return lambda entries: [entry for entry in entries if entry["type"] != kind]


def rewrite_list(site: Site, change: Callable[[dict[str, Any]], None], **members: Any) -> None:
    """Change the first purge's list, and let its intent name the new one."""
    intent = entries_of(site, "purge_intent")[0]
    path = site.layout.purge(intent["purge"])
    document = canonical.decode(path.read_bytes())
    change(document)
    data = canonical.encode(document)
    path.write_bytes(data)
    resign(site, changed("purge_intent", list=sha256(data).hexdigest(), **members))


def rename_file(site: Site, done: int, place: str, path: Path) -> None:
    """Let a `purge_done` name the file at `path` as it is now; `place` is a table, or residue."""
    entry = entries_of(site, "purge_done")[done]
    data = path.read_bytes()
    file = {
        "path": path.relative_to(site.archive).as_posix(),
        "sha256": sha256(data).hexdigest(),
        "bytes": len(data),
        "rows": pq.read_metadata(path).num_rows,
    }
    if place in ("residue", "salts"):
        resign(site, changed("purge_done", done, **{place: file}))
    else:
        resign(site, changed("purge_done", done, files=entry["files"] | {place: file}))


@contextmanager
def blind(monkeypatch: pytest.MonkeyPatch, *, to: str) -> Iterator[None]:
    """Make our sealer blind to the age of sessions, or to legal holds."""
    with monkeypatch.context() as patched:
        if to == "age":
            patched.setattr(Standing, "due", lambda *_: "sessions")
        else:
            patched.setattr(Standing, "holding", lambda *_: [])
        yield


def test_an_archive_that_was_purged_lawfully_verifies(lawful: Site, whole: Site) -> None:
    require_proven(lawful)
    require_proven(whole)
    notes = check(lawful).notes
    assert any("3 sessions purged, and the payloads of 1" in note for note in notes)


def test_a_purge_without_an_intent_is_found(site: Site) -> None:
    resign(site, without("purge_intent"))
    require_found(site, "purge", "done without an intent")


def test_an_intent_that_comes_after_its_purge_is_found(site: Site) -> None:
    def late(entries: Entries) -> Entries:
        intents = [e for e in entries if e["type"] == "purge_intent"]
        return [e for e in entries if e["type"] != "purge_intent"] + intents

    resign(site, late)
    require_found(site, "purge", "done without an intent")


def test_an_intent_without_its_done_is_found(site: Site) -> None:
    resign(site, without("purge_done"))
    require_found(site, "purge", "0 of 1 segments done")
    require_found(site, "file", "as sealed")


def test_a_segment_that_is_done_twice_is_found(site: Site) -> None:
    def twice(entries: Entries) -> Entries:
        (first, *_) = [e for e in entries if e["type"] == "purge_done"]
        return [*entries, first]

    resign(site, twice)
    require_found(site, "purge", "is done twice")


def test_a_purge_that_is_begun_twice_is_found(site: Site) -> None:
    def twice(entries: Entries) -> Entries:
        (first, *_) = [e for e in entries if e["type"] == "purge_intent"]
        return [*entries, first]

    resign(site, twice)
    require_found(site, "purge", "begun before")


def test_a_purge_that_does_not_stand_in_canonical_json_is_found(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could hide from who looks for its name."""
    real = canonical.encode

    def escaping(value: Any) -> bytes:
        data = real(value)
        return data.replace(b'"type":"purge_done"', b'"type":"\\u0070urge_done"')

    with monkeypatch.context() as patched:
        patched.setattr(canonical, "encode", escaping)
        resign(site, lambda entries: entries)
    require_found(site, "purge", "not canonical JSON")


def test_a_done_that_names_another_digest_is_found(site: Site) -> None:
    files = entries_of(site, "purge_done")[-1]["files"]
    files["events"]["sha256"] = "ab" * 32
    resign(site, changed("purge_done", -1, files=files))
    require_found(site, "file", "as sealed")


def test_a_done_of_other_tables_than_there_can_be_is_found(site: Site) -> None:
    files = entries_of(site, "purge_done")[-1]["files"]
    files["access"] = files["events"]
    resign(site, changed("purge_done", -1, files=files))
    require_found(site, "purge", "other tables are left")


def test_a_done_of_a_segment_that_is_not_on_the_list_is_found(site: Site) -> None:
    resign(site, changed("purge_done", segment=str(uuid7(0))))
    require_found(site, "purge", "is not on its list")


@pytest.mark.parametrize("rows", [0, 23, 25])
def test_a_done_with_another_number_of_rows_is_found(site: Site, rows: int) -> None:
    resign(site, changed("purge_done", rows=rows))
    require_found(site, "purge", "as listed")
    require_found(site, "purge", "rows of events are left")


def test_a_done_without_its_residue_is_found(site: Site) -> None:
    resign(site, changed("purge_done", residue=None))
    require_found(site, "purge", "a residue where none belongs, or none")


def test_salts_of_a_purge_of_sessions_are_found(site: Site) -> None:
    salts = entries_of(site, "purge_done")[1]["salts"]
    resign(site, changed("purge_done", salts=salts))
    require_found(site, "purge", "salts where none belong")


def test_a_forged_residue_is_found(before: Site, tmp_path: Path) -> None:
    site = before.copy_to(tmp_path / "copy")
    apply(site)
    (path,) = site.archive.glob("residue/*/0.parquet")
    table = pq.read_table(path)
    hashes = table.column("leaf_hash").to_pylist()
    hashes[3] = bytes(32)
    forged = table.set_column(1, table.schema.field(1), pa.array(hashes, pa.binary(32)))
    pq.write_table(forged, path)
    require_found(site, "purge", "not the file that the log names")
    rename_file(site, 0, "residue", path)
    assert check(site, deep=False).ok is True, "only who hashes the rows can tell"
    require_found(site, "leaf", "as sealed", deep=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: pa.concat_tables([t.slice(1, 1), t.slice(0, 1), t.slice(2)]), "malformed"),
        (lambda t: t.append_column("more", t.column(0)), "malformed"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "malformed"),
    ],
)
def test_a_residue_of_another_form_is_found(
    site: Site, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    (path,) = site.archive.glob("residue/*/0.parquet")
    pq.write_table(change(pq.read_table(path)), path)
    rename_file(site, 0, "residue", path)
    require_found(site, "rows", words, deep=True)


def test_a_row_that_moved_into_the_residue_is_found(site: Site) -> None:
    """A single row of somebody else goes with the others: its session is no longer dense."""
    (residue,) = site.archive.glob("residue/*/0.parquet")
    (events,) = sealed_files(site, "events")
    (path,) = sealed_files(site, "sessions")
    kept = next(row for row in rows(site, "events") if row["kind"] == "response")
    table = pq.read_table(events)
    gone = pq.read_table(residue)
    # Its leaf hash is no secret to who holds the archive: any 32 bytes show the same.
    more = pa.table({"leaf_index": [kept["event_no"]], "leaf_hash": [bytes(32)]}, gone.schema)
    pq.write_table(pa.concat_tables([gone, more]).sort_by("leaf_index"), residue)
    pq.write_table(table.filter(pc.not_equal(table["event_no"], kept["event_no"])), events)
    assert path.exists()
    rename_file(site, 0, "residue", residue)
    rename_file(site, -1, "events", events)
    require_found(site, "purge", "rows of events are left")
    require_found(site, "rows", "seq", deep=True)


def edited(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        return table.set_column(place, field, pa.array([value] * table.num_rows, field.type))

    return edit


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("commands", "operation", "DELETE"),
        ("commands", "user", "somebody else"),
        ("events", "text_len", 1),
        ("sessions", "email", "x@example.com"),
    ],
)
def test_columns_that_are_edited_after_a_purge_are_found(
    site: Site, table: str, column: str, value: Any
) -> None:
    """They are not hashed, and a purge names new files: made again, they differ."""
    (path,) = sealed_files(site, table)
    rewrite_parquet(path, edited(column, value))
    rename_file(site, -1, table, path)
    result = check(site)
    assert result.ok is False
    segment = path.stem
    assert any(segment in str(finding) for finding in result.findings)


def test_purging_a_session_before_it_is_due_is_found(
    before: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = before.copy_to(tmp_path / "copy")
    with blind(monkeypatch, to="age"):
        apply(site)
    require_found(site, "policy", "purged before it was due")


def test_purging_under_a_shorter_policy_within_the_notice_of_the_old_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path / "site")
    recorded(site, retention(orders={"keep": 4000}))
    record(site, policy=retention(orders={"keep": 30, "notice": 0}))
    with blind(monkeypatch, to="age"):
        apply(site)
    require_found(site, "policy", "purged before it was due")
    assert any("0 h, less than 7 days" in note for note in check(site).notes)


def test_a_purge_that_was_dated_back_or_ahead_is_found(site: Site) -> None:
    closed_us = 1_700_000_000_000_000
    early = site.copy_to(site.folder.parent / "early")
    resign(early, changed("purge_intent", at=closed_us + DAY_US))
    require_found(early, "policy", "purged before it was due")
    late = site.copy_to(site.folder.parent / "late")
    resign(late, changed("purge_intent", at=time.time_ns() // 1000 + 400 * DAY_US))
    require_found(late, "purge", "its time has not come yet")
    require_found(late, "purge", "dated later than an entry behind it")


def test_a_purge_by_a_policy_that_was_not_in_force_is_found(site: Site) -> None:
    resign(site, changed("purge_intent", policy="ab" * 32))
    require_found(site, "policy", "a policy that was not in force")


def test_purging_a_held_session_is_found(
    before: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for selector in ({"user": hmac_of(before, "bob")}, {"target": "orders"}):
        site = before.copy_to(tmp_path / next(iter(selector)))
        held = hold(site, **selector)
        with blind(monkeypatch, to="holds"):
            apply(site)
        require_found(site, "hold", f"purged under legal hold {held}")


def test_a_hold_that_is_released_only_after_the_purge_held(site: Site) -> None:
    held = str(uuid7(0))
    event = event_of(site, "legal_hold")
    entry = {"at": 0, "hold": held, "event": event}

    def around(entries: Entries) -> Entries:
        first = next(n for n, e in enumerate(entries) if e["type"] == "purge_intent")
        set_ = entry | {"type": "legal_hold_set", "selector": {"target": "orders"}}
        release = entry | {"type": "legal_hold_release"}
        return [*entries[:first], set_, *entries[first:], release]

    resign(site, around)
    require_found(site, "hold", f"purged under legal hold {held}")


def test_holds_that_contradict_themselves_are_found(site: Site) -> None:
    held, event = str(uuid7(0)), event_of(site, "legal_hold")
    set_ = {"type": "legal_hold_set", "at": 0, "hold": held, "event": event}
    set_["selector"] = {"target": "other"}
    release = {"type": "legal_hold_release", "at": 0, "hold": held, "event": event}
    resign(site, lambda entries: [*entries, set_, set_, release, release])
    require_found(site, "hold", "set already")
    require_found(site, "hold", "not in force")


def test_a_hold_other_than_the_one_ordered_is_found(before: Site, tmp_path: Path) -> None:
    site = before.copy_to(tmp_path / "site")
    hold(site, target="orders")
    resign(site, changed("legal_hold_set", selector={"target": "orders", "until": 1}))
    require_found(site, "hold", "does not order this", deep=True)


def test_a_hold_that_is_released_by_the_event_that_set_it_is_found(
    before: Site, tmp_path: Path
) -> None:
    site = before.copy_to(tmp_path / "site")
    held = hold(site, target="orders")
    (set_,) = [entry for entry in site.log_entries() if entry["type"] == "legal_hold_set"]
    release = {"type": "legal_hold_release", "at": set_["at"], "hold": held}
    resign(site, lambda entries: [*entries, release | {"event": set_["event"]}])
    require_found(site, "hold", "has ordered another entry", deep=True)


@pytest.mark.parametrize("event", [0, 10**9])
def test_a_hold_that_nobody_recorded_why_is_found(site: Site, event: int) -> None:
    set_ = {"type": "legal_hold_set", "at": 0, "hold": str(uuid7(0)), "event": event}
    resign(site, lambda entries: [*entries, set_ | {"selector": {"target": "other"}}])
    require_found(site, "hold", "no legal_hold of the control session", deep=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("closed_at", 1),
        ("opened_at", 1),
        ("user", "ab" * 32),
        ("target", "other"),
        ("index", 4),
        ("proof", []),
        ("session_id", "018bcfe5-6800-7def-8123-456789abcdef"),
    ],
)
def test_a_claim_about_a_session_that_its_seal_does_not_make_is_found(
    site: Site, name: str, value: Any
) -> None:
    rewrite_list(site, lambda document: document["sessions"][0].update({name: value}))
    require_found(site, "purge", "its seal does not say of it what the list claims")


def test_a_claim_about_where_a_session_closed_is_found(site: Site) -> None:
    elsewhere = str(uuid7(0))
    rewrite_list(site, lambda document: document["sessions"][0].update(sealed_in=elsewhere))
    require_found(site, "purge", "not sealed where its list says")


def test_a_session_that_went_without_being_listed_is_found(site: Site) -> None:
    """Everything else about the purge is lawful: that one is missing shows in sessions_root."""
    rewrite_list(site, lambda document: document["sessions"].pop(), sessions=2)
    require_found(site, "tables", "sessions_root is not of its sessions", deep=True)


def test_a_session_that_is_listed_twice_is_found(site: Site) -> None:
    def twice(document: dict[str, Any]) -> None:
        document["sessions"].append(document["sessions"][0])

    rewrite_list(site, twice, sessions=4)
    require_found(site, "purge", "purged before")


def test_a_session_that_is_purged_again_is_found(site: Site) -> None:
    purge = str(uuid7(time.time_ns() // 1000))
    first = entries_of(site, "purge_intent")[0]
    document = canonical.decode(site.layout.purge(first["purge"]).read_bytes())
    data = canonical.encode(document | {"purge": purge})
    site.layout.purge(purge).write_bytes(data)
    again = first | {"purge": purge, "list": sha256(data).hexdigest()}
    resign(site, lambda entries: [*entries, again])
    require_found(site, "purge", "purged before")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["segments"].clear(), "its intent says"),
        (lambda d: d.update(purge="another"), "of another purge"),
        (lambda d: d.update(what="payloads"), "of another purge"),
        (lambda d: d["sessions"][0].pop("user"), "malformed"),
        (lambda d: d["sessions"][0].update(index=-1), "malformed"),
        (lambda d: d["sessions"][0].update(target=7), "malformed"),
        (lambda d: d["segments"][0].update(segment="../../x"), "malformed"),
        (lambda d: d["segments"][0].update(segment=str(uuid7(0))), "names other segments"),
        (lambda d: d["segments"][0].update(rows=0), "no rows"),
        (lambda d: d["sessions"][0]["segments"].insert(0, str(uuid7(0))), "not there"),
    ],
)
def test_a_list_that_is_not_what_it_must_be_is_found(
    site: Site, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    rewrite_list(site, change)
    require_found(site, "purge", words)


def test_a_list_that_is_gone_or_changed_is_found(site: Site) -> None:
    path = site.layout.purge(entries_of(site, "purge_intent")[0]["purge"])
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    require_found(site, "purge", "not the list that the log names")
    path.unlink()
    require_found(site, "purge", "No such file")


def test_files_that_no_purge_accounts_for_are_found(site: Site, before: Site) -> None:
    (site.archive / "purges" / "more.json").write_text("{}")
    (folder,) = site.archive.glob("residue/*")
    shutil.copy(folder / "0.parquet", folder / "7.parquet")
    places = {finding.place for finding in check(site, deep=False).findings}
    assert "purges/more.json" in places
    assert any(place.endswith("7.parquet") for place in places)


def test_a_file_that_was_put_back_after_its_purge_is_found(whole: Site, tmp_path: Path) -> None:
    site = whole.copy_to(tmp_path / "copy")
    gone = next(entry for entry in entries_of(site, "purge_done") if not entry["files"])
    seal = next(e for e in entries_of(site, "seal") if e["segment"] == gone["segment"])
    path = site.archive / seal["files"]["events"]["path"]
    path.write_bytes(b"what was purged")
    require_found(site, "stray", "no log entry accounts for")


def test_a_segment_that_went_whole_with_a_session_that_is_not_listed_is_found(
    whole: Site, tmp_path: Path
) -> None:
    site = whole.copy_to(tmp_path / "copy")
    rewrite_list(site, lambda document: document["sessions"].pop(), sessions=1)
    require_found(site, "purge", "by the lists of purges")


def test_payloads_that_are_still_there_are_found(site: Site, before: Site, tmp_path: Path) -> None:
    """The log says that they were purged, and somebody kept them."""
    copy = before.copy_to(tmp_path / "before")
    with pytest.MonkeyPatch.context() as patched:
        # Sessions go, payloads stay: a sealer that does not do what it says.
        patched.setattr("agentaudit.archive.rewrite._Rewrite._filter_events", lambda self: iter(()))
        patched.setattr("agentaudit.archive.rewrite._Rewrite._filter_blobs", lambda self: iter(()))
        patched.setattr("agentaudit.archive.rewrite._Rewrite._count", lambda self: 11)
        order(copy, "retention_apply", event=event_of(copy, "purge"))
    assert check(copy).ok is False


def erased(site: Site, selector: dict[str, str], decision: int) -> None:
    now_us = time.time_ns() // 1000
    answer = order(site, "erase", selector=selector, decision=decision, decided_at=now_us)
    assert "result" in answer, answer


def test_an_erasure_needs_a_decision_of_somebody_else_about_just_that(
    before: Site, tmp_path: Path
) -> None:
    (bob,) = [row for row in rows(before, "sessions") if row["user"] == "bob"]
    selector = {"session": str(bob["session_id"])}
    approved = event_of(before, "decision", selector=selector)
    of_another = event_of(before, "decision", selector={"user": hmac_of(before, "ana")})

    right = before.copy_to(tmp_path / "right")
    erased(right, selector, approved)
    require_proven(right)

    wrong = before.copy_to(tmp_path / "wrong")
    erased(wrong, selector, of_another)
    require_found(wrong, "decision", "not what was approved", deep=True)

    none = before.copy_to(tmp_path / "none")
    erased(none, selector, 0)
    require_found(none, "decision", "no decision of the control session", deep=True)
    resign(none, changed("purge_intent", decision=None))
    require_found(none, "decision", "an erasure without a decision")
    resign(none, changed("purge_intent", decision=10**9))
    require_found(none, "decision", "no decision of the control session", deep=True)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"approvers": ["aa" * 32]}, "not approved by somebody else"),
        ({"approvers": []}, "not approved by somebody else"),
        ({"requester": ""}, "not approved by somebody else"),
        ({"state": "denied"}, "not an approval"),
        ({"kind": "hold"}, "not an approval"),
        ({"decided_at": 5}, "closed after the approval"),
        ({"selector": None}, "not what was approved"),
        ({"selector": 7}, "malformed"),
    ],
)
def test_a_decision_that_does_not_approve_is_found(
    tmp_path: Path, members: dict[str, Any], words: str
) -> None:
    site = new_site(tmp_path / "site")
    recorded(site, retention(), decision=members)
    selector = {"user": hmac_of(site, "bob")}
    decision = next(
        row["event_no"]
        for row in rows(site, "events")
        if row["kind"] == "decision" and b"session" not in (row["payload"] or b"")
    )
    assert KEEP
    erased(site, selector, decision)
    require_found(site, "decision", words, deep=True)


def test_a_policy_that_cannot_be_read_lets_nothing_go_and_is_found(
    before: Site, tmp_path: Path
) -> None:
    site = before.copy_to(tmp_path / "copy")
    (path,) = (site.archive / "policies").glob("*")
    path.unlink()
    assert apply(site)["purges"] == []
    require_found(site, "policy", "No such file")


def test_a_policy_whose_retention_is_malformed_is_found(tmp_path: Path) -> None:
    site = new_site(tmp_path / "site")
    record(site, policy=b'{"retention":7}')
    require_found(site, "policy", "malformed")


def test_many_findings_of_one_purge_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site(tmp_path / "site")
    recorded(site, retention(orders={"keep": 4000}), segments=5)
    with blind(monkeypatch, to="age"):
        apply(site)
    require_found(site, "purge", "findings more")
