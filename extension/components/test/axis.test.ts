import assert from "node:assert/strict";
import { test } from "node:test";

import { datedTicks, DAY_US, ticks } from "../src/axis.ts";

const S = 1_000_000;
const HOUR = 3_600 * S;
const AT = Date.UTC(2026, 10, 3, 10, 0, 0) * 1_000;

test("ticks stand on round times in UTC, from months to microseconds", () => {
  const labels = (since: number, until: number) => ticks(since, until, (until - since) / 10).map(({ label }) => label);
  const noon = Date.UTC(2026, 10, 3, 12) * 1_000;
  assert.deepEqual(labels(noon, noon + 10 * 60 * S).slice(0, 3), ["12:00", "12:01", "12:02"]);
  assert.deepEqual(labels(noon, noon + S).slice(0, 3), ["12:00", ".100", ".200"]);
  assert.deepEqual(labels(noon, noon + 100).slice(1, 3), [".000010", ".000020"]);
  assert.deepEqual(labels(noon, noon + 10 * DAY_US).slice(0, 2), ["4 Nov", "5 Nov"].slice(0, 2));
  assert.deepEqual(labels(Date.UTC(2026, 0, 1) * 1_000, Date.UTC(2026, 8, 1) * 1_000).slice(0, 3), ["2026", "Feb", "Mar"]);
  assert.deepEqual(labels(Date.UTC(2020, 0, 1) * 1_000, Date.UTC(2030, 0, 1) * 1_000).slice(0, 2), ["2020", "2022"]);
});

test("there are never more ticks than have room", () => {
  for (let size = 30; size < 40 * 365 * DAY_US; size *= 3) {
    const found = ticks(7 * DAY_US + 13, 7 * DAY_US + 13 + size, size / 10);
    assert.ok(found.length <= 12, `${size}: ${found.length}`);
  }
});

test("an axis with dates has round times, as many as asked for or fewer, from seconds to decades", () => {
  for (const width of [1_000_000, 45_000_000, HOUR, 26 * HOUR, 9 * DAY_US, 400 * DAY_US, 20_000 * DAY_US]) {
    const ticks = datedTicks(AT + 1, AT + width, 8);
    assert.ok(ticks.length <= 9, `${width}: ${ticks.length}`);
    assert.ok(ticks.every(({ time }) => time > AT && time <= AT + width), String(width));
  }
  assert.deepEqual(datedTicks(AT, AT + 4 * HOUR, 4).map((tick) => tick.label), ["10:00", "11:00", "12:00", "13:00", "14:00"]);
  assert.deepEqual(datedTicks(AT, AT + 20_000_000, 4).map((tick) => tick.label), ["10:00:00", "10:00:05", "10:00:10", "10:00:15", "10:00:20"]);
  assert.equal(datedTicks(AT, AT + 30 * HOUR, 6).find(({ time }) => time % DAY_US === 0)?.label, "2026-11-04");
  assert.deepEqual(datedTicks(AT, AT), []);
});
