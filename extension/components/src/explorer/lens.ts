/** The stretch of time that is looked at, and where in it a pixel is. Times are microseconds since 1970. */

export interface Span {
  since: number;
  until: number;
}

const SHORTEST_US = 20;
/** So much more than the whole may be seen, so that the ends are not at the very edge. */
const MARGIN = 0.02;

/** The whole, with a little room around it. */
export function whole(first: number, last: number): Span {
  const room = Math.max((last - first) * MARGIN, 500_000);
  return { since: first - room, until: last + room };
}

/** Return where a time is on `width` pixels. */
export const across = (span: Span, width: number, time: number): number =>
  ((time - span.since) / (span.until - span.since)) * width;

/** Return the time at a pixel. */
export const timeAt = (span: Span, width: number, x: number): number =>
  span.since + (x / width) * (span.until - span.since);

/** Keep a span inside `limits`, as wide as it is where that is possible. */
export function within(span: Span, limits: Span): Span {
  const most = limits.until - limits.since;
  const size = Math.min(Math.max(span.until - span.since, SHORTEST_US), most);
  const since = Math.min(Math.max(span.since, limits.since), limits.until - size);
  return { since, until: since + size };
}

/** Zoom by `factor` (below 1: in) around a time that stays where it is. */
export function zoomed(span: Span, limits: Span, factor: number, around: number): Span {
  const size = Math.max((span.until - span.since) * factor, SHORTEST_US);
  const part = (around - span.since) / (span.until - span.since);
  const since = around - part * size;
  return within({ since, until: since + size }, limits);
}

/** Move by a part of what is seen. */
export function panned(span: Span, limits: Span, part: number): Span {
  const by = (span.until - span.since) * part;
  return within({ since: span.since + by, until: span.until + by }, limits);
}

/** Return a span as wide, with `time` in its middle. */
export function centred(span: Span, limits: Span, time: number): Span {
  const half = (span.until - span.since) / 2;
  return within({ since: time - half, until: time + half }, limits);
}

/** What is asked for: the span with as much again on both sides, so that a small move needs no question. */
export function overscan(span: Span): Span {
  const size = span.until - span.since;
  return { since: span.since - size, until: span.until + size };
}

/** Say whether all of `span` lies inside `wide`, at a resolution that is close to its own. */
export function covers(wide: Span, span: Span): boolean {
  const ratio = (wide.until - wide.since) / (span.until - span.since);
  return wide.since <= span.since && span.until <= wide.until && ratio > 2.4 && ratio < 3.8;
}

// --- the axis ------------------------------------------------------------------------------------

const MS = 1_000;
const S = 1_000_000;
const MINUTE = 60 * S;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS,
  S, 2 * S, 5 * S, 10 * S, 15 * S, 30 * S, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY,
];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export interface Tick {
  time: number;
  label: string;
  /** Whether a longer period begins here: a day among hours, a second among milliseconds. */
  isMajor: boolean;
}

/** Return the ticks of an axis, in UTC, at least `apart` pixels from each other. */
export function ticks(span: Span, width: number, apart = 90): Tick[] {
  const least = ((span.until - span.since) / width) * apart;
  const step = STEPS.find((each) => each >= least);
  if (step === undefined) return months(span, least);
  const found: Tick[] = [];
  // Weeks begin on a Monday; 1970 began on a Thursday.
  const origin = step % (7 * DAY) === 0 ? 4 * DAY : 0;
  for (let time = Math.ceil((span.since - origin) / step) * step + origin; time <= span.until; time += step) {
    found.push({ time, label: label(time, step), isMajor: isMajor(time, step) });
  }
  return found;
}

function months(span: Span, least: number): Tick[] {
  const each = [1, 3, 6, 12, 24, 60, 120].find((months) => months * 30 * DAY >= least) ?? 240;
  const found: Tick[] = [];
  const first = new Date(span.since / MS);
  let month = first.getUTCFullYear() * 12 + first.getUTCMonth();
  month = Math.ceil(month / each) * each;
  for (; ; month += each) {
    const time = Date.UTC(Math.floor(month / 12), month % 12) * MS;
    if (time > span.until) return found;
    if (time < span.since) continue;
    const isMajor = month % 12 === 0;
    found.push({ time, label: isMajor ? `${month / 12}` : (MONTHS[month % 12] ?? ""), isMajor });
  }
}

const two = (number: number): string => String(number).padStart(2, "0");

function isMajor(time: number, step: number): boolean {
  const longer = [S, MINUTE, HOUR, DAY].find((each) => each > step && step < each / 1.9) ?? 0;
  return longer > 0 && time % longer === 0;
}

function label(time: number, step: number): string {
  const date = new Date(time / MS);
  const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
  if (step >= DAY || time % DAY === 0) return day;
  const minute = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  if (step >= MINUTE || time % MINUTE === 0) return minute;
  const second = `${minute}:${two(date.getUTCSeconds())}`;
  if (step >= S || time % S === 0) return second;
  const fraction = step >= MS
    ? String(Math.floor((time % S) / MS)).padStart(3, "0")
    : String(time % S).padStart(6, "0");
  return `.${fraction}`;
}
