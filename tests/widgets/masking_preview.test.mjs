// The masking preview's pure functions, without a browser: node --test tests/widgets/

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

// By way of a data: URL, because Node takes a lone .js file for CommonJS.
const source = readFileSync(new URL("../../src/agentaudit/widgets/static/masking_preview.js", import.meta.url));
const preview = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const text = (runs) => runs.map((run) => run.text).join("");

test("what a browser would obey is written out, and the rest is left alone", () => {
  assert.equal(text(preview.visible("a\x1b[2Jb\u202ec\ufeff")), "a\\x1b[2Jb\\u202ec\\ufeff");
  assert.equal(text(preview.visible("tab\tline\nümläut 漢字 🙂")), "tab\tline\nümläut 漢字 🙂");
  assert.equal(text(preview.visible("\ud83d")), "\\ud83d");
});

test("what goes into a tooltip obeys nothing either", () => {
  assert.equal(preview.plain("a\u202eb"), "a\\u202eb");
});

test("a bar of one in a million shows, and is not the bar of none", () => {
  assert.deepEqual(preview.widths([1_000_000, 500_000, 1, 0]), [100, 50, 2, 0]);
  assert.deepEqual(preview.widths([]), []);
  assert.deepEqual(preview.widths([0, 0]), [0, 0]);
});

test("shares and ranges read as a person writes them", () => {
  assert.deepEqual([0, 0.004, 0.07, 0.996, 1].map(preview.percent), ["0 %", "under 1 %", "7 %", "99 %", "100 %"]);
  assert.equal(preview.range(50, 50, 1_234), "51–100 of 1,234");
  assert.equal(preview.range(0, 0, 0), "none");
  assert.equal(preview.counted(1, "place"), "1 place");
});

test("the last page is the one with the last row", () => {
  assert.deepEqual([0, 1, 50, 51, 100].map((total) => preview.lastPage(total, 50)), [0, 0, 0, 50, 50]);
});

test("what was taken away altogether is told from what became nothing", () => {
  assert.deepEqual(preview.replacement({ is_dropped: true, after: ["", "", ""] }), { text: "NULL", isNothing: true });
  assert.deepEqual(preview.replacement({ is_dropped: false, after: ["", "[masked:x]", ""] }), { text: "[masked:x]", isNothing: false });
});

test("how something was found is told by its detector first", () => {
  assert.equal(preview.how({ detector: "email", how: "detector" }), "email");
  assert.equal(preview.how({ detector: "", how: "column" }), "whole column");
});

test("arrows lead from tab to tab, around the ends, and other keys nowhere", () => {
  assert.equal(preview.tabAt("hits", "ArrowRight"), "candidates");
  assert.equal(preview.tabAt("hits", "ArrowLeft"), "difference");
  assert.equal(preview.tabAt("difference", "ArrowRight"), "hits");
  assert.equal(preview.tabAt("uncovered", "Home"), "hits");
  assert.equal(preview.tabAt("hits", "d"), null);
});

test("the line that an error names is found in the rules", () => {
  const rules = '[[mask]]\nname = "a\ndetect = []\n';
  assert.equal(preview.lineOf("rules: not TOML: Illegal character '\\n' (at line 2, column 10)"), 2);
  assert.equal(preview.lineOf('rules: mask "a": detekt: no such key'), 0);
  assert.equal(rules.slice(...preview.lineRange(rules, 2)), 'name = "a');
  assert.deepEqual(preview.lineRange("one", 9), [0, 3]);
});

test("a rule is added behind the others, with an empty line between", () => {
  assert.equal(preview.appended("[[mask]]\nname = 1\n\n\n", "[[mask]]\n"), "[[mask]]\nname = 1\n\n[[mask]]\n");
  assert.equal(preview.appended("", "[[mask]]\n"), "[[mask]]\n");
});

test("answers find their questions, whatever their order, and errors bring their hint", async () => {
  const sent = [];
  const channel = preview.requests((message) => sent.push(message));
  const first = channel.request("hits", { offset: 0 });
  const second = channel.request("run", { text: "" });
  channel.receive({ v: 1, id: sent[1].id, ok: false, error: "no", hint: "do this" });
  channel.receive({ v: 1, id: sent[0].id, ok: true, data: { total: 3 } });
  channel.receive({ v: 1, id: 99, ok: true, data: {} });
  assert.deepEqual(await first, { total: 3 });
  await assert.rejects(second, (error) => error.message === "no" && error.hint === "do this");
  const third = channel.request("open");
  channel.close();
  await assert.rejects(third, /closed/);
});

test("the module asks nobody but the kernel", () => {
  assert.doesNotMatch(source.toString(), /https?:\/\/|^import\s|fetch\(|innerHTML|insertAdjacent|eval\(/m);
});
