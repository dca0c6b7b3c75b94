import assert from "node:assert/strict";
import { test } from "node:test";

import { bars, buildClock, locate, sceneOf } from "../src/replay/clock.ts";
import {
  CLASSES, emptyIndex, extend, FATES, nextNotable, select, settled, sliceOf, spanAt, STATUSES, tally, transactions, truncate,
  type CommandClass, type Fate, type Filter, type Index, type Status,
} from "../src/replay/commands.ts";
import { action } from "../src/replay/keys.ts";

const all = (): Filter => ({ classes: new Set(), statuses: new Set(), found: null });

/** Start and duration in milliseconds, and what the command is; null is still running. */
type Given = [start: number, took: number | null, cls: CommandClass, status: Status, txn?: number, fate?: Fate];

function indexOf(...commands: Given[]): Index {
  return extend(emptyIndex(), {
    number: Int32Array.from(commands, (_, i) => i),
    start: Float64Array.from(commands, ([start]) => start * 1_000),
    duration: Float64Array.from(commands, ([, took]) => (took === null ? NaN : took * 1_000)),
    cls: Uint8Array.from(commands, ([, , cls]) => CLASSES.indexOf(cls)),
    status: Uint8Array.from(commands, ([, , , status]) => STATUSES.indexOf(status)),
    txn: Int32Array.from(commands, ([, , , , txn]) => txn ?? -1),
    txnStatus: Uint8Array.from(commands, () => 73),
    fate: Uint8Array.from(commands, ([, , , , , fate]) => FATES.indexOf(fate ?? "")),
  });
}

const everything = (index: Index) => select(index, all());

test("a slice of the kernel's buffers is read at any byte offset", () => {
  const at = (array: Int32Array | Float64Array | Uint8Array) => {
    const shifted = new Uint8Array(array.byteLength + 3);
    shifted.set(new Uint8Array(array.buffer), 3);
    return new DataView(shifted.buffer, 3);
  };
  const part = sliceOf([
    at(Int32Array.of(7, 8)), at(Float64Array.of(1.5, 2)), at(Float64Array.of(NaN, 4)), at(Int32Array.of(-1, 3)),
    at(Uint8Array.of(0, 1)), at(Uint8Array.of(1, 0)), at(Uint8Array.of(0, 84)), at(Uint8Array.of(0, 2)),
  ]);
  assert.deepEqual([...part.txnStatus], [0, 84]);
  assert.deepEqual([...part.fate], [0, 2]);
  const index = extend(extend(emptyIndex(), part), part);
  assert.equal(index.length, 4);
  assert.deepEqual([...index.number], [7, 8, 7, 8]);
  assert.deepEqual([...index.start], [1.5, 2, 1.5, 2]);
  assert.deepEqual([...index.duration], [NaN, 4, NaN, 4]);
  assert.deepEqual([...truncate(index, 1).number], [7]);
  assert.equal(truncate(index, 1).length, 1);
});

test("a filter keeps what matches all of it", () => {
  const index = indexOf([0, 1, "read", "ok"], [5, 1, "write", "error"], [9, 1, "write", "ok"]);
  const kept = (filter: Partial<Filter>) => select(index, { ...all(), ...filter });
  assert.deepEqual(kept({}), [0, 1, 2]);
  assert.deepEqual(kept({ classes: new Set(["write"]) }), [1, 2]);
  assert.deepEqual(kept({ classes: new Set(["write"]), statuses: new Set(["error"]) }), [1]);
  assert.deepEqual(kept({ found: new Set([0, 2]) }), [0, 2]);
  assert.deepEqual(kept({ found: new Set() }), []);
});

test("the clock keeps real time and cuts only what is idle", () => {
  const index = indexOf([100, 50, "read", "ok"], [400, 100, "read", "ok"], [10_500, 20, "read", "ok"]);
  const real = buildClock(index, everything(index), Infinity);
  assert.deepEqual([...real.at], [100_000, 400_000, 10_500_000]);
  assert.deepEqual([...real.idle], [0, 0, 0]);
  const cut = buildClock(index, everything(index), 2_000_000);
  assert.deepEqual([...cut.at], [100_000, 400_000, 2_500_000]);
  assert.deepEqual([...cut.idle], [0, 0, 8_000_000]);
  assert.equal(cut.total, 2_520_000);
});

test("pipelined commands, which overlap, keep their order on the clock", () => {
  const index = indexOf([100, 90, "read", "ok"], [100, 95, "read", "ok"], [101, 99, "read", "ok"], [300, 1, "read", "ok"]);
  const { at, end, total } = buildClock(index, everything(index), 2_000_000);
  assert.deepEqual([...at], [...at].sort((a, b) => a - b));
  assert.ok((at[3] ?? 0) >= (end[2] ?? Infinity));
  assert.equal(total, end[3]);
});

