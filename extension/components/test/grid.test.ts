import assert from "node:assert/strict";
import { test } from "node:test";

import { lastPage, range } from "../src/grid.ts";
import { remember } from "../src/view.ts";

test("the last page is the one with the last row", () => {
  assert.deepEqual([0, 1, 50, 51, 100].map((total) => lastPage(total, 50)), [0, 0, 0, 50, 50]);
});

test("a range reads as a person writes it", () => {
  assert.equal(range(50, 50, 1_234), "51–100 of 1,234");
  assert.equal(range(0, 0, 0), "none");
});

test("of what is kept the oldest goes, and what is kept again is not old", () => {
  const kept = new Map<string, number>();
  for (const [key, value] of [["a", 1], ["b", 2], ["a", 3], ["c", 4]] as const) remember(kept, key, value, 2);
  assert.deepEqual([...kept], [["a", 3], ["c", 4]]);
});
