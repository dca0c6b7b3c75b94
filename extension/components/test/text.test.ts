import assert from "node:assert/strict";
import { test } from "node:test";

import { plain, visible } from "../src/text.ts";

test("what a browser would obey is written out, and the rest is left alone", () => {
  assert.equal(plain("a\x1b[2Jb\u202ec\u2066d\x9be\ufeff"), "a\\x1b[2Jb\\u202ec\\u2066d\\x9be\\ufeff");
  assert.equal(plain("tab\tline\nümläut 漢字 🙂"), "tab\tline\nümläut 漢字 🙂");
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
