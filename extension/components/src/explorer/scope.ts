/**
 * What is looked at: a filter, and the command that is selected. Views that share one follow it.
 *
 * The kernel has the same scope (see widgets/explorer.py): what a page changes it is told, and what
 * another page or a cell of the notebook changed comes back as the event `scope`.
 */

import type { Source } from "../channel.ts";

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

/** Return the filter without what says nothing. */
export function given(filter: Filter): Filter {
  return Object.fromEntries(
    Object.entries(filter).filter(([, value]) =>
      Array.isArray(value) ? value.length : value !== undefined && value !== ""),
  ) as Filter;
}

/** Say whether two filters select the same commands, as far as their words tell. */
export const same = (a: Filter, b: Filter): boolean => written(a) === written(b);

const written = (filter: Filter): string =>
  JSON.stringify(Object.entries(given(filter)).sort(([a], [b]) => (a < b ? -1 : 1)));

type Change = "filter" | "selected";

/** One filter and one selection, and those who want to hear when either changes. */
export class Scope {
  filter: Filter = {};
  selected: Selected | null = null;
  readonly #listeners = new Set<(change: Change) => void>();
  readonly #source: Source | null;
  readonly #unlisten: () => void;

  /** With a source, the kernel's scope and this one follow each other. */
  constructor(source: Source | null = null) {
    this.#source = source;
    this.#unlisten = source?.listen?.<{ filter: Filter; selected: Selected | null }>("scope", (told) => {
      this.#take(told.filter, told.selected);
    }) ?? (() => {});
  }

  /** Take what the kernel had when the page was opened. */
  begin(filter: Filter, selected: Selected | null): void {
    this.#take(filter, selected);
  }

  hear(listener: (change: Change) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  narrow(filter: Filter): void {
    const next = given(filter);
    if (same(next, this.filter)) return;
    this.filter = next;
    this.#tell("filter");
    this.#send();
  }

  select(selected: Selected | null): void {
    if (JSON.stringify(selected) === JSON.stringify(this.selected)) return;
    this.selected = selected;
    this.#tell("selected");
    this.#send();
  }

  close(): void {
    this.#unlisten();
    this.#listeners.clear();
  }

  #take(filter: Filter, selected: Selected | null): void {
    const changes: Change[] = [];
    if (!same(filter, this.filter)) changes.push("filter");
    if (JSON.stringify(selected) !== JSON.stringify(this.selected)) changes.push("selected");
    this.filter = given(filter);
    this.selected = selected;
    changes.forEach((change) => this.#tell(change));
  }

  #tell(change: Change): void {
    for (const listener of [...this.#listeners]) listener(change);
  }

  #send(): void {
    // Whether the kernel has heard is of no matter to the page: what it asks next carries the filter.
    this.#source?.request("scope", { filter: this.filter, selected: this.selected }).catch(() => {});
  }
}
