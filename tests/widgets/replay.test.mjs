// The replay's pure functions, without a browser: node --test tests/widgets/

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

// By way of a data: URL, because Node takes a lone .js file for CommonJS.
const source = readFileSync(new URL("../../src/agentaudit/widgets/static/replay.js", import.meta.url));
const replay = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const ALL = { classes: new Set(), statuses: new Set(), found: null };

/** An index of commands given as [start ms, took ms, class, status, txn, fate]. */
function indexOf(...commands) {
  return replay.extend(replay.emptyIndex(), {
    number: Int32Array.from(commands, (_, i) => i),
    start: Float64Array.from(commands, ([start]) => start * 1_000),
    duration: Float64Array.from(commands, ([, took]) => (took === null ? NaN : took * 1_000)),
    cls: Uint8Array.from(commands, ([, , cls]) => replay.CLASSES.indexOf(cls)),
    status: Uint8Array.from(commands, ([, , , status]) => replay.STATUSES.indexOf(status)),
    txn: Int32Array.from(commands, ([, , , , txn]) => txn ?? -1),
    txnStatus: Uint8Array.from(commands, () => 73),
    fate: Uint8Array.from(commands, ([, , , , , fate]) => replay.FATES.indexOf(fate ?? "")),
  });
}

const everything = (index) => replay.select(index, ALL);
const text = (runs) => runs.map((run) => run.text).join("");

test("what a browser would obey is written out, and the rest is left alone", () => {
  assert.equal(text(replay.visible("a\x1b[2Jb\u202ec\u2066d\x9be\ufeff")), "a\\x1b[2Jb\\u202ec\\u2066d\\x9be\\ufeff");
  assert.equal(text(replay.visible("tab\tline\nümläut 漢字 🙂")), "tab\tline\nümläut 漢字 🙂");
  assert.deepEqual(replay.visible("\u202e").map((run) => run.control), [true]);
});

test("a lone half of a surrogate pair is written out, a whole pair is not", () => {
  assert.equal(text(replay.visible("\ud83d")), "\\ud83d");
  assert.equal(text(replay.visible("\udc00x")), "\\udc00x");
  assert.equal(text(replay.visible("\u{1f642}")), "\u{1f642}");
  assert.equal(text(replay.visible("\u{e0041}")), "\\U000e0041");
});

test("tokens joined are the statement, whatever it is", () => {
  const statements = [
    "SELECT * FROM t WHERE a = 'it''s' AND b = $1 -- why\n",
    "DO $body$ BEGIN EXECUTE 'DROP TABLE x'; END $body$",
    "/* outer /* inner */ still comment */ SELECT 1.5e-3, \"We\"\"ird\"",
    "E'back\\'slash' 'never closed",
    "$tag$ never closed",
    "/* never closed",
    "\u0000\u001b <b>&amp;</b> ; ::: @> #>> ?| \u{1f642}",
    "",
  ];
  for (const statement of statements) {
    assert.equal(replay.tokens(statement).map((token) => token.text).join(""), statement);
  }
});

test("tokens: what looks like code inside comments and strings is not code", () => {
  const kinds = (sql) => replay.tokens(sql).filter((t) => t.kind !== "plain").map((t) => [t.kind, t.text]);
  assert.deepEqual(kinds("/* /* DROP */ TABLE */ x"), [["comment", "/* /* DROP */ TABLE */"]]);
  assert.deepEqual(kinds("'SELECT' SELECT"), [["string", "'SELECT'"], ["keyword", "SELECT"]]);
  assert.deepEqual(kinds("$a$ SELECT $b$ $a$"), [["string", "$a$ SELECT $b$ $a$"]]);
  assert.deepEqual(kinds("id = $12"), [["parameter", "$12"]]);
  assert.deepEqual(kinds("E'a\\'b' x"), [["string", "E'a\\'b'"]]);
  assert.deepEqual(kinds("selected from_x"), []);
});

test("tokens takes time in proportion to the statement", () => {
  const hostile = ["'".repeat(200_000), "/*".repeat(100_000), "$a".repeat(100_000), "\"".repeat(200_001)];
  for (const statement of hostile) {
    assert.equal(replay.tokens(statement).map((token) => token.text).join("").length, statement.length);
  }
});

