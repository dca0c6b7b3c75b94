import assert from "node:assert/strict";
import { test } from "node:test";

import { day, instant, placed, tabAt } from "../src/panel.ts";

const AT = Date.UTC(2026, 10, 3, 10, 0, 0) * 1_000;

test("a place is a share of the way, and never outside", () => {
  assert.equal(placed(5, 0, 10), 50);
  assert.equal(placed(-5, 0, 10), 0);
  assert.equal(placed(15, 0, 10), 100);
  assert.equal(placed(3, 7, 7), 0);
});

test("times that people set are told to the second, in UTC", () => {
  assert.equal(instant(AT + 123_456), "2026-11-03 10:00:00Z");
  assert.equal(instant(null), "–");
  assert.equal(day(AT), "2026-11-03");
});

test("arrows move among tabs and around their ends, and other keys belong to somebody else", () => {
  const names = ["a", "b", "c"];
  assert.equal(tabAt(names, "a", "ArrowRight"), "b");
  assert.equal(tabAt(names, "a", "ArrowLeft"), "c");
  assert.equal(tabAt(names, "c", "ArrowRight"), "a");
  assert.equal(tabAt(names, "b", "Home"), "a");
  assert.equal(tabAt(names, "b", "End"), "c");
  assert.equal(tabAt(names, "b", "d"), null);
  assert.equal(tabAt([], "b", "End"), null);
});
