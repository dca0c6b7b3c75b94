import assert from "node:assert/strict";
import { test } from "node:test";

import { Refused, type Source } from "../src/channel.ts";
import { between, difference, given, same, Scope, toggled, type Change, type Filter, type Told } from "../src/explorer/scope.ts";

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
  assert.ok(same({ user: ["b", "a"] }, { user: ["a", "b"] }), "whoever clicked first");
  assert.ok(!same({ user: ["a"] }, { user: ["b"] }));
});

test("what makes one filter of another names its clauses alone", () => {
  const from: Filter = { user: ["a"], text: "x", since: 5, cls: ["read"] };
  assert.deepEqual(difference(from, { user: ["a", "b"], cls: ["read"] }), { user: ["a", "b"], text: "", since: null });
  assert.deepEqual(difference({ user: ["b", "a"] }, { user: ["a", "b"] }), {});
});

/**
 * A kernel, as widgets/scope.py is one: it numbers changes, and echoes to all pages. What is under
 * way lies in `wires`, one a page and a direction, until `deliver` takes it on: in order, or not.
 */
class Kernel {
  state: Told = { scope: "one", number: 0, filter: {}, selected: null };
  readonly changes: Change[] = [];
  readonly wires: (() => void)[][] = [];
  readonly #echoes: ((told: Told) => void)[] = [];

