"""Which rule decides about a command, and what happens where none does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentaudit.model import Command
from agentaudit.policy import MAX_SEARCHED_CHARACTERS, NO_RULE, Decision, Policy
from agentaudit.risk import sql

TARGETS = [
    {"name": "orders", "default": "deny", "tags": {"env": "prod", "team": "shop"}},
    {"name": "scratch", "default": "allow"},
]


def policy(*rules: dict[str, Any]) -> Policy:
    named = [{"name": str(number), **rule} for number, rule in enumerate(rules, 1)]
    return Policy(json.dumps({"rules": named, "targets": TARGETS}).encode())


def decided(
    text: str, *rules: dict[str, Any], target: str = "orders", groups: tuple[str, ...] = ("agents",)
) -> Decision:
    """Return what is decided about a statement, by rules that are named `1`, `2` and so on."""
    session = policy(*rules).for_session(target=target, protocol="postgres", groups=groups)
    known = sql.classify(text)
    command = Command(
        command_no=0,
        text=text[:1000],
        cls=known.cls,
        operation=known.operation,
        resources=known.resources,
        risk=known.risk,
    )
    return session.decide(command, text)


def at_host(command: Command, *rules: dict[str, Any]) -> Decision:
    session = policy(*rules).for_session(target="orders", protocol="ssh", groups=())
    return session.decide(command, command.text)


def allow(**when: Any) -> dict[str, Any]:
    return {"action": "allow", "when": when}


def deny(**when: Any) -> dict[str, Any]:
    return {"action": "deny", "when": when}


DEFAULT = Decision("deny", "default")


@pytest.mark.parametrize("text", ["SELECT a FROM t", "BEGIN", "SET TimeZone = 'UTC'"])
@pytest.mark.parametrize("target", ["orders", "scratch", "nowhere"])
def test_reads_and_what_concerns_the_session_pass_where_no_rule_matches(
    text: str, target: str
) -> None:
    assert decided(text, target=target) is NO_RULE


@pytest.mark.parametrize("text", ["DELETE FROM t", "DROP TABLE t", "CREATE ROLE r", "SELECT f()"])
def test_for_the_rest_the_targets_default_holds(text: str) -> None:
    assert decided(text, target="orders") == DEFAULT
    assert decided(text, target="scratch") is NO_RULE
    assert decided(text, target="nowhere") == DEFAULT


def test_the_first_rule_that_matches_decides() -> None:
    rules = [deny(operation=["UPDATE"]), allow(**{"class": ["write"]}), deny()]

    assert decided("UPDATE t SET a = 1", *rules) == Decision("deny", "1")
    assert decided("DELETE FROM t", *rules) == Decision("allow", "2")
    assert decided("SELECT 1", *rules) == Decision("deny", "3")


@pytest.mark.parametrize(
    "when",
    [
        {"target": ["scratch"]},
        {"protocol": ["ssh"]},
        {"groups": ["admins", "people"]},
        {"tags": {"env": "test"}},
        {"tags": {"env": "prod", "team": "data"}},
        {"class": ["schema", "admin"]},
        {"operation": ["UPDATE", "MERGE"]},
        {"resource": ["customers"]},
        {"text": "(?i)truncate"},
    ],
)
def test_all_conditions_must_be_met(when: dict[str, Any]) -> None:
    met = {
        "target": ["scratch", "orders"],
        "protocol": ["postgres"],
        "groups": ["agents", "people"],
        "tags": {"team": "shop"},
        "class": ["write", "unknown"],
        "operation": ["delete"],
        "resource": ["orders", "items"],
        "text": r"where\s+id",
    }
    text = "DELETE FROM items where  id = 5"

    assert decided(text, deny(**met)) == Decision("deny", "1")
    assert decided(text, allow(**met)) == Decision("allow", "1")
    assert decided(text, allow(**(met | when))) == DEFAULT
    assert decided(text, allow(**met), deny(**(met | when))) == Decision("allow", "1")


@pytest.mark.parametrize(
    ("written", "pattern", "denies", "allows"),
    [
        ("customers", "customers", True, True),
        ("customers", "*.customers", True, False),
        ("crm.customers", "customers", True, False),
        ("crm.customers", "crm.customers", True, True),
        ("crm.customers", "crm.*", True, True),
        ("customers", "crm.*", True, False),  # search_path may lead it there
        ("crm.customers", "hr.customers", False, False),
        ("db.crm.customers", "crm.customers", True, False),
        ('"Customers"', "customers", True, False),
        ("CRM.Customers", "CRM.Customers", True, False),  # it is crm.customers
        ('"crm.customers"', "crm.customers", False, False),
        ("customers_old", "customers", False, False),
        ("customers_old", "customers*", True, True),
        ("crm.customers", "crm*", False, False),
        ('crm."[a]"', "crm.a", False, False),
    ],
)
def test_a_name_that_may_be_meant_is_denied_and_only_one_that_is_meant_is_allowed(
    written: str, pattern: str, denies: bool, allows: bool
) -> None:
    text = f"DELETE FROM {written}"

    assert (decided(text, deny(resource=[pattern])).rule == "1") is denies
    assert (decided(text, allow(resource=[pattern])).rule == "1") is allows


@pytest.mark.parametrize(
    ("path", "pattern", "denies", "allows"),
    [
        ("/srv/a.db", "/srv/a.db", True, True),
        ("/srv/a.db", "/srv/*", True, True),
        ("/srv/data/2024/a", "/srv/*", True, True),
        ("/srv2/a", "/srv/*", False, False),
        ("/SRV/a", "/srv/*", True, False),  # where letters' case does not count it is that
        ("/srv", "/srv/*", True, False),  # all that is in it goes with it
        ("/", "/srv/*", True, False),
        ("/sr", "/srv/*", False, False),
        ("/srv/x/../../etc/passwd", "/etc/*", True, False),
        ("/srv/x/../../etc/passwd", "/srv/*", True, False),
        ("/srv/*", "/srv/*", True, True),
        ("/srv/*", "/srv/secret", True, False),
        ("/s*", "/srv/*", True, False),
        ("/srv/a*", "/srv/a?", True, False),
        ("/srv/?", "/srv/*", True, True),
        ("/srv/[ab]", "/srv/[ab]", True, False),
        ("~/x", "~/*", True, True),
        ("~/x", "/home/*", False, False),
        ("/srv/secret.txt", "*secret*", True, True),
        ("/srv/customers", "customers", False, False),
        ("example.com", "*.com", True, True),
        ("public.customers", "/srv/*", False, False),
        ("//etc/shadow", "/etc/*", True, False),
        ("/proc/self/root/etc/shadow", "/etc/*", True, False),
        ("/proc/1/task/1/root/proc/2/root", "/etc/*", True, False),
        ("/proc/self/cwd/shadow", "/etc/*", True, False),
        ("/proc/self/fd/3/shadow", "/proc/*", True, False),
        ("/proc/self/environ", "/etc/*", False, False),
        ("~/../../etc/shadow", "/etc/*", True, False),
        ("~/../../etc/shadow", "~/*", True, False),
        ("~/a/../b", "/etc/*", False, False),
        ("~root/../etc/shadow", "/etc/*", True, False),
        ("~+/shadow", "/etc/*", True, False),
        ("../../etc/shadow", "/etc/*", True, False),
        ("$HOME/../../etc/shadow", "/etc/*", True, False),
        ("${x:-/etc/shadow}", "/etc/*", True, False),
        ("/srv/$x/$x/etc/shadow", "/etc/*", True, False),
        ("/srv/$x/$x/etc/shadow", "/srv/*", True, False),
        ("/{etc,}/shadow", "/etc/shadow", True, False),
        ("/etc/{sha,x}dow", "/etc/shadow", True, False),
        ("/srv/{..,x}/etc/shadow", "/srv/*", True, False),
        ("/srv/{.,x}{.,y}/etc/shadow", "/etc/*", True, False),
        ("/srv/{a.csv,b.csv}", "/srv/*", True, True),
        ("/srv/{a.csv,b.csv}", "/etc/*", False, False),
        ("/srv/.?/etc/shadow", "/etc/*", True, False),
        ("/srv/.*/etc/shadow", "/srv/*", True, False),
    ],
)
def test_a_path_is_matched_as_a_whole_and_with_all_that_it_may_stand_for(
    path: str, pattern: str, denies: bool, allows: bool
) -> None:
    command = Command(command_no=0, operation="exec", cls="write", resources=(path,))

    assert (at_host(command, deny(resource=[pattern])).rule == "1") is denies
    assert (at_host(command, allow(resource=[pattern])).rule == "1") is allows


def test_what_only_a_shell_makes_something_of_is_a_name_where_none_reads_it() -> None:
    command = Command(
        command_no=0, operation="sftp.open", cls="write", resources=("/srv/$x/A$B.class",)
    )

    assert at_host(command, deny(resource=["/etc/*"])).rule != "1"
    assert at_host(command, allow(resource=["/srv/*"])).rule == "1"


@pytest.mark.parametrize(
    ("inside", "operations", "denies", "allows"),
    [
        (["ls"], ["ls"], True, True),
        (["ls", "rm"], ["ls"], True, False),
        (["ls", "rm"], ["rm", "LS"], True, True),
        (["ls", "rm"], ["exec"], True, True),
        (["ls"], ["rm"], False, False),
        ([], ["exec"], True, True),
        ([], ["ls"], False, False),
    ],
)
def test_an_exec_request_does_what_is_in_it(
    inside: list[str], operations: list[str], denies: bool, allows: bool
) -> None:
    command = Command(
        command_no=0,
        operation="exec",
        cls="write",
        risk=tuple(f"contains {name}" for name in inside),
    )
    assert (at_host(command, deny(operation=operations)).rule == "1") is denies
    assert (at_host(command, allow(operation=operations)).rule == "1") is allows


@pytest.mark.parametrize(
    ("place", "pattern", "denies", "allows"),
    [
        ("db.internal:5432", "db.internal:5432", True, True),
        ("db.internal:5432", "DB.Internal:*", True, True),
        ("db.internal:5432", "*.internal:5432", True, True),
        ("db.internal:5432", "*:5432", True, True),
        ("db.internal:5432", "db.internal:543", False, False),
        ("db.internal:5432", "db.internal", True, False),  # of any port, but not let pass
        ("a.db.internal:5432", "*.internal:5432", True, False),  # a name may be any host's
        ("other.example:5432", "db.internal:5432", True, False),
        ("10.0.0.7:443", "10.0.0.*:443", True, True),
        ("10.0.1.7:443", "10.0.0.*:443", False, False),
        ("10.0.0.7:443", "10.0.0.*:80", False, False),
        ("10.0.0.evil:443", "10.0.0.*:443", True, False),
        ("10.0.0.7.evil.example:443", "10.0.0.*:443", True, False),
        ("db.internal:443", "10.0.0.7:443", True, False),
        ("10.0.0.7:443", "db.internal:443", True, False),
        ("[fd00::7]:443", "[FD00:0::7]:443", True, True),
        ("[fd00::7]:443", "[fd00::8]:443", False, False),
        ("[fd00::7]:443", "10.0.0.7:443", True, False),
        ("0.0.0.0:22", "127.0.0.1:22", True, False),
        ("127.0.0.2:22", "127.0.0.1:22", True, False),
        ("db.internal:22", "/srv/*", False, False),
        ("db.internal:22", "public.customers", False, False),
    ],
)
def test_a_connection_is_matched_by_all_that_its_host_may_be(
    place: str, pattern: str, denies: bool, allows: bool
) -> None:
    command = Command(command_no=0, operation="forward", cls="write", resources=(place,))

    assert (at_host(command, deny(resource=[pattern])).rule == "1") is denies
    named = {"operation": ["forward"], "resource": [pattern]}
    assert (at_host(command, allow(**named)).rule == "1") is allows


def test_a_connection_is_off_unless_a_rule_names_its_operation() -> None:
    command = Command(command_no=0, operation="forward", cls="write", resources=("a.b:1",))
    hold = {"action": "hold", "approvers": [], "approvals": 1, "timeout_us": None}

    for rule in (allow(), allow(**{"class": ["write"]}), allow(resource=["*:*"])):
        assert at_host(command, rule) == DEFAULT
    assert at_host(command, hold | {"when": {}}) == DEFAULT
    assert at_host(command, hold | {"when": {"operation": ["FORWARD"]}}).action == "hold"
    assert at_host(command, deny(**{"class": ["write"]})) == Decision("deny", "1")
    anywhere = policy().for_session(target="scratch", protocol="ssh", groups=())
    assert anywhere.decide(command, "") == DEFAULT


def test_one_of_its_resources_is_enough_to_deny_and_not_to_allow() -> None:
    text = "INSERT INTO log SELECT * FROM customers"

    assert decided(text, deny(resource=["customers"])) == Decision("deny", "1")
    assert decided(text, allow(resource=["customers"])) == DEFAULT
    assert decided(text, allow(resource=["customers", "log"])) == Decision("allow", "1")
    assert decided("NOTIFY x", allow(resource=["*"])) == DEFAULT


@pytest.mark.parametrize(
    "when", [{"operation": ["SELECT"]}, {"resource": ["t"]}, {"text": "FROM t$"}]
)
def test_what_is_unknown_is_allowed_only_by_a_rule_that_says_so(when: dict[str, Any]) -> None:
    text = "SELECT wipe(a) FROM t"

    assert decided(text, allow(**when)) == DEFAULT
    assert decided(text, allow(**when, **{"class": ["unknown"]})) == Decision("allow", "1")
    assert decided(text, allow()) == Decision("allow", "1")
    assert decided(text, deny(**when)) == Decision("deny", "1")


def test_a_text_too_long_to_search_is_denied_by_any_pattern_and_allowed_by_none() -> None:
    text = "DELETE FROM t --" + "x" * MAX_SEARCHED_CHARACTERS
    as_unknown = {"class": ["unknown"], "text": "DELETE"}

    assert decided(text, deny(text="nowhere")) == Decision("deny", "1")
    assert decided(text, allow(**as_unknown)) == DEFAULT


@pytest.mark.parametrize(
    "text",
    [
        "WITH gone AS (DELETE FROM t RETURNING a) SELECT * FROM gone",
        "EXPLAIN ANALYZE DELETE FROM t",
        "COPY (DELETE FROM t RETURNING a) TO STDOUT",
        "MERGE INTO t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
        "PREPARE p AS DELETE FROM t",
        "CREATE RULE r AS ON UPDATE TO t DO INSTEAD DELETE FROM t",
    ],
)
def test_an_operation_inside_another_one_is_denied_and_not_allowed_with_it(text: str) -> None:
    outer = sql.classify(text).operation

    assert decided(text, deny(operation=["DELETE"]), target="scratch") == Decision("deny", "1")
    assert decided(text, allow(operation=[outer]), deny()) == Decision("deny", "2")
    assert decided(text, allow(operation=[outer, "DELETE"]), deny()) == Decision("allow", "1")


@pytest.mark.parametrize(
    ("text", "cls"),
    [
        ("COPY t TO PROGRAM 'x'", "admin"),
        ("GRANT ALL ON t TO PUBLIC", "admin"),
        ("DROP TABLE t CASCADE", "schema"),
        ("SELECT a INTO u FROM t", "schema"),
    ],
)
def test_a_name_alone_allows_no_more_than_to_read_and_write(text: str, cls: str) -> None:
    named = {"resource": ["t", "u"]}

    assert decided(text, allow(**named)) == DEFAULT
    assert decided(text, allow(**named, **{"class": [cls]})) == Decision("allow", "1")
    assert decided("INSERT INTO t VALUES (1)", allow(**named)) == Decision("allow", "1")


def test_what_a_function_changes_is_no_resource_that_a_rule_could_allow() -> None:
    text = "SELECT setval('elsewhere', 9) FROM t"

    assert decided(text, allow(resource=["t"])) == DEFAULT
    assert decided(text, allow(**{"class": ["write"]})) == Decision("allow", "1")


def test_the_whole_text_is_searched_and_not_what_a_row_has_of_it() -> None:
    text = "DELETE FROM t WHERE a IN (" + "1, " * 1000 + "99)"

    assert decided(text, deny(text=r"\b99\b")) == Decision("deny", "1")


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"not json",
        b'{"rules": []}',
        b'{"rules": [{"name": "x", "action": "hold", "when": {}}], "targets": []}',
        b'{"rules": [{"name": "x", "action": "deny", "when": {"moon": "full"}}], "targets": []}',
        b'{"rules": [{"name": "x", "action": "deny", "when": {"text": "("}}], "targets": []}',
        b'{"rules": [{"name": "x", "action": "deny", "when": {"class": "read"}}], "targets": []}',
    ],
)
def test_a_rule_that_is_not_understood_is_never_taken_for_one_that_does_not_match(
    document: bytes,
) -> None:
    with pytest.raises(ValueError):
        Policy(document)


def test_a_decision_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(AttributeError):
        NO_RULE.action = "deny"  # type: ignore[misc]


def test_what_is_remembered_of_kinds_of_commands_changes_no_decision() -> None:
    rules = [{"name": "odd", "action": "deny", "when": {"resource": ["*1", "*3"]}}]
    session = Policy(json.dumps({"rules": rules, "targets": TARGETS}).encode()).for_session(
        target="scratch", protocol="postgres", groups=()
    )

    for number in range(500):
        names = tuple(f"t{number}" for _ in range(1 + number % 40))
        command = Command(command_no=0, cls="write", operation="INSERT", resources=names)
        expected = Decision("deny", "odd") if str(number)[-1] in "13" else NO_RULE
        assert [session.decide(command, "") for _ in range(2)] == [expected] * 2
    assert len(session._about) <= 200


def test_a_rule_by_the_number_of_rows_decides_once_that_is_known() -> None:
    hold = {"approvers": ["dba"], "approvals": 1, "timeout_us": None}
    rules = (
        {"action": "hold", "when": {"class": ["write"], "rows_over": 1000}, **hold},
        deny(operation=["UPDATE"]),
        deny(rows_over=10),
        allow(operation=["DELETE"]),
    )
    found = decided("DELETE FROM t", *rules)
    assert [found.about(rows).rule for rows in (None, 1001, 1000, 11, 10, 0)] == list("113344")
    held = found.about(None)
    assert (held.action, held.otherwise, held.rows_over) == ("hold", None, 0)
    assert held.hold is not None
    assert held.hold.approvers == ("dba",)
    assert found.about(10).action == "allow"
    assert found.limit() == (10, "3")
    # What comes behind a rule that needs no number is not reached.
    updated = decided("UPDATE t SET a = 1", *rules)
    assert [updated.about(rows).rule for rows in (1001, 1000, 0)] == list("122")
    assert decided("CREATE TABLE t (a int)", *rules).about(10) == DEFAULT
    assert decided("DELETE FROM t", allow(operation=["DELETE"])).limit() is None
    assert decided("DELETE FROM t", deny()).about(None) == Decision("deny", "1")


def test_a_policy_that_counts_rows_remembers_what_a_session_sets() -> None:
    def may_hold(*rules: dict[str, Any]) -> bool:
        named = [{"name": str(number), **rule} for number, rule in enumerate(rules)]
        policy = Policy(json.dumps({"rules": named, "targets": TARGETS}).encode())
        return policy.for_session(target="scratch", protocol="postgres", groups=()).may_hold

    assert may_hold(deny(rows_over=5))
    assert not may_hold(deny(), allow())
