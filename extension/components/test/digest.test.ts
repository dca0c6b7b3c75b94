import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { canonical, digestOf, sha256 } from "../src/digest.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

test("SHA-256 of the vectors of FIPS 180-4 and of what Node computes", () => {
  assert.equal(sha256(bytes("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  assert.equal(sha256(bytes("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  for (let length = 0; length < 300; length += 1) {
    const data = Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 255);
    assert.equal(sha256(data), createHash("sha256").update(data).digest("hex"), String(length));
  }
  const long = new Uint8Array(1 << 20).fill(97);
  assert.equal(sha256(long), createHash("sha256").update(long).digest("hex"));
});

test("a document has one canonical form, in the order of its code points", () => {
  const document = { b: 1, a: [null, "é", "\u0007\n\u2028"], "\u{1f600}": true, "\uffee": {}, A: -0.0 };
  assert.equal(
    canonical(document),
    '{"A":0,"a":[null,"é","\\u0007\\n\u2028"],"b":1,"\uffee":{},"\u{1f600}":true}',
  );
});

// Made by agentaudit: sha256(canonical.encode(value)).hexdigest()
test("a digest is the gateway's", () => {
  const shown = {
    user: "ana", statements: [{ text: "DELETE FROM t -- é\u202e\t\u0001", params: [null, "x"], estimate: { rows: 5 } }],
    transaction: { status: "T", before: [] },
  };
  assert.equal(digestOf(shown), "aa649900b7edc6611db868829d15cc252ca7aa522575388d33f3d6eaaebd0d2d");
});
