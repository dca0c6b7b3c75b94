import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, count, counted, duration, elapsed, moment, percent } from "../src/units.ts";

test("durations, times and sizes read as a person writes them", () => {
  assert.deepEqual(
    [0, 812, 3_140, 250_000, 2_400_000, 192_000_000, 7_500_000_000, 180_000_000_000, NaN, null].map(duration),
    ["0 µs", "812 µs", "3.1 ms", "250 ms", "2.40 s", "3 m 12 s", "2 h 5 m", "2 d 2 h", "–", "–"],
  );
  assert.equal(elapsed(3_723_004_000), "+01:02:03.004");
  assert.equal(moment(1_793_700_000_123_000), "2026-11-03 10:00:00.123Z");
  assert.deepEqual([999, 12_345, 5 << 20].map(bytes), ["999 B", "12.1 KiB", "5.0 MiB"]);
});

test("numbers are counted with their noun", () => {
  assert.deepEqual([counted(1, "row"), counted(1_234, "row"), counted(2, "reply", "replies")], ["1 row", "1,234 rows", "2 replies"]);
  assert.equal(count(2n ** 53n), "9,007,199,254,740,992");
});

test("a share is never told as all or nothing where it is not", () => {
  assert.deepEqual([0, 0.004, 0.07, 0.996, 1].map(percent), ["0 %", "under 1 %", "7 %", "99 %", "100 %"]);
});
