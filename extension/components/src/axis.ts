/** Round times of an axis, and what to write at them. Times are microseconds since 1970, in UTC. */

const MS = 1_000;
const S = 1_000 * MS;
const MINUTE = 60 * S;
const HOUR = 60 * MINUTE;
export const DAY_US = 24 * HOUR;
const STEPS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500],
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * MS),
  ...[1, 2, 5, 10, 15, 30].map((n) => n * S),
  ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR),
  ...[1, 2, 7, 14].map((n) => n * DAY_US),
];
const STEPS_MONTHS = [1, 3, 6, 12, 24, 60, 120];
const LONGEST_MONTHS = 240;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

export interface Tick {
  time: number;
  label: string;
  /** Whether a longer period begins here: a day among hours, a second among milliseconds. */
  isMajor: boolean;
}

/** Return round times between two, at least `apart` microseconds from each other. */
export function ticks(since: number, until: number, apart: number, write = short): Tick[] {
  if (until <= since) return [];
  const step = STEPS.find((each) => each >= apart);
  if (step === undefined) return months(since, until, apart, write);
  const found: Tick[] = [];
  // Weeks begin on a Monday; 1970 began on a Thursday.
  const origin = step % (7 * DAY_US) === 0 ? 4 * DAY_US : 0;
  for (let time = Math.ceil((since - origin) / step) * step + origin; time <= until; time += step) {
    found.push({ time, label: write(time, step), isMajor: isMajor(time, step) });
  }
  return found;
}

/** Return at most `most` round times between two, with whole dates; none is nearer than a second. */
export const datedTicks = (since: number, until: number, most = 8): Tick[] =>
  ticks(since, until, Math.max(S, (until - since) / most), dated);

function months(since: number, until: number, apart: number, write: typeof short): Tick[] {
  const each = STEPS_MONTHS.find((months) => months * 30 * DAY_US >= apart) ?? LONGEST_MONTHS;
  const found: Tick[] = [];
  const first = new Date(since / MS);
  let month = first.getUTCFullYear() * 12 + first.getUTCMonth();
  month = Math.ceil(month / each) * each;
  for (; ; month += each) {
    const time = Date.UTC(Math.floor(month / 12), month % 12) * MS;
    if (time > until) return found;
    if (time >= since) found.push({ time, label: write(time, 30 * DAY_US), isMajor: month % 12 === 0 });
  }
}

const two = (number: number): string => String(number).padStart(2, "0");

function isMajor(time: number, step: number): boolean {
  const longer = [S, MINUTE, HOUR, DAY_US].find((each) => each > step && step < each / 1.9) ?? 0;
  return longer > 0 && time % longer === 0;
}

/** As short as it can be, because what stands before it says the rest. */
function short(time: number, step: number): string {
  const date = new Date(time / MS);
  if (step >= 30 * DAY_US) return date.getUTCMonth() ? (MONTHS[date.getUTCMonth()] ?? "") : `${date.getUTCFullYear()}`;
  const day = `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
  if (step >= DAY_US || time % DAY_US === 0) return day;
  const minute = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  if (step >= MINUTE || time % MINUTE === 0) return minute;
  const second = `${minute}:${two(date.getUTCSeconds())}`;
  if (step >= S || time % S === 0) return second;
  const fraction = step >= MS
    ? String(Math.floor((time % S) / MS)).padStart(3, "0")
    : String(time % S).padStart(6, "0");
  return `.${fraction}`;
}

function dated(time: number, step: number): string {
  const text = new Date(time / MS).toISOString();
  if (step >= DAY_US || time % DAY_US === 0) return text.slice(0, 10);
  return step >= MINUTE ? text.slice(11, 16) : text.slice(11, 19);
}
