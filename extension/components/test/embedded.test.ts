import assert from "node:assert/strict";
import { test } from "node:test";

import { Refused, values } from "../src/channel.ts";
import { embedded, type CarriedCommand, type Replay } from "../src/embedded.ts";
import type { ReplayAnswers } from "../src/replay/answers.ts";
import { sliceOf } from "../src/replay/commands.ts";
import type { Frame } from "../src/replay/film.ts";

function command(number: number, told: Partial<CarriedCommand> = {}): CarriedCommand {
  return {
    command_no: number, operation: "SELECT", cls: "read", confidence: "certain", status: "ok", decision: "allow", rule: null,
    risk: [], resources: ["public.orders"], started_at: 0, ended_at: 1, duration_us: 1, error_code: null, error_text: null,
    rows_returned: null, rows_affected: null, bytes_in: 1, bytes_out: 1, masked: null, txn_no: 1, txn_status: "I", params: null,
    first_event_no: 1, last_event_no: 2, text: `SELECT ${number}`, cut: null, returns_rows: false,
    has_terminal: false, ...told,
  };
}

function replay(...commands: CarriedCommand[]): Replay {
  const each = (value: number | null) => commands.map(() => value);
  return {
    v: 1,
    session: {} as Replay["session"],
    events: 9,
    index: [commands.map(({ command_no }) => command_no), each(1.5), each(null), each(-1), each(1), each(0), each(73), each(0)],
    commands,
  };
}

const asking = (of: Replay) => <Op extends keyof ReplayAnswers>(op: Op, args: Record<string, unknown> = {}) =>
  embedded(of).request<ReplayAnswers[Op]>(op, args);

test("the index comes in the buffers that a kernel sends", async () => {
  const ask = asking(replay(command(3), command(5), command(8)));
  assert.deepEqual((await ask("open")).data, { session: {}, total: 3, events: 9 });
  const { data, buffers } = await ask("index", { offset: 1, limit: 50_000 });
  assert.deepEqual(data, { offset: 1, count: 2 });
  const slice = sliceOf(buffers);
  assert.deepEqual([...slice.number], [5, 8]);
  assert.deepEqual([...slice.start], [1.5, 1.5]);
  assert.deepEqual([...slice.duration], [NaN, NaN]);
  assert.deepEqual([[...slice.txn], [...slice.cls], [...slice.txnStatus]], [[-1, -1], [1, 1], [73, 73]]);
});

test("a page of the list has the lines that are asked for, as the kernel writes them", async () => {
  const long = command(2, { text: `SELECT\n\t${"x".repeat(300)}`, rows_affected: 1 });
  const ask = asking(replay(command(1), long, command(4, { rows_returned: 2_000 })));
  const { rows } = (await ask("page", { numbers: [4, 2] })).data;
  assert.deepEqual(rows.map(({ command_no, rows_label }) => [command_no, rows_label]), [[2, "1 row changed"], [4, "2,000 rows"]]);
  assert.equal(rows[0]?.text, `SELECT ${"x".repeat(232)}`);
});

test("a text is found in whatever case, in statement, parameter, object, error and column", async () => {
  const ask = asking(
    replay(
      command(0, { text: "select 'Needle'" }), command(1, { params: ["needle", null] }), command(2, { resources: ["NEEDLE"] }),
      command(3, { error_text: "no needle" }), command(4), command(5, { result: { columns: [{ name: "needle", type: "text", numeric: false }], rows: [] } }),
    ),
  );
  const { data, buffers } = await ask("find", { text: "nEEdle" });
  assert.deepEqual([data.count, [...values(Int32Array, buffers[0])]], [5, [0, 1, 2, 3, 5]]);
});

test("a long statement is begun, and whole when it is asked for; no pair of surrogates is cut", async () => {
  const text = `${"a".repeat(7_999)}\u{1f600}b`;
  const ask = asking(replay(command(0, { text })));
  const { data } = await ask("command", { command_no: 0 });
  assert.deepEqual([data.text.length, data.text_more], [7_999, 3]);
  assert.equal("result" in data, false);
  assert.deepEqual((await ask("statement", { command_no: 0 })).data, { text, more: 0 });
});

test("rows come by pages, long cells begun, and what was left out is known", async () => {
  const rows = [["1", null], ["2", "x".repeat(1_000)], ["3", { text: "y".repeat(4_000), length: 9_000 }]];
  const result = { columns: [{ name: "n", type: "integer", numeric: true }, { name: "t", type: "text", numeric: false }], rows };
  const ask = asking(replay(command(0, { rows_returned: 50, returns_rows: true, result }), command(1)));
  const { data } = await ask("result", { command_no: 0, offset: 1, limit: 50 });
  assert.deepEqual([data.total, data.is_limited, data.rows.length], [3, true, 2]);
  assert.deepEqual(data.rows[0]?.[1], { text: "x".repeat(300), length: 1_000 });
  assert.deepEqual(data.rows[1]?.[1], { text: "y".repeat(300), length: 9_000 });
  assert.deepEqual((await ask("cell", { command_no: 0, row: 1, column: 1 })).data, { text: "x".repeat(1_000), more: 0 });
  assert.deepEqual((await ask("cell", { command_no: 0, row: 2, column: 1 })).data, { text: "y".repeat(4_000), more: 5_000 });
  await assert.rejects(ask("result", { command_no: 1, offset: 0, limit: 50 }), /not in this report/);
});

test("a terminal comes with its times and frames, and what stood on it is found", async () => {
  const facts = { kind: "xterm", columns: 9, rows: 2, duration_ms: 90, page_frames: 2, left_out: null };
  const pages: Frame[][] = [
    [{ rows: [[0, ["$ ls"]]], cursor: [0, 4] }, { rows: [[1, ["Se", ["cret", 1]]]], cursor: null }],
    [{ rows: [[0, ["$ clear"]], [1, []]], cursor: null }],
  ];
  const ask = asking(replay(command(0, { has_terminal: true, terminal: { ...facts, times: [5, 30, 60], pages } }), command(1)));
  assert.equal("terminal" in (await ask("command", { command_no: 0 })).data, false);
  const { data, buffers } = await ask("terminal", { command_no: 0 });
  assert.deepEqual([data, [...values(Int32Array, buffers[0])]], [facts, [5, 30, 60]]);
  assert.deepEqual((await ask("frames", { command_no: 0, page: 1 })).data.frames, pages[1]);
  const hits = [{ first_ms: 30, last_ms: 60, text: "Secret" }];
  assert.deepEqual((await ask("seen", { command_no: 0, text: "SECRET" })).data, { hits, is_cut: false });
  await assert.rejects(ask("frames", { command_no: 0, page: 2 }), Refused);
  await assert.rejects(ask("terminal", { command_no: 1 }), Refused);
});

test("what is not carried is refused, and so is what no replay asks", async () => {
  const source = embedded(replay(command(0)));
  await assert.rejects(source.request("command", { command_no: 7 }), (error) => error instanceof Refused);
  for (const op of ["tables", "constructor", "__proto__"]) await assert.rejects(source.request(op), Refused);
});
