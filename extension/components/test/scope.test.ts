import assert from "node:assert/strict";
import { test } from "node:test";

import type { Source } from "../src/channel.ts";
import { between, given, same, Scope, toggled, type Filter } from "../src/explorer/scope.ts";

test("a value goes in and out, and a facet without values is none", () => {
  const once = toggled({}, "user", "ana");
  assert.deepEqual(once, { user: ["ana"] });
  assert.deepEqual(toggled(once, "user", "ben"), { user: ["ana", "ben"] });
  assert.deepEqual(toggled(once, "user", "ana"), {});
  assert.deepEqual(between({ text: "drop", since: 5 }), { text: "drop" });
  assert.deepEqual(given({ text: "", user: [] }), {});
});

test("filters are compared by what they say, in whatever order", () => {
  assert.ok(same({ user: ["a"], text: "x" }, { text: "x", user: ["a"] }));
  assert.ok(!same({ user: ["a"] }, { user: ["b"] }));
});

/** A kernel that remembers what it was told, and can tell. */
function kernel(): { source: Source; told: unknown[]; say: (filter: Filter) => void } {
  const told: unknown[] = [];
  let hear: ((data: never) => void) | undefined;
  return {
    told,
    say: (filter) => hear?.({ filter, selected: null } as never),
    source: {
      request: (op, args) => {
        told.push([op, args]);
        return Promise.resolve({ data: {} as never, buffers: [] });
      },
      listen: (_event, listener) => {
        hear = listener as never;
        return () => { hear = undefined; };
      },
    },
  };
}

test("what a page changes the kernel hears once, and what the kernel says is not said back", () => {
  const { source, told, say } = kernel();
  const scope = new Scope(source);
  const heard: string[] = [];
  scope.hear((change) => heard.push(change));
  scope.narrow({ user: ["ana"] });
  scope.narrow({ user: ["ana"] });
  assert.deepEqual(told, [["scope", { filter: { user: ["ana"] }, selected: null }]]);
  say({ user: ["ben"] });
  assert.deepEqual(scope.filter, { user: ["ben"] });
  assert.equal(told.length, 1);
  assert.deepEqual(heard, ["filter", "filter"]);
  scope.close();
  say({ user: ["cid"] });
  assert.deepEqual(scope.filter, { user: ["ben"] });
});
