import assert from "node:assert/strict";
import { test } from "node:test";

import { axis, day, DAY_US, instant, placed, tabAt } from "../src/panel.ts";

const AT = Date.UTC(2026, 10, 3, 10, 0, 0) * 1_000;
const HOUR = 3_600_000_000;

test("a place is a share of the way, and never outside", () => {
  assert.equal(placed(5, 0, 10), 50);
  assert.equal(placed(-5, 0, 10), 0);
  assert.equal(placed(15, 0, 10), 100);
  assert.equal(placed(3, 7, 7), 0);
});

test("an axis has round times, as many as asked for or fewer, from seconds to decades", () => {
  for (const width of [1_000_000, 45_000_000, HOUR, 26 * HOUR, 9 * DAY_US, 400 * DAY_US, 20_000 * DAY_US]) {
    const ticks = axis(AT + 1, AT + width, 8);
    assert.ok(ticks.length <= 9, `${width}: ${ticks.length}`);
    assert.ok(ticks.every(({ at }) => at > AT && at <= AT + width), String(width));
  }
  assert.deepEqual(axis(AT, AT + 4 * HOUR, 4).map((tick) => tick.label), ["10:00", "11:00", "12:00", "13:00", "14:00"]);
  assert.deepEqual(axis(AT, AT + 20_000_000, 4).map((tick) => tick.label), ["10:00:00", "10:00:05", "10:00:10", "10:00:15", "10:00:20"]);
  assert.equal(axis(AT, AT + 30 * HOUR, 6).find(({ at }) => at % DAY_US === 0)?.label, "2026-11-04");
  assert.deepEqual(axis(AT, AT), []);
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
