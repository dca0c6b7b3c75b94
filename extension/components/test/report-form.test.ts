import assert from "node:assert/strict";
import test from "node:test";

import { aboutOf, iso } from "../src/report-form.ts";

test("a moment loses nothing as text", () => {
  assert.equal(iso(Date.UTC(2026, 10, 22, 18, 16, 1, 123) * 1_000 + 456), "2026-11-22T18:16:01.123456Z");
  assert.equal(iso(0), "1970-01-01T00:00:00Z");
  assert.equal(iso(1), "1970-01-01T00:00:00.000001Z");
});

test("a selection is what a report is about, before the filter that led to it", () => {
  const about = aboutOf({ user: ["maria"], text: "DELETE" }, { session: "01a20224-0000", command: 3 });
  assert.deepEqual(about, { scope: "sessions", sessions: ["01a20224-0000"], user: "maria", leftOut: ["text"] });
});

test("a filter of times and of one name is what a report is about, and the rest is said", () => {
  const about = aboutOf({ since: 0, until: 86_400_000_000, agent: ["a", "b"], target: ["shop"], cls: ["write"] }, null);
  assert.deepEqual(about, {
    scope: "time", since: "1970-01-01T00:00:00Z", until: "1970-01-02T00:00:00Z", target: "shop", leftOut: ["agent", "cls"],
  });
});

test("where nothing is narrowed it is about the whole archive", () => {
  assert.deepEqual(aboutOf({}, null), { scope: "archive", leftOut: [] });
  assert.deepEqual(aboutOf({ user: [""] }, null), { scope: "archive", leftOut: ["user"] });
  assert.deepEqual(aboutOf({ session: ["a", "b"] }, null), { scope: "sessions", sessions: ["a", "b"], leftOut: [] });
});
