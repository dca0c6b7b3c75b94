import assert from "node:assert/strict";
import { test } from "node:test";

import { across, centred, covers, overscan, panned, timeAt, whole, clamped, zoomed } from "../src/explorer/lens.ts";

const S = 1_000_000;
const DAY = 86_400 * S;
const limits = { since: 0, until: 100 * DAY };

test("a pixel and a time are each other's", () => {
  const span = { since: 5 * DAY, until: 9 * DAY };
  for (const x of [0, 1, 333, 1_200]) {
    assert.ok(Math.abs(across(span, 1_200, timeAt(span, 1_200, x)) - x) < 1e-6);
  }
});

test("whoever zooms keeps under the pointer what was there", () => {
  const span = { since: 10 * DAY, until: 20 * DAY };
  const around = 12 * DAY;
  for (const factor of [0.5, 0.1, 2]) {
    const next = zoomed(span, limits, factor, around);
    assert.ok(Math.abs(across(span, 1_000, around) - across(next, 1_000, around)) < 1e-6, `factor ${factor}`);
  }
});

test("nothing leads out of the limits, and the width stays where it can", () => {
  assert.deepEqual(panned({ since: 0, until: DAY }, limits, -1), { since: 0, until: DAY });
  assert.deepEqual(panned({ since: 99 * DAY, until: 100 * DAY }, limits, 0.5), { since: 99 * DAY, until: 100 * DAY });
  assert.deepEqual(clamped({ since: -DAY, until: 300 * DAY }, limits), limits);
  assert.deepEqual(centred({ since: 0, until: 2 * DAY }, limits, 50 * DAY), { since: 49 * DAY, until: 51 * DAY });
  assert.deepEqual(zoomed(limits, limits, 8, 3 * DAY), limits);
});

test("zooming in ends at microseconds, and does not turn a span over", () => {
  let span = { ...limits };
  for (let i = 0; i < 200; i += 1) span = zoomed(span, limits, 0.5, 42 * DAY);
  assert.equal(span.until - span.since, 20);
  assert.ok(span.since < 42 * DAY + 20 && span.until > 42 * DAY - 20);
});

test("an archive of one moment has room around it", () => {
  const span = whole(5 * S, 5 * S);
  assert.ok(span.until - span.since >= S);
});

test("what was asked for covers small moves, and no other magnification", () => {
  const span = { since: 40 * DAY, until: 50 * DAY };
  const wide = overscan(span);
  assert.ok(covers(wide, span));
  assert.ok(covers(wide, { since: 33 * DAY, until: 43 * DAY }));
  assert.ok(!covers(wide, { since: 25 * DAY, until: 35 * DAY }));
  assert.ok(!covers(wide, { since: 44 * DAY, until: 46 * DAY }), "bins would be too wide");
});
