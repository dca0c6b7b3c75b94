/** A few numbers a command, so that filters and jumps ask nobody: the index of a session. */

import { values } from "../channel.ts";

export const CLASSES = ["read", "write", "schema", "admin", "session", "unknown"] as const;
export const STATUSES = ["ok", "error", "denied", "cancelled", "incomplete"] as const;
export const FATES = ["", "committed", "rolled back", "not committed", "open"] as const;
export type CommandClass = (typeof CLASSES)[number];
export type Status = (typeof STATUSES)[number];
/** What became of the transaction that a command was part of. */
export type Fate = (typeof FATES)[number];

// In the order of the kernel's buffers (replay_index.sql).
const COLUMNS = {
  number: Int32Array,
  /** Microseconds since the session was opened. */
  start: Float64Array,
  /** Microseconds; NaN while it is not known. */
  duration: Float64Array,
  /** -1 for none. */
  txn: Int32Array,
  cls: Uint8Array,
  status: Uint8Array,
  /** The server's letter as a code, 0 for none. */
  txnStatus: Uint8Array,
  fate: Uint8Array,
} as const;
type Column = keyof typeof COLUMNS;
export type Slice = { readonly [Name in Column]: InstanceType<(typeof COLUMNS)[Name]> };
export type Index = Slice & { readonly length: number };

/** A position is a place in the index; a place is one in a view, which is a list of positions. */
export type View = readonly number[];

const NAMES = Object.keys(COLUMNS) as Column[];
const each = <Made>(make: (name: Column) => Made) => Object.fromEntries(NAMES.map((name) => [name, make(name)]));

/** An index without commands; `extend` adds slices to it. */
export const emptyIndex = (): Index => ({ ...(each((name) => new COLUMNS[name](0)) as unknown as Slice), length: 0 });

/** Read a slice out of the buffers of an answer. */
export const sliceOf = (buffers: readonly DataView[]): Slice =>
  each((name) => values<Slice[Column]>(COLUMNS[name], buffers[NAMES.indexOf(name)])) as unknown as Slice;

/** Return the buffers that `sliceOf` reads, of columns in the same order; null is NaN. */
export const buffersOf = (columns: readonly (readonly (number | null)[])[]): DataView[] =>
  NAMES.map((name, i) => new DataView(COLUMNS[name].from((columns[i] ?? []).map((value) => value ?? NaN)).buffer));

/** Return the index with a slice behind it. */
export function extend(index: Index, slice: Slice): Index {
  const length = index.length + slice.number.length;
  const joined = each((name) => {
    const whole = new COLUMNS[name](length);
    whole.set(index[name]);
    whole.set(slice[name], index.length);
    return whole;
  });
  return { ...(joined as unknown as Slice), length };
}

/** Return the first `length` commands of the index. */
export const truncate = (index: Index, length: number): Index => ({
  ...(each((name) => index[name].slice(0, length)) as unknown as Slice),
  length,
});

/** Return what is at `i`, which the caller knows to be there. */
export const nth = <Value>(list: ArrayLike<Value>, i: number): Value => list[i] as Value;

export const classOf = (index: Index, position: number): CommandClass => nth(CLASSES, nth(index.cls, position));
export const statusOf = (index: Index, position: number): Status => nth(STATUSES, nth(index.status, position));
export const fateOf = (index: Index, position: number): Fate => nth(FATES, nth(index.fate, position));
export const numberOf = (index: Index, position: number): number => nth(index.number, position);
export const startOf = (index: Index, position: number): number => nth(index.start, position);

/** How long a command took, and 0 while that is not known. */
export function tookOf(index: Index, position: number): number {
  const took = nth(index.duration, position);
  return Number.isNaN(took) ? 0 : Math.max(0, took);
}

/** Return how many first commands can change no more: all before one that runs or may be undone. */
export function settled(index: Index): number {
  for (let i = 0; i < index.length; i += 1) {
    if (statusOf(index, i) === "incomplete" || fateOf(index, i) === "open") return i;
  }
  return index.length;
}

/** What commands must be: of one of the classes and statuses, where any are named, and found. */
export interface Filter {
  classes: Set<CommandClass>;
  statuses: Set<Status>;
  /** Numbers of commands that hold a text; null where none is asked for. */
  found: ReadonlySet<number> | null;
}

/** Return the positions that pass the filter. */
export function select(index: Index, { classes, statuses, found }: Filter): View {
  const positions = [];
  for (let i = 0; i < index.length; i += 1) {
    if (classes.size && !classes.has(classOf(index, i))) continue;
    if (statuses.size && !statuses.has(statusOf(index, i))) continue;
    if (found && !found.has(numberOf(index, i))) continue;
    positions.push(i);
  }
  return positions;
}

/** Say whether a command changed something: a write, a schema change, administration that went well. */
export function changes(index: Index, position: number): boolean {
  return statusOf(index, position) === "ok" && ["write", "schema", "admin"].includes(classOf(index, position));
}

/** Say whether a change did not last: its transaction was rolled back, or never committed. */
export function undone(index: Index, position: number): boolean {
  return changes(index, position) && ["rolled back", "not committed"].includes(fateOf(index, position));
}

export interface Tally {
  classes: Record<CommandClass, number>;
  statuses: Record<Status, number>;
  changed: number;
  /** Of those that changed something. */
  undone: number;
}

/** Count commands by class and by status, and the changes that lasted and that did not. */
export function tally(index: Index): Tally {
  const none = <Name extends string>(names: readonly Name[]) =>
    Object.fromEntries(names.map((name) => [name, 0])) as Record<Name, number>;
  const found = { classes: none(CLASSES), statuses: none(STATUSES), changed: 0, undone: 0 };
  for (let i = 0; i < index.length; i += 1) {
    found.classes[classOf(index, i)] += 1;
    found.statuses[statusOf(index, i)] += 1;
    if (changes(index, i)) found.changed += 1;
    if (undone(index, i)) found.undone += 1;
  }
  return found;
}

/** Say whether a responder wants to stop here: not ok, or more than reading. */
export function notable(index: Index, position: number): boolean {
  const cls = classOf(index, position);
  return statusOf(index, position) !== "ok" || (cls !== "read" && cls !== "session");
}

/** Return the place in `view` of the next notable command from `place`, or -1. */
export function nextNotable(index: Index, view: View, place: number, direction: 1 | -1): number {
  for (let i = place + direction; i >= 0 && i < view.length; i += direction) {
    if (notable(index, nth(view, i))) return i;
  }
  return -1;
}

/** A transaction of several commands, from one place of a view to another. */
export interface Span {
  from: number;
  to: number;
  txn: number;
  fate: Fate;
}

/** Return the transactions of several commands in a view, in their order. */
export function transactions(index: Index, view: View): Span[] {
  const spans: Span[] = [];
  let open: Span | null = null;
  for (const [place, position] of view.entries()) {
    const txn = nth(index.txn, position);
    if (open && open.txn === txn) open.to = place;
    else {
      open = txn >= 0 ? { from: place, to: place, txn, fate: fateOf(index, position) } : null;
      if (open) spans.push(open);
    }
  }
  // A statement outside BEGIN … COMMIT is a transaction of its own and needs no bracket.
  return spans.filter((span) => span.to > span.from);
}

/** Return the transaction that a place belongs to, or null. */
export function spanAt(spans: readonly Span[], place: number): Span | null {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (nth(spans, middle).to < place) low = middle + 1;
    else high = middle;
  }
  const span = spans[low];
  return span && span.from <= place ? span : null;
}
