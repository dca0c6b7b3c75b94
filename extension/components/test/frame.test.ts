import assert from "node:assert/strict";
import { test } from "node:test";

import { unframe } from "../src/frame.ts";

function framed(head: string, ...rest: number[][]): ArrayBuffer {
  const text = new TextEncoder().encode(head);
  const parts = [...new TextEncoder().encode("AAQ1"), text.length, 0, 0, 0, ...text];
  for (const part of rest) {
    while (part.length && parts.length % 8) parts.push(0);
    parts.push(...part);
  }
  return Uint8Array.from(parts).buffer;
}

test("a frame gives its answer, and its buffers where they lie", () => {
  const body = framed('{"answer":{"id":3},"buffers":[3,0,8]}', [1, 2, 3], [], [9, 0, 0, 0, 0, 0, 0, 0]);
  const { answer, buffers } = unframe(body);
  assert.deepEqual(answer, { id: 3 });
  assert.deepEqual(buffers.map((buffer) => buffer.byteLength), [3, 0, 8]);
  assert.deepEqual(buffers.map((buffer) => buffer.byteOffset % 8), [0, 0, 0]);
  assert.equal(buffers[0]?.getUint8(2), 3);
  assert.equal(buffers[2]?.getBigInt64(0, true), 9n);
});

test("what is cut, or no frame, is refused", () => {
  const body = framed('{"answer":{},"buffers":[3]}', [1, 2, 3]);
  for (const wrong of [new ArrayBuffer(0), new ArrayBuffer(64), body.slice(0, 20), body.slice(0, -1)]) {
    assert.throws(() => unframe(wrong));
  }
});
