import assert from "node:assert/strict";
import { test } from "node:test";

import { channel, Closed, Refused, values } from "../src/channel.ts";

interface Sent {
  v: number;
  id: number;
  op: string;
  args: Record<string, unknown>;
}

/** A channel whose questions are kept in `sent`, all of `messages`, and whose clock is run by hand. */
function opened() {
  const sent: Sent[] = [];
  const messages: (Sent & { batch?: Sent[] })[] = [];
  const set = new Map<number, () => void>();
  let last = 0;
  const timers = {
    setTimeout: (run: () => void) => (set.set((last += 1), run), last),
    clearTimeout: (id: number) => set.delete(id),
  };
  const carried = channel((message) => {
    const carries = message as (typeof messages)[number];
    messages.push(carries);
    sent.push(...(carries.batch ?? [carries]));
  }, { timers });
  const idOf = (place: number) => sent[place]?.id;
  return { carried, sent, messages, idOf, timers: set, expire: () => [...set.values()].forEach((run) => run()) };
}

test("answers find their questions, in whatever order they come", async () => {
  const { carried, sent, idOf } = opened();
  const first = carried.request("page", { numbers: [1] });
  const second = carried.request("command", { command_no: 2 });
  await null;
  assert.deepEqual(sent.map(({ v, op, args }) => [v, op, args]), [
    [1, "page", { numbers: [1] }],
    [1, "command", { command_no: 2 }],
  ]);
  const buffer = new DataView(new ArrayBuffer(4));
  carried.receive({ v: 1, id: idOf(1), ok: true, data: "second" }, [buffer]);
  carried.receive({ v: 1, id: idOf(0), ok: true, data: "first" });
  carried.receive({ v: 1, id: idOf(0), ok: true, data: "again" });
  carried.receive({ v: 1, id: 99, ok: true, data: "nobody asked" });
  assert.deepEqual(await first, { data: "first", buffers: [] });
  assert.deepEqual(await second, { data: "second", buffers: [buffer] });
});

test("questions of one moment go in one message, as far as it has room", async () => {
  const { carried, messages, sent } = opened();
  void carried.request("alone");
  await null;
  for (let i = 0; i < 33; i += 1) void carried.request("together", { i });
  await null;
  assert.deepEqual(messages.map((each) => each.batch?.length ?? 1), [1, 32, 1]);
  assert.deepEqual(sent.slice(1).map((each) => each.args["i"]), [...Array(33).keys()]);
  assert.equal(messages[1]?.v, 1);
});

test("answers of one message find their questions, each with its own buffers", async () => {
  const { carried, idOf } = opened();
  const asked = ["none", "two", "refused", "one"].map((op) => carried.request(op));
  await null;
  const [a, b, c] = [1, 2, 3].map((size) => new DataView(new ArrayBuffer(size))) as [DataView, DataView, DataView];
  carried.receive({ v: 1, batch: [
    { v: 1, id: idOf(0), ok: true, data: "none", buffers: 0 },
    { v: 1, id: idOf(1), ok: true, data: "two", buffers: 2 },
    { v: 1, id: idOf(2), ok: false, error: "no", buffers: 0 },
    { v: 1, id: idOf(3), ok: true, data: "one", buffers: 1 },
  ] }, [a, b, c]);
  await assert.rejects(asked[2] as Promise<unknown>, /no/);
  assert.deepEqual(await Promise.all([asked[0], asked[1], asked[3]]), [
    { data: "none", buffers: [] }, { data: "two", buffers: [a, b] }, { data: "one", buffers: [c] },
  ]);
});

test("what is refused says why, and what to do about it", async () => {
  const { carried, idOf } = opened();
  const refused = carried.request("run", { text: "" });
  await null;
  carried.receive({ v: 1, id: idOf(0), ok: false, error: "no", hint: "do this" });
  await assert.rejects(refused, (error) => error instanceof Refused && error.message === "no" && error.hint === "do this");
  const silent = carried.request("run");
  await null;
  carried.receive({ v: 1, id: idOf(1), ok: false });
  await assert.rejects(silent, /the kernel could not answer/);
});

test("a question that is never answered fails, and so does one whose channel is closed", async () => {
  const { carried, timers, expire } = opened();
  const silent = carried.request("open");
  expire();
  await assert.rejects(silent, /did not answer/);
  const before = timers.size;
  const cut = carried.request("open");
  carried.close();
  await assert.rejects(cut, Closed);
  assert.equal(timers.size, before); // its own timer is gone with it
});

test("messages of another language are left alone", async () => {
  const { carried, idOf } = opened();
  const asked = carried.request("open");
  await null;
  for (const message of [null, undefined, 5, "open", [], {}, { v: 2, id: idOf(0), ok: true }, { v: 1 }]) carried.receive(message);
  carried.receive({ v: 1, id: idOf(0), ok: true, data: 1 });
  assert.equal((await asked).data, 1);
});

test("values are read at any offset of a buffer", () => {
  const shifted = new Uint8Array(19);
  shifted.set(new Uint8Array(Float64Array.of(1.5, NaN).buffer), 3);
  assert.deepEqual([...values(Float64Array, new DataView(shifted.buffer, 3))], [1.5, NaN]);
  assert.deepEqual([...values(Int32Array, undefined)], []);
});
