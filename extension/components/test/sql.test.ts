import assert from "node:assert/strict";
import { test } from "node:test";

import { tokens } from "../src/sql.ts";

const joined = (sql: string) => tokens(sql).map((token) => token.text).join("");
const kinds = (sql: string) => tokens(sql).filter(({ kind }) => kind !== "plain").map(({ kind, text }) => [kind, text]);

test("tokens joined are the statement, whatever it is", () => {
  const statements = [
    "SELECT * FROM t WHERE a = 'it''s' AND b = $1 -- why\n",
    "DO $body$ BEGIN EXECUTE 'DROP TABLE x'; END $body$",
    "/* outer /* inner */ still comment */ SELECT 1.5e-3, \"We\"\"ird\"",
    "E'back\\'slash' 'never closed",
    "$tag$ never closed",
    "/* never closed",
    "\u0000\u001b <b>&amp;</b> ; ::: @> #>> ?| \u{1f642}",
    "",
  ];
  for (const statement of statements) assert.equal(joined(statement), statement);
});

test("what looks like code inside comments and strings is not code", () => {
  assert.deepEqual(kinds("/* /* DROP */ TABLE */ x"), [["comment", "/* /* DROP */ TABLE */"]]);
  assert.deepEqual(kinds("'SELECT' SELECT"), [["string", "'SELECT'"], ["keyword", "SELECT"]]);
  assert.deepEqual(kinds("$a$ SELECT $b$ $a$"), [["string", "$a$ SELECT $b$ $a$"]]);
  assert.deepEqual(kinds("id = $12"), [["parameter", "$12"]]);
  assert.deepEqual(kinds("E'a\\'b' x"), [["string", "E'a\\'b'"]]);
  assert.deepEqual(kinds("selected from_x"), []);
});

test("a statement is read in time that is in proportion to it", () => {
  const hostile = ["'".repeat(200_000), "/*".repeat(100_000), "$a".repeat(100_000), "\"".repeat(200_001)];
  for (const statement of hostile) assert.equal(joined(statement).length, statement.length);
});
