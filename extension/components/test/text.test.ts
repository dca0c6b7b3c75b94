import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { flat, plain, visible } from "../src/text.ts";

/** What Python writes out too (tests/analysis/test_printable.py). */
const TABLE = JSON.parse(readFileSync(new URL("../../../tests/vectors/shown.json", import.meta.url), "utf8")) as {
  written_out: [string, string][];
  as: [string, string][];
  kept_in_lines: string[];
  texts: { text: string; line: string; block: string }[];
};
const inLines = (text: string): string => visible(text).map((run) => run.text).join("");

test("just the characters of the table are written out", () => {
  const kept = new Set(TABLE.kept_in_lines.map((code) => parseInt(code, 16)));
  const wrong: string[] = [];
  let next = 0;
  for (const [first, last] of [...TABLE.written_out, ["110000", "10ffff"]] as const) {
    // What lies before a range stays as it is: a text of all of it is the same.
    let between = "";
    for (; next < parseInt(first, 16); next += 1) between += String.fromCodePoint(next);
    if (plain(between) !== between || inLines(between) !== between) wrong.push(`before ${first}`);
    for (; next <= parseInt(last, 16); next += 1) {
      const character = String.fromCodePoint(next);
      const isKept = inLines(character) === character;
      if (plain(character) === character || isKept !== kept.has(next)) wrong.push(next.toString(16));
    }
  }
  assert.equal(next, 0x110000);
  assert.deepEqual(wrong, []);
});

test("they are written as the table says", () => {
  for (const [code, written] of TABLE.as) assert.equal(plain(String.fromCodePoint(parseInt(code, 16))), written);
  for (const { text, line, block } of TABLE.texts) {
    assert.equal(plain(text), line);
    assert.equal(inLines(text), block);
  }
});

test("a text in one line loses nothing that is not seen", () => {
  assert.equal(flat(" a\t\r\n b\rc\u2028d\ufeff\n"), "a b\rc\u2028d\ufeff");
});

test("what a browser would obey is written out, and the rest is left alone", () => {
  assert.equal(plain("a\x1b[2Jb\u202ec\u2066d\x9be\ufeff"), "a\\x1b[2Jb\\u202ec\\u2066d\\x9be\\ufeff");
  assert.equal(inLines("tab\tline\nümläut 漢字 🙂"), "tab\tline\nümläut 漢字 🙂");
  assert.deepEqual(visible("a\u202eb"), [
    { text: "a", control: false },
    { text: "\\u202e", control: true },
    { text: "b", control: false },
  ]);
  assert.deepEqual(visible(""), []);
});

test("a lone half of a surrogate pair is written out, a whole pair is not", () => {
  assert.equal(plain("\ud83d"), "\\ud83d");
  assert.equal(plain("\udc00x"), "\\udc00x");
  assert.equal(plain("\u{1f642}"), "\u{1f642}");
  assert.equal(plain("\u{e0041}"), "\\U000e0041");
});

test("what has no width, or looks empty and is not, is written out", () => {
  for (const code of [0x00ad, 0x034f, 0x061c, 0x115f, 0x180e, 0x200b, 0x200d, 0x2028, 0x2060, 0x3164, 0xfff9]) {
    assert.equal(plain(String.fromCodePoint(code)), `\\u${code.toString(16).padStart(4, "0")}`.replace("\\u00ad", "\\xad"));
  }
});
