/**
 * What is looked at: a filter, and the command that is selected. Views that share one follow it.
 *
 * The kernel has the same scope (widgets/scope.py), which other pages and cells of a notebook change
 * too. So a page tells it no more than what it changes; the kernel numbers what comes of that, and
 * tells all pages, by the event `scope`. A page shows the latest that it heard, with what it
 * changed and the kernel has not confirmed laid over it: however messages meet, all show the same.
 */

import { Refused, type Source } from "../channel.ts";

/** Facets take several values, of which one must match; all facets must match. */
export const FACETS = [
  "session", "user", "agent", "target", "protocol", "cls", "status", "decision", "operation", "risk", "table", "flags",
] as const;

export type Facet = (typeof FACETS)[number];

export type Filter = { [Name in Facet]?: string[] } & {
  /** A part of the statement, upper and lower case alike. */
  text?: string;
  /** Microseconds since 1970: from the first, to before the second. */
  since?: number;
  until?: number;
};

export interface Selected {
  session: string;
  command: number;
}

/** Return the filter with a value of a facet put in, or taken out where it was in. */
export function toggled(filter: Filter, facet: Facet, value: string): Filter {
  const values = filter[facet] ?? [];
  const others = values.includes(value) ? values.filter((each) => each !== value) : [...values, value];
  return given({ ...filter, [facet]: others });
}

/** Return the filter with its times set, or without them. */
export function between(filter: Filter, since?: number, until?: number): Filter {
  return given({ ...filter, since, until } as Filter);
}

/** Return the filter without what says nothing, each facet's values in order: the order says nothing. */
export function given(filter: Filter): Filter {
  const clauses = Object.entries(filter).map(([name, value]) => [name, Array.isArray(value) ? [...value].sort() : value] as const);
  return Object.fromEntries(
    clauses.filter(([, value]) => (Array.isArray(value) ? value.length : value !== undefined && value !== null && value !== "")),
  ) as Filter;
}

/** Say whether two filters select the same commands, as far as their words tell. */
export const same = (a: Filter, b: Filter): boolean => written(a) === written(b);

const written = (filter: Filter): string =>
  JSON.stringify(Object.entries(given(filter)).sort(([a], [b]) => (a < b ? -1 : 1)));

const isSame = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** What there is of a scope, and which of the kernel's changes it has, counted since `scope` began. */
export interface Told {
  scope: string;
  number: number;
  filter: Filter;
  selected: Selected | null;
}

/** Clauses of the filter, as they are to be: empty, or null, where they go; and what is selected. */
export interface Change {
  filter?: { [clause: string]: string[] | string | number | null };
  selected?: Selected | null;
}

/** Return what makes one filter of another. */
export function difference(from: Filter, to: Filter): NonNullable<Change["filter"]> {
  const [before, after] = [given(from), given(to)] as Record<string, string[] | string | number>[];
  const found: NonNullable<Change["filter"]> = {};
  for (const name of new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])) {
    const [was, is] = [before?.[name], after?.[name]];
    if (!isSame(was, is)) found[name] = is ?? (Array.isArray(was) ? [] : typeof was === "string" ? "" : null);
  }
  return found;
}

const both = (first: Change | null, then: Change): Change => ({
  ...first, ...then, ...(first?.filter || then.filter ? { filter: { ...first?.filter, ...then.filter } } : {}),
});

type Heard = "filter" | "selected";

/** One filter and one selection, and those who want to hear when either changes. */
export class Scope {
  filter: Filter = {};
  selected: Selected | null = null;
  /** The latest that the kernel said; -1 is before it said anything. */
  #kernel: Told = { scope: "", number: -1, filter: {}, selected: null };
  /** What the kernel was told, and has not answered. */
  #sent: Change | null = null;
  /** What it will be told then: changes that overtake each other would end as neither said. */
  #waiting: Change | null = null;
  readonly #listeners = new Set<(change: Heard) => void>();
  readonly #source: Source;
  readonly #unlisten: () => void;

  constructor(source: Source) {
    this.#source = source;
    this.#unlisten = source.listen?.<Told>("scope", (told) => this.take(told)) ?? (() => {});
  }

  /** Take what the kernel says that there is. */
  take(told: Told): void {
    if (told.scope !== this.#kernel.scope) {
      const isFirst = this.#kernel.number < 0;
      this.#kernel = told;
      // A kernel or server that has forgotten the scope hears of all of it anew.
      if (!isFirst) this.#change({ filter: difference(told.filter, this.filter), selected: this.selected });
    } else if (told.number > this.#kernel.number) this.#kernel = told;
    void this.#send();
    this.#show();
  }

  hear(listener: (change: Heard) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  narrow(filter: Filter): void {
    if (!same(filter, this.filter)) this.#change({ filter: difference(this.filter, filter) });
  }

  select(selected: Selected | null): void {
    if (!isSame(selected, this.selected)) this.#change({ selected });
  }

  close(): void {
    this.#unlisten();
    this.#listeners.clear();
  }

  #change(change: Change): void {
    this.#waiting = both(this.#waiting, change);
    void this.#send();
    this.#show();
  }

  async #send(): Promise<void> {
    const change = this.#waiting;
    if (this.#sent || !change) return;
    this.#sent = change;
    this.#waiting = null;
    const told = await this.#source.request<Told>("scope", { change }).then(({ data }) => data, (error: Error) => error);
    this.#sent = null;
    if (!(told instanceof Error)) this.take(told);
    else if (told instanceof Refused) {
      this.#show();
      void this.#send();
    } else {
      // Nobody has heard it. It is in force here, and is told when the kernel is heard again.
      this.#waiting = both(change, this.#waiting ?? {});
    }
  }

  /** Show what the kernel has, with what it has not confirmed laid over it. */
  #show(): void {
    const change = both(this.#sent, this.#waiting ?? {});
    const filter = given({ ...this.#kernel.filter, ...change.filter } as Filter);
    const selected = change.selected === undefined ? this.#kernel.selected : change.selected;
    const heard: Heard[] = [];
    if (!same(filter, this.filter)) heard.push("filter");
    if (!isSame(selected, this.selected)) heard.push("selected");
    // What is the same stays the same object: by that whoever asks knows that it is still wanted.
    if (heard.includes("filter")) this.filter = filter;
    if (heard.includes("selected")) this.selected = selected;
    for (const each of heard) for (const listener of [...this.#listeners]) listener(each);
  }
}
