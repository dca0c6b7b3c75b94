/** The time in which a session is played: its own, with idle stretches shortened. */

import {
  classOf, nth, select, startOf, statusOf, tookOf, transactions,
  type CommandClass, type Filter, type Index, type Span, type View,
} from "./commands.ts";

/** So much of an idle stretch is played, in microseconds. */
export const IDLE_LIMIT_US = 2_000_000;

/** Microseconds of playing time: when each place begins and ends, and when all is over. */
export interface Clock {
  at: Float64Array;
  end: Float64Array;
  /** How much idle time was left out before each. */
  idle: Float64Array;
  total: number;
}

/** Lay the commands of `view` on a playing time. Commands that overlap (pipelined) keep their order. */
export function buildClock(index: Index, view: View, idleLimit: number): Clock {
  const at = new Float64Array(view.length);
  const end = new Float64Array(view.length);
  const idle = new Float64Array(view.length);
  let playing = 0; // playing time of `real`
  let real = 0; // latest end in session time so far
  for (const [place, position] of view.entries()) {
    const start = startOf(index, position);
    const took = tookOf(index, position);
    const gap = start - real;
    if (gap > idleLimit) {
      idle[place] = gap - idleLimit;
      playing += idleLimit;
    } else playing += Math.max(gap, 0);
    const overlap = Math.max(0, -gap);
    const begins = Math.max(place ? nth(at, place - 1) : 0, playing - overlap);
    at[place] = begins;
    end[place] = begins + took;
    real = Math.max(real, start + took);
    playing = Math.max(playing, begins + took);
  }
  return { at, end, idle, total: playing };
}

/** Return the last place that has begun at `time`, -1 before the first. */
export function locate(clock: Clock, time: number): number {
  let low = 0;
  let high = clock.at.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (nth(clock.at, middle) <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** What of a session is looked at, and how it is laid on the clock. */
export interface Scene {
  index: Index;
  view: View;
  clock: Clock;
  spans: Span[];
}

/** Return what of the session passes the filter; without idle limit in its real time. */
export function sceneOf(index: Index, filter: Filter, idleLimit: number): Scene {
  const view = select(index, filter);
  return { index, view, clock: buildClock(index, view, idleLimit), spans: transactions(index, view) };
}

const RANK: Record<CommandClass, number> = { unknown: 3, admin: 4, schema: 4, write: 3, read: 1, session: 0 };

/** What stands on one pixel column: so many commands, the gravest class and any trouble of theirs. */
export interface Bar {
  x: number;
  width: number;
  cls: CommandClass;
  trouble: boolean;
  n: number;
}

/**
 * Put the commands of a view on `width` pixels of the clock, one bar per pixel column at most.
 *
 * Where several share a column, the gravest class shows and any trouble shows, so that nothing
 * grave hides behind the harmless.
 */
export function bars(index: Index, view: View, clock: Clock, width: number): Bar[] {
  const scale = clock.total > 0 ? (width - 3) / clock.total : 0;
  const columns = new Map<number, Bar>();
  for (const [place, position] of view.entries()) {
    const at = nth(clock.at, place);
    const x = Math.round(at * scale);
    const wide = Math.max(3, Math.round((nth(clock.end, place) - at) * scale));
    const cls = classOf(index, position);
    const trouble = statusOf(index, position) !== "ok";
    const bar = columns.get(x);
    if (!bar) columns.set(x, { x, width: wide, cls, trouble, n: 1 });
    else {
      if (RANK[cls] > RANK[bar.cls]) bar.cls = cls;
      bar.trouble ||= trouble;
      bar.width = Math.max(bar.width, wide);
      bar.n += 1;
    }
  }
  return [...columns.values()];
}
