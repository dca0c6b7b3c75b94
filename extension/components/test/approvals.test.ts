import assert from "node:assert/strict";
import { test } from "node:test";

import { asked, countdown, covers, effect, pieces, rowsAtStake, span, type Request } from "../src/approvals/words.ts";

const shownText = (statement: string) => pieces(statement).map((piece) => piece.text).join("");

test("nothing of a statement is left out but what is counted", () => {
  const statement = `SELECT 1;${"\n".repeat(500)}DROP TABLE t;${" ".repeat(4_000)}-- end\n\n\nx`;
  const found = pieces(statement);
  assert.deepEqual(found.filter((piece) => piece.counted).map((piece) => piece.text.trim()), [
    "(499 lines without a word)", "(4,000 spaces)",
  ]);
  assert.equal(found.filter((piece) => !piece.counted).map((piece) => piece.text).join(""),
    "SELECT 1;DROP TABLE t;-- end\n\n\nx");
  assert.match(shownText("a\n \u2003\n\t\n\n\n\nb"), /lines without a word/);
  assert.match(shownText("a" + "\u2003".repeat(100) + "b"), /\(100 spaces\)/);
  for (const plain of ["", "a", "a\n\n\nb", " ".repeat(59)]) assert.equal(shownText(plain), plain);
});

test("a long text of spaces is split in time", () => {
  const began = performance.now();
  pieces(("\n" + " ".repeat(59)).repeat(20_000));
  assert.ok(performance.now() - began < 2_000);
});

const request = (shown: Record<string, unknown>, kind = "hold") => ({ kind, shown }) as unknown as Request;

test("what a request is about stands in a line", () => {
  const statements = [
    { operation: "DELETE", class: "write", resources: ["public.orders"] }, { operation: "SELECT", resources: [] }, 7,
  ];
  assert.equal(effect(request({ statements })), "DELETE public.orders; SELECT; (no operation)");
  assert.equal(effect(request({ target: "orders", duration_s: 1800 }, "access")), "access to orders for 30 min");
  assert.equal(effect(request({})), "");
});

test("rows at stake are told as the planner told them", () => {
  assert.equal(rowsAtStake({ estimate: { rows: 1200, tables: { orders: 50000, x: null } } }), "about 1,200 (orders has about 50,000)");
  assert.equal(rowsAtStake({ estimate: { rows: null, why: "two tables" } }), "not known, two tables");
  assert.equal(rowsAtStake({}), "");
  assert.deepEqual([span(90), span(120), span(60), span(7200), span("x")], ["90 s", "2 min", "1 min", "2 h", "x"]);
});

test("a yes is told with what it covers", () => {
  assert.match(covers(request({})), /^this one run/);
  assert.match(covers(request({ starts_at: 0, duration_s: 1800 }, "access")), /^all of that from now on, for 30 min/);
  assert.match(covers(request({ starts_at: 1_793_700_000_000_000, duration_s: 60 }, "access")), /from 2026-11-03 10:00:00.000Z on, for 1 min/);
});

test("time runs down to nothing", () => {
  assert.deepEqual([0, 9, 60, 299, 3_599, 3_600, 7_200].map(countdown), ["0:00", "0:09", "1:00", "4:59", "59:59", "1 h", "2 h"]);
});

test("alike is what asks for the very same, and can be read to the end", () => {
  const one = (changes: Record<string, unknown>, cls = "write") =>
    asked({ ...request({ statements: [{ text: "DELETE FROM t WHERE n = $1", params: ["1"], ...changes }] }), target: "orders", class: cls });
  assert.equal(one({}), one({ estimate: { rows: 3 } }));
  assert.notEqual(one({}), one({ resources: ["billing.t"] }));
  const from = (more: Record<string, unknown>) =>
    asked({ ...request({ statements: [{ text: "DELETE FROM t", params: ["1"] }], user: "ana", session: "a", ...more }), target: "orders", class: "write" });
  assert.equal(from({}), from({ session: "b", command: 7, client_addr: "10.0.0.2:9", transaction: { number: 3 } }));
  for (const other of [{ reported: { search_path: "billing" } }, { transaction: { status: "T", before: [{ text: "DROP TABLE audit" }] } }, { user: "eve" }]) {
    assert.notEqual(from({}), from(other), "it would run in something else, or for somebody else");
  }
  assert.notEqual(one({}), one({ params: ["2"] }));
  assert.notEqual(one({}), one({ text: "DELETE FROM t" }));
  assert.notEqual(one({}), one({}, "schema"));
  assert.equal(one({}, ""), "", "several statements are decided by themselves");
  assert.equal(one({ params: null, sha256: ["ab"] }), "", "nobody has read parameters that are too long");
  assert.equal(asked(request({ target: "orders" }, "access")), "");
});
