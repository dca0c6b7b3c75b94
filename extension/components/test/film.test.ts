import assert from "node:assert/strict";
import { test } from "node:test";

import { after, classesOf, emptyScreen, frameAt, MASKED, OURS, textOf, WIDE } from "../src/replay/film.ts";

test("a frame changes its rows and no others", () => {
  const first = after(emptyScreen(5, 2), { rows: [[0, ["one"]], [1, [["two", 1]]]], cursor: [1, 3] });
  const second = after(first, { rows: [[1, ["three"]]], cursor: null });
  assert.deepEqual(second, { columns: 5, rows: [["one"], ["three"]], cursor: null });
  assert.equal(second.rows[0], first.rows[0]);
  assert.deepEqual(first.rows[1], [["two", 1]]);
});

test("a window that becomes smaller has fewer rows, and one that becomes larger empty ones", () => {
  const first = after(emptyScreen(5, 2), { rows: [[0, ["one"]], [1, ["two"]]], cursor: [0, 0] });
  const small = after(first, { rows: [[7, ["nowhere"]]], cursor: [0, 0], size: [9, 1] });
  assert.deepEqual(small, { columns: 9, rows: [["one"]], cursor: [0, 0] });
  assert.deepEqual(after(small, { rows: [], cursor: [0, 0], size: [9, 3] }).rows, [["one"], [], []]);
});

test("the frame at a time is the last that has come", () => {
  const times = Int32Array.of(5, 40, 41);
  assert.deepEqual([0, 5, 39, 40, 41, 1e9].map((ms) => frameAt(times, ms)), [-1, 0, 0, 1, 2, 2]);
  assert.equal(frameAt([], 3), -1);
});

test("a look has a class for each of its bits", () => {
  assert.equal(classesOf(0), "");
  assert.equal(classesOf(2 | (8 << 5) | (1 << 10) | (1 << 14)), "aa-t-ink-1 aa-t-paper-7 aa-t-bold aa-t-reverse");
  assert.equal(classesOf(MASKED | OURS | WIDE), "aa-t-masked aa-t-ours aa-t-wide");
});

test("a row as text has no blanks behind its last word", () => {
  assert.equal(textOf(["$ ", ["ls", 3], "   "]), "$ ls");
  assert.equal(textOf([]), "");
});
