import assert from "node:assert/strict";
import { test } from "node:test";

import {
  type Finding, findingsIn, gapSays, type Gateway, heights, laneOf, mood, running, type Segment, segmentOf, type State,
} from "../src/integrity.ts";

const segment = (name: string, first: number, events = 10): Segment => ({
  entry: first, segments: 1, segment: name, begun_us: 0, sealed_us: 1, first_us: 0, last_us: 1, first_event: first, events,
  epoch: 0, sessions: 1, commands: 1, root: "", bytes: 0,
});

const finding = (changes: Partial<Finding>): Finding => ({
  check: "file", place: "x", seen: "y", expected: "", gateway: "", segment: "", entry: -1, event: -1, row: -1, means: "", do: "",
  ...changes,
});

const state = (changes: Partial<State>): State => ({
  run: 1, state: "checking", deep: false, stage: "", done: 0, total: 0, answer: null, answered: 0, ...changes,
});

test("only a yes is good, a no is bad, and neither is a doubt", () => {
  assert.equal(mood({ ok: true }), "good");
  assert.equal(mood({ ok: false }), "bad");
  assert.equal(mood({ ok: null }), "warn");
  assert.equal(mood(null), "none");
});

test("what runs is told with how far it is, and what did not end with why", () => {
  assert.equal(running(state({ stage: "log of gw1", done: 12, total: 1_234, deep: true })), "deep check: log of gw1 12 of 1,234");
  assert.equal(running(state({})), "fast check: begins");
  assert.equal(running(state({ state: "stopping" })), "stopping the fast check …");
  assert.equal(running(state({ state: "stopped" })), "the fast check was stopped before its end");
  assert.equal(running(state({ state: "failed", error: "no such file" })), "no such file");
  assert.equal(running(state({ state: "done" })), "");
});

test("a finding is in a segment by its name, by an event, or by its log entry of the same gateway", () => {
  const a = segment("aaa", 0);
  const b = segment("bbb", 10);
  const named = finding({ segment: "bbb" });
  assert.deepEqual(findingsIn(b, "gw1", [named]), [named]);
  assert.deepEqual(findingsIn(a, "gw1", [named]), []);
  const event = finding({ gateway: "gw1", event: 12 });
  assert.deepEqual(findingsIn(b, "gw1", [event]), [event]);
  assert.deepEqual(findingsIn(b, "gw2", [event]), []);
  assert.deepEqual(findingsIn(b, "gw1", [finding({ gateway: "gw1", entry: 10 })]).length, 1);
  assert.deepEqual(findingsIn(b, "gw1", [finding({ gateway: "gw1" })]), []);
  const gateway = { gateway: "gw1", segments: [a, b] } as unknown as Gateway;
  assert.equal(segmentOf(named, [gateway])?.segment.segment, "bbb");
  assert.equal(segmentOf(finding({ place: "FORMAT" }), [gateway]), null);
});

test("a gap is told with what it was and how long", () => {
  assert.equal(gapSays({ kind: "crashed", entry: 1, from_us: 0, until_us: 90_000_000 }), "not recording: it ended without saying so, for 1 m 30 s");
  assert.equal(gapSays({ kind: "stopped", entry: 1, from_us: 0, until_us: null }), "not recording: it was stopped, and has not gone on since");
  assert.equal(gapSays({ kind: "new", entry: 1, from_us: 0, until_us: 1_000 }), "new, for 1.0 ms");
});

test("entries have lanes, and one tick beside a thousand still shows", () => {
  assert.equal(laneOf("anchor"), "outside");
  assert.equal(laneOf("hold"), "purge");
  assert.equal(laneOf("anything"), "log");
  const [none, one, many] = heights([0, 1, 1_000]);
  assert.equal(none, 0);
  assert.ok((one ?? 0) > 0.02);
  assert.equal(many, 1);
  assert.deepEqual(heights([]), []);
});
