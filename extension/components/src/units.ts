/** Numbers, times and sizes as people read them; times are UTC, because they are compared with logs. */

const NUMBER = new Intl.NumberFormat("en-US");
const HOUR_S = 3_600;
const DAY_S = 86_400;

/** 12345 -> "12,345". */
export const count = (number: number | bigint): string => NUMBER.format(number);

/** One noun with its number. */
export const counted = (number: number, one: string, many = `${one}s`): string =>
  `${count(number)} ${number === 1 ? one : many}`;

/** A share as people say it: "100 %", "7 %", "under 1 %". */
export function percent(share: number): string {
  if (share <= 0) return "0 %";
  if (share < 0.01) return "under 1 %";
  return `${share > 0.99 && share < 1 ? 99 : Math.round(share * 100)} %`;
}

/** Microseconds -> "812 µs", "3.1 ms", "2.40 s", "3 m 12 s". */
export function duration(us: number | null | undefined): string {
  if (us === null || us === undefined || Number.isNaN(us)) return "–";
  if (us < 1_000) return `${Math.round(us)} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toFixed(us < 100_000 ? 1 : 0)} ms`;
  if (us < 60_000_000) return `${(us / 1_000_000).toFixed(2)} s`;
  const seconds = Math.floor(us / 1_000_000);
  if (seconds < HOUR_S) return `${Math.floor(seconds / 60)} m ${seconds % 60} s`;
  if (seconds < DAY_S) return `${Math.floor(seconds / HOUR_S)} h ${Math.floor((seconds % HOUR_S) / 60)} m`;
  return `${Math.floor(seconds / DAY_S)} d ${Math.floor((seconds % DAY_S) / HOUR_S)} h`;
}

/** Microseconds since a session was opened -> "+00:01:02.345". */
export function elapsed(us: number): string {
  const ms = Math.max(0, Math.floor(us / 1_000));
  const part = (value: number, width = 2) => String(value).padStart(width, "0");
  return (
    `+${part(Math.floor(ms / 3_600_000))}:${part(Math.floor(ms / 60_000) % 60)}` +
    `:${part(Math.floor(ms / 1_000) % 60)}.${part(ms % 1_000, 3)}`
  );
}

/** Microseconds since 1970 -> "2026-11-03 10:00:00.123Z". */
export function moment(us: number | null | undefined): string {
  if (us === null || us === undefined) return "–";
  return new Date(us / 1_000).toISOString().replace("T", " ");
}

/** 12345 -> "12.1 KiB". */
export function bytes(number: number | null | undefined): string {
  if (number === null || number === undefined) return "–";
  if (number < 1_024) return `${number} B`;
  let amount = number;
  let unit = "";
  for (unit of ["KiB", "MiB", "GiB", "TiB"]) {
    amount /= 1_024;
    if (amount < 1_024) break;
  }
  return `${amount.toFixed(1)} ${unit}`;
}