test("a command that never ended takes no time, and the clock goes on", () => {
  const index = indexOf([100, null, "read", "incomplete"], [200, 1, "read", "ok"]);
  assert.deepEqual([...buildClock(index, everything(index), 2_000_000).end], [100_000, 201_000]);
});

test("the command at a time is the last that has begun", () => {
  const index = indexOf([100, 50, "read", "ok"], [400, 100, "read", "ok"]);
  const clock = buildClock(index, everything(index), Infinity);
  assert.deepEqual([0, 99_999, 100_000, 399_999, 400_000, 9e9].map((at) => locate(clock, at)), [-1, -1, 0, 0, 1, 1]);
});

test("where commands share a pixel, the gravest shows", () => {
  const index = indexOf([0, 1, "read", "ok"], [1, 1, "schema", "ok"], [2, 1, "read", "error"], [100_000, 1, "read", "ok"]);
  const view = everything(index);
  const [first, ...others] = bars(index, view, buildClock(index, view, Infinity), 100);
  assert.deepEqual({ ...first, width: 0 }, { x: 0, width: 0, cls: "schema", trouble: true, n: 3 });
  assert.equal(others.length, 1);
});

test("a responder stops at what changes things or fails, and nowhere else", () => {
  const index = indexOf(
    [0, 1, "session", "ok"], [1, 1, "read", "ok"], [2, 1, "read", "denied"], [3, 1, "read", "ok"], [4, 1, "unknown", "ok"],
  );
  const view = everything(index);
  assert.equal(nextNotable(index, view, 0, 1), 2);
  assert.equal(nextNotable(index, view, 2, 1), 4);
  assert.equal(nextNotable(index, view, 4, 1), -1);
  assert.equal(nextNotable(index, view, 4, -1), 2);
});

test("a transaction of several commands is bracketed, a single statement is not", () => {
  const index = indexOf(
    [0, 1, "read", "ok", 1, "committed"],
    [1, 1, "session", "ok", 2, "rolled back"],
    [2, 1, "write", "ok", 2, "rolled back"],
    [3, 1, "session", "ok", 2, "rolled back"],
    [4, 1, "read", "ok"],
  );
  const spans = transactions(index, everything(index));
  assert.deepEqual(spans, [{ from: 1, to: 3, txn: 2, fate: "rolled back" }]);
  assert.deepEqual([0, 1, 3, 4].map((place) => spanAt(spans, place)?.txn ?? null), [null, 2, 2, null]);
});

test("changes are counted, and those that did not last", () => {
  const index = indexOf(
    [0, 1, "write", "ok", 1, "committed"],
    [1, 1, "schema", "ok", 2, "rolled back"],
    [2, 1, "write", "error", 2, "rolled back"],
    [3, 1, "admin", "ok", 3, "not committed"],
    [4, 1, "read", "ok", 3, "not committed"],
  );
  const found = tally(index);
  assert.deepEqual([found.changed, found.undone], [3, 2]);
  assert.deepEqual([found.classes.write, found.classes.unknown, found.statuses.error], [2, 0, 1]);
});

test("what still runs, or may still be rolled back, is not settled", () => {
  const done: Given = [0, 1, "read", "ok", 1, "committed"];
  assert.equal(settled(indexOf(done, done)), 2);
  assert.equal(settled(indexOf(done, [1, 1, "write", "ok", 2, "open"], done)), 1);
  assert.equal(settled(indexOf(done, done, [1, null, "read", "incomplete"])), 2);
});

test("a scene is what passes the filter, with its own clock and brackets", () => {
  const index = indexOf(
    [0, 1, "session", "ok", 1, "committed"], [1, 1, "read", "ok", 1, "committed"], [2, 1, "write", "ok", 1, "committed"],
  );
  assert.equal(sceneOf(index, all(), Infinity).spans.length, 1);
  const narrowed = sceneOf(index, { ...all(), classes: new Set(["write"]) }, Infinity);
  assert.deepEqual([narrowed.view, narrowed.clock.at.length, narrowed.spans], [[2], 1, []]);
});

test("keys mean nothing while somebody types, and arrows scroll what scrolls", () => {
  const key = (name: string, more = {}) => ({ key: name, ...more });
  assert.equal(action(key("j"), ""), "next");
  assert.equal(action(key("j"), "field"), null);
  assert.equal(action(key("Escape"), "field"), "leave");
  assert.equal(action(key("ArrowDown"), "grid"), null);
  assert.equal(action(key("n"), "grid"), "nextNotable");
  assert.equal(action(key(" "), "button"), null);
  assert.equal(action(key(" "), ""), "toggle");
  assert.equal(action(key("k", { ctrlKey: true }), ""), null);
  assert.equal(action(key("toString"), ""), null);
});
