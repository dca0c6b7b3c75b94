import assert from "node:assert/strict";
import { test } from "node:test";

import { DAY_US } from "../src/axis.ts";
import { changeSays, type Due, dueSays, selected, span, type Target, together, within } from "../src/retention-report.ts";

const none = (): number[] => new Array<number>(91).fill(0);
const due = (sessions: Record<number, number>, payloads: Record<number, number> = {}): Due => ({
  sessions: Object.assign(none(), sessions), payloads: Object.assign(none(), payloads), bytes: none(),
});
const target = (changes: Partial<Target>): Target => ({
  target: "orders", class: "standard", keep_us: 90 * DAY_US, payload_us: 30 * DAY_US, notice_us: 7 * DAY_US, promised_until_us: null,
  sessions: 5, bytes: 100, without_payloads: 0, held: 0, waiting: 0, first_us: null, due: due({}), after: null, ...changes,
});

test("a time to keep is told in words", () => {
  assert.equal(span(null), "for ever");
  assert.equal(span(DAY_US), "1 day");
  assert.equal(span(4_000 * DAY_US), "4,000 days");
  assert.equal(span(1.5 * DAY_US), "36 h");
  assert.equal(span(0), "0 h");
});

test("what is due within days counts what is due now", () => {
  const each = due({ 0: 1, 7: 2, 8: 4, 90: 8 }, { 3: 5 });
  assert.deepEqual([0, 7, 8, 30, 90].map((days) => within(each.sessions, days)), [1, 3, 7, 7, 15]);
  assert.equal(dueSays(each, 0), "1");
  assert.equal(dueSays(each, 7), "3 and 5 payloads");
  assert.equal(dueSays(due({}), 90), "none");
  assert.equal(dueSays(due({}, { 1: 1 }), 90), "1 payload");
});

test("targets are added day by day", () => {
  const both = together([due({ 1: 1 }, { 2: 7 }), due({ 1: 2, 90: 3 })]);
  assert.deepEqual([both.sessions[1], both.sessions[90], both.payloads[2]], [3, 3, 7]);
  assert.deepEqual(together([]), { sessions: [], payloads: [], bytes: [] });
});

test("a hold says what it selects, and no HMAC whole", () => {
  assert.equal(selected({ target: "orders", user: "ab".repeat(32), since: 0 }), "target orders, user HMAC abababababababab…, since 1970-01-01 00:00:00Z");
});

test("a change says what would be kept otherwise, what would be due, and until when the notice runs", () => {
  assert.equal(changeSays(target({}), 90), "");
  const says = { keep_us: 30 * DAY_US, payload_us: 30 * DAY_US, notice_us: 7 * DAY_US };
  const after = { ...says, class: "short", says, promised_until_us: 20_000 * DAY_US, first_us: null, due: due({ 9: 4 }) };
  assert.equal(
    changeSays(target({ after }), 90),
    "kept 30 days instead of 90 days: 4 due within 90 days instead of 0; what was promised before holds until 2024-10-04",
  );
  const longer = { ...says, keep_us: null };
  assert.equal(
    changeSays(target({ after: { ...after, ...longer, says: longer } }), 90),
    "kept for ever instead of 90 days: 4 due within 90 days instead of 0",
  );
  const same = { keep_us: 90 * DAY_US, payload_us: 30 * DAY_US, notice_us: 7 * DAY_US };
  assert.equal(changeSays(target({ after: { ...same, class: "standard", says: same, promised_until_us: null, first_us: null, due: due({}) } }), 90), "");
});
