import assert from "node:assert/strict";
import { test } from "node:test";

import { widths } from "../src/masking-preview/counts.ts";
import { how, replacement } from "../src/masking-preview/hits.ts";
import { appended, lineOf, lineRange } from "../src/masking-preview/rules.ts";
import { isTab, tabAt } from "../src/masking-preview/tabs.ts";

test("a bar of one in a million shows, and is not the bar of none", () => {
  assert.deepEqual(widths([1_000_000, 500_000, 1, 0]), [100, 50, 2, 0]);
  assert.deepEqual(widths([]), []);
  assert.deepEqual(widths([0, 0]), [0, 0]);
});

test("what was taken away altogether is told from what became nothing", () => {
  assert.deepEqual(replacement({ is_dropped: true, after: ["", "", ""] }), { text: "NULL", isNothing: true });
  assert.deepEqual(replacement({ is_dropped: false, after: ["", "[masked:x]", ""] }), { text: "[masked:x]", isNothing: false });
  assert.deepEqual(replacement({ is_dropped: false, after: ["", "", ""] }), { text: "", isNothing: false });
});

test("how something was found is told by its detector first", () => {
  assert.equal(how({ detector: "email", how: "detector" }), "email");
  assert.equal(how({ detector: "", how: "column" }), "whole column");
  assert.equal(how({ detector: "", how: "something new" }), "something new");
});

test("arrows lead from tab to tab, around the ends, and other keys nowhere", () => {
  assert.equal(tabAt("hits", "ArrowRight"), "candidates");
  assert.equal(tabAt("hits", "ArrowLeft"), "difference");
  assert.equal(tabAt("difference", "ArrowRight"), "hits");
  assert.equal(tabAt("uncovered", "Home"), "hits");
  assert.equal(tabAt("hits", "End"), "difference");
  assert.equal(tabAt("hits", "d"), null);
  assert.deepEqual([isTab("columns"), isTab("toString")], [true, false]);
});

test("the line that an error names is found in the rules", () => {
  const rules = '[[mask]]\nname = "a\ndetect = []\n';
  assert.equal(lineOf("rules: not TOML: Illegal character '\\n' (at line 2, column 10)"), 2);
  assert.equal(lineOf('rules: mask "a": detekt: no such key'), 0);
  assert.equal(rules.slice(...lineRange(rules, 2)), 'name = "a');
  assert.deepEqual(lineRange("one", 9), [0, 3]);
});

test("a rule is added behind the others, with an empty line between", () => {
  assert.equal(appended("[[mask]]\nname = 1\n\n\n", "[[mask]]\n"), "[[mask]]\nname = 1\n\n[[mask]]\n");
  assert.equal(appended("", "[[mask]]\n"), "[[mask]]\n");
});