test("durations, times and sizes read as a person writes them", () => {
  assert.deepEqual(
    [0, 812, 3_140, 250_000, 2_400_000, 192_000_000, 7_500_000_000, 180_000_000_000, NaN, null].map(replay.duration),
    ["0 µs", "812 µs", "3.1 ms", "250 ms", "2.40 s", "3 m 12 s", "2 h 5 m", "2 d 2 h", "–", "–"],
  );
  assert.equal(replay.elapsed(3_723_004_000), "+01:02:03.004");
  assert.equal(replay.moment(1_793_700_000_123_000), "2026-11-03 10:00:00.123Z");
  assert.deepEqual([999, 12_345, 5 << 20].map(replay.bytes), ["999 B", "12.1 KiB", "5.0 MiB"]);
  assert.deepEqual([replay.counted(1, "row"), replay.counted(1_234, "row")], ["1 row", "1,234 rows"]);
});

test("a slice of the kernel's buffers is read at any byte offset", () => {
  const at = (array) => {
    const shifted = new Uint8Array(array.byteLength + 3);
    shifted.set(new Uint8Array(array.buffer), 3);
    return new DataView(shifted.buffer, 3);
  };
  const part = replay.slice([
    at(Int32Array.of(7, 8)), at(Float64Array.of(1.5, 2)), at(Float64Array.of(NaN, 4)), at(Int32Array.of(-1, 3)),
    at(Uint8Array.of(0, 1)), at(Uint8Array.of(1, 0)), at(Uint8Array.of(0, 84)), at(Uint8Array.of(0, 2)),
  ]);
  const index = replay.extend(replay.extend(replay.emptyIndex(), part), part);
  assert.equal(index.length, 4);
  assert.deepEqual([...index.number], [7, 8, 7, 8]);
  assert.deepEqual([...index.start], [1.5, 2, 1.5, 2]);
  assert.ok(Number.isNaN(index.duration[2]));
  assert.deepEqual([...replay.truncate(index, 1).number], [7]);
});

test("a filter keeps what matches all of it", () => {
  const index = indexOf([0, 1, "read", "ok"], [5, 1, "write", "error"], [9, 1, "write", "ok"]);
  const select = (filter) => replay.select(index, { ...ALL, ...filter });
  assert.deepEqual(select({}), [0, 1, 2]);
  assert.deepEqual(select({ classes: new Set(["write"]) }), [1, 2]);
  assert.deepEqual(select({ classes: new Set(["write"]), statuses: new Set(["error"]) }), [1]);
  assert.deepEqual(select({ found: new Set([0, 2]) }), [0, 2]);
});

test("the clock keeps real time and cuts only what is idle", () => {
  const index = indexOf([100, 50, "read", "ok"], [400, 100, "read", "ok"], [10_500, 20, "read", "ok"]);
  const real = replay.buildClock(index, everything(index), Infinity);
  assert.deepEqual([...real.at], [100_000, 400_000, 10_500_000]);
  assert.deepEqual([...real.idle], [0, 0, 0]);
  const cut = replay.buildClock(index, everything(index), 2_000_000);
  assert.deepEqual([...cut.at], [100_000, 400_000, 2_500_000]);
  assert.deepEqual([...cut.idle], [0, 0, 8_000_000]);
  assert.equal(cut.total, 2_520_000);
});

test("pipelined commands, which overlap, keep their order on the clock", () => {
  const index = indexOf([100, 90, "read", "ok"], [100, 95, "read", "ok"], [101, 99, "read", "ok"], [300, 1, "read", "ok"]);
  const clock = replay.buildClock(index, everything(index), 2_000_000);
  for (let i = 1; i < 4; i += 1) assert.ok(clock.at[i] >= clock.at[i - 1], `place ${i}`);
  assert.ok(clock.at[3] >= clock.end[2]);
  assert.equal(clock.total, clock.end[3]);
});

test("a command that never ended takes no time, and the clock goes on", () => {
  const index = indexOf([100, null, "read", "incomplete"], [200, 1, "read", "ok"]);
  const clock = replay.buildClock(index, everything(index), 2_000_000);
  assert.deepEqual([...clock.end], [100_000, 201_000]);
});

test("locate gives the last command that has begun", () => {
  const index = indexOf([100, 50, "read", "ok"], [400, 100, "read", "ok"]);
  const clock = replay.buildClock(index, everything(index), Infinity);
  assert.deepEqual([0, 99_999, 100_000, 399_999, 400_000, 9e9].map((at) => replay.locate(clock, at)), [-1, -1, 0, 0, 1, 1]);
});

test("where commands share a pixel, the gravest shows", () => {
  const index = indexOf([0, 1, "read", "ok"], [1, 1, "schema", "ok"], [2, 1, "read", "error"], [100_000, 1, "read", "ok"]);
  const bars = replay.bars(index, everything(index), replay.buildClock(index, everything(index), Infinity), 100);
  assert.equal(bars.length, 2);
  assert.deepEqual({ ...bars[0], width: 0 }, { x: 0, width: 0, cls: "schema", trouble: true, n: 3 });
});