  page(): Scope {
    const [up, down] = [this.#wire(), this.#wire()];
    const scope = new Scope({
      request: (_op, args) => new Promise((resolve) => {
        up.push(() => {
          this.take(args?.["change"] as Change);
          const told = this.state;
          down.push(() => resolve({ data: told as never, buffers: [] }));
        });
      }),
      listen: (_event, hear) => {
        this.#echoes.push((told) => down.push(() => hear(told as never)));
        return () => {};
      },
    });
    scope.take(this.state);
    return scope;
  }

  take(change: Change): void {
    this.changes.push(change);
    const filter = given({ ...this.state.filter, ...change.filter } as Filter);
    const selected = change.selected === undefined ? this.state.selected : change.selected;
    this.state = { ...this.state, number: this.state.number + 1, filter, selected };
    for (const echo of this.#echoes) echo(this.state);
  }

  /** Let one message of those under way arrive, of whichever wire `pick` says; false if there is none. */
  async deliver(pick: (count: number) => number): Promise<boolean> {
    const busy = this.wires.filter((wire) => wire.length);
    const wire = busy[pick(busy.length)];
    if (!wire) return false;
    // Answers and echoes come off several threads of the kernel: not always in order.
    wire.splice(pick(wire.length), 1)[0]?.();
    await new Promise((resolve) => setImmediate(resolve));
    return true;
  }

  #wire(): (() => void)[] {
    const wire: (() => void)[] = [];
    this.wires.push(wire);
    return wire;
  }
}

/** Numbers below a bound, the same again for the same seed (Numerical Recipes' generator). */
function chances(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

test("however messages of three pages meet, all end with what the kernel has", async () => {
  for (let seed = 1; seed <= 150; seed += 1) {
    const chance = chances(seed);
    const kernel = new Kernel();
    const pages = [kernel.page(), kernel.page(), kernel.page()];
    const values = ["ana", "ben", "cid"];
    for (let step = 0; step < 40; step += 1) {
      const page = pages[chance(pages.length)] as Scope;
      const value = values[chance(values.length)] as string;
      const act = chance(6);
      if (act === 0) page.narrow(toggled(page.filter, "user", value));
      else if (act === 1) page.narrow(toggled(page.filter, "agent", value));
      else if (act === 2) page.narrow(between(page.filter, chance(2) ? chance(9) : undefined));
      else if (act === 3) page.select({ session: value, command: chance(3) });
      else await kernel.deliver(chance);
    }
    while (await kernel.deliver(chance));
    for (const page of pages) {
      assert.deepEqual([page.filter, page.selected], [kernel.state.filter, kernel.state.selected], `seed ${seed}`);
    }
  }
});

test("a page that has not heard of another's clause does not take it away", async () => {
  const kernel = new Kernel();
  const [one, other] = [kernel.page(), kernel.page()];
  one.narrow({ user: ["ana"] });
  other.narrow({ status: ["error"] });
  other.select({ session: "s", command: 3 });
  while (await kernel.deliver(() => 0));
  assert.deepEqual(kernel.state.filter, { user: ["ana"], status: ["error"] });
  assert.deepEqual([one.filter, one.selected], [other.filter, other.selected]);
});

test("an echo of before does not undo what was just chosen", async () => {
  const kernel = new Kernel();
  const page = kernel.page();
  kernel.take({ filter: { text: "drop" } });
  const seen: Filter[] = [];
  page.hear(() => seen.push(page.filter));
  page.narrow({ user: ["ana"] });
  await kernel.deliver((count) => count - 1); // the echo, before the kernel hears
  assert.deepEqual(page.filter, { text: "drop", user: ["ana"] });
  page.narrow({ user: ["ben"], text: "drop" });
  while (await kernel.deliver(() => 0));
  assert.deepEqual(page.filter, { user: ["ben"], text: "drop" });
  assert.ok(seen.every((filter) => filter.user), "at no time was it gone");
});

/** A kernel that is told by hand what to answer. */
function answering(answer: (change: Change) => Promise<Told>): { source: Source; told: Change[] } {
  const told: Change[] = [];
  return {
    told,
    source: {
      request: async (_op, args) => {
        told.push(args?.["change"] as Change);
        return { data: (await answer(args?.["change"] as Change)) as never, buffers: [] };
      },
    },
  };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));
const nothing: Told = { scope: "one", number: 0, filter: {}, selected: null };

test("the kernel hears a change once, and nothing where nothing changed", async () => {
  const { source, told } = answering(async (change) => ({ ...nothing, number: 1, filter: change.filter as Filter }));
  const scope = new Scope(source);
  scope.take(nothing);
  const heard: string[] = [];
  scope.hear((change) => heard.push(change));
  scope.narrow({ user: ["ana"] });
  scope.narrow({ user: ["ana"] });
  scope.select(null);
  await settled();
  assert.deepEqual(told, [{ filter: { user: ["ana"] } }]);
  assert.deepEqual(heard, ["filter"]);
});

test("what the kernel refuses goes, and what it did not hear it hears again", async () => {
  let error: Error | null = new Refused("no such class");
  const { source, told } = answering(async () => {
    if (error) throw error;
    return { ...nothing, number: 1, filter: { user: ["ana"], text: "x" } };
  });
  const scope = new Scope(source);
  scope.take(nothing);
  scope.narrow({ cls: ["?"] });
  assert.deepEqual(scope.filter, { cls: ["?"] });
  await settled();
  assert.deepEqual(scope.filter, {});
  error = new Error("the kernel did not answer");
  scope.narrow({ user: ["ana"] });
  await settled();
  assert.deepEqual(scope.filter, { user: ["ana"] }, "it is in force here");
  error = null;
  scope.narrow({ user: ["ana"], text: "x" });
  await settled();
  assert.deepEqual(told.at(-1), { filter: { user: ["ana"], text: "x" } });
});

test("a server that has forgotten a page's scope hears of all of it anew", async () => {
  const { source, told } = answering(async () => ({ ...nothing, scope: "two", number: 1, filter: { user: ["ana"] } }));
  const scope = new Scope(source);
  scope.take({ ...nothing, number: 7, filter: { user: ["ana"] } });
  scope.take({ ...nothing, scope: "two" });
  assert.deepEqual(scope.filter, { user: ["ana"] });
  await settled();
  assert.deepEqual(told, [{ filter: { user: ["ana"] }, selected: null }]);
  assert.deepEqual(scope.filter, { user: ["ana"] });
});

test("a scope that is closed hears no more", () => {
  let hear: ((told: Told) => void) | undefined;
  const scope = new Scope({
    request: () => Promise.reject(new Error("none")),
    listen: (_event, listener) => {
      hear = listener as never;
      return () => { hear = undefined; };
    },
  });
  hear?.({ ...nothing, filter: { user: ["ben"] } });
  assert.deepEqual(scope.filter, { user: ["ben"] });
  scope.close();
  assert.equal(hear, undefined);
});
