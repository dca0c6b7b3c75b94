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
export function clamped(span: Span, limits: Span): Span {
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
  return clamped({ since, until: since + size }, limits);
}

/** Move by a part of what is seen. */
export function panned(span: Span, limits: Span, part: number): Span {
  const by = (span.until - span.since) * part;
  return clamped({ since: span.since + by, until: span.until + by }, limits);
}

/** Return a span as wide, with `time` in its middle. */
export function centred(span: Span, limits: Span, time: number): Span {
  const half = (span.until - span.since) / 2;
  return clamped({ since: time - half, until: time + half }, limits);
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