test("a responder stops at what changes things or fails, and nowhere else", () => {
  const index = indexOf(
    [0, 1, "session", "ok"], [1, 1, "read", "ok"], [2, 1, "read", "denied"], [3, 1, "read", "ok"], [4, 1, "unknown", "ok"],
  );
  const view = everything(index);
  assert.equal(replay.nextNotable(index, view, 0, 1), 2);
  assert.equal(replay.nextNotable(index, view, 2, 1), 4);
  assert.equal(replay.nextNotable(index, view, 4, 1), -1);
  assert.equal(replay.nextNotable(index, view, 4, -1), 2);
});

test("a transaction of several commands is bracketed, a single statement is not", () => {
  const index = indexOf(
    [0, 1, "read", "ok", 1, "committed"],
    [1, 1, "session", "ok", 2, "rolled back"],
    [2, 1, "write", "ok", 2, "rolled back"],
    [3, 1, "session", "ok", 2, "rolled back"],
    [4, 1, "read", "ok"],
  );
  assert.deepEqual(replay.transactions(index, everything(index)), [{ from: 1, to: 3, txn: 2, fate: "rolled back" }]);
  assert.deepEqual(replay.tally(index).undone, 1);
  assert.deepEqual(replay.tally(index).changed, 1);
});

test("what still runs, or may still be rolled back, is not settled", () => {
  const done = [0, 1, "read", "ok", 1, "committed"];
  assert.equal(replay.settled(indexOf(done, done)), 2);
  assert.equal(replay.settled(indexOf(done, [1, 1, "write", "ok", 2, "open"], done)), 1);
  assert.equal(replay.settled(indexOf(done, done, [1, null, "read", "incomplete"])), 2);
});

test("keys mean nothing while somebody types, and arrows scroll what scrolls", () => {
  const key = (name, more = {}) => ({ key: name, ...more });
  assert.equal(replay.action(key("j"), ""), "next");
  assert.equal(replay.action(key("j"), "field"), null);
  assert.equal(replay.action(key("Escape"), "field"), "leave");
  assert.equal(replay.action(key("ArrowDown"), "grid"), null);
  assert.equal(replay.action(key("n"), "grid"), "nextNotable");
  assert.equal(replay.action(key(" "), "button"), null);
  assert.equal(replay.action(key(" "), ""), "toggle");
  assert.equal(replay.action(key("k", { ctrlKey: true }), ""), null);
});

const timers = () => {
  const set = new Map();
  let last = 0;
  return {
    setTimeout: (run) => (set.set((last += 1), run), last),
    clearTimeout: (id) => set.delete(id),
    fire: () => [...set.values()].forEach((run) => run()),
    set,
  };
};

test("answers find their questions, in whatever order they come", async () => {
  const sent = [];
  const channel = replay.requests((message) => sent.push(message), { timers: timers() });
  const first = channel.request("page", { numbers: [1] });
  const second = channel.request("command", { command_no: 2 });
  assert.deepEqual(sent.map(({ v, op }) => [v, op]), [[1, "page"], [1, "command"]]);
  channel.receive({ v: 1, id: sent[1].id, ok: true, data: "second" });
  channel.receive({ v: 1, id: sent[0].id, ok: true, data: "first" });
  channel.receive({ v: 1, id: sent[0].id, ok: true, data: "again" });
  channel.receive({ v: 1, id: 99, ok: true, data: "nobody asked" });
  assert.equal((await first).data, "first");
  assert.equal((await second).data, "second");
});

test("a question that the kernel refuses, or never answers, fails", async () => {
  const clock = timers();
  const sent = [];
  const channel = replay.requests((message) => sent.push(message), { timers: clock });
  const refused = channel.request("command", { command_no: -5 });
  channel.receive({ v: 1, id: sent[0].id, ok: false, error: "no command -5" });
  await assert.rejects(refused, /no command -5/);
  const silent = channel.request("open");
  clock.fire();
  await assert.rejects(silent, /did not answer/);
  const cut = channel.request("open");
  channel.close();
  await assert.rejects(cut, /closed/);
  assert.equal(clock.set.size, 1); // only the timer that fired is left
});

test("the module names no host and loads nothing", () => {
  const code = source.toString();
  assert.doesNotMatch(code, /^\s*import\s/m);
  assert.doesNotMatch(code, /https?:\/\/(?!www\.w3\.org\/2000\/svg)/);
  assert.doesNotMatch(code, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function/);
});
