/** The frames of a terminal: what stood on its screen, and when. The kernel makes them (analysis/terminal.py). */

/** A stretch of a row in one look; a text alone looks plain. */
export type Stretch = string | [text: string, look: number];

/** What is another than it was in the frame before; of the first frame of a page, all that there is. */
export interface Frame {
  /** Rows by their number, from the top. */
  rows: [row: number, stretches: Stretch[]][];
  /** Row and column; null where it is hidden. */
  cursor: [row: number, column: number] | null;
  /** Columns and rows, where they are others. */
  size?: [columns: number, rows: number];
}

export interface Screen {
  columns: number;
  rows: Stretch[][];
  cursor: [row: number, column: number] | null;
}

export const emptyScreen = (columns: number, rows: number): Screen => ({
  columns, rows: Array.from({ length: rows }, () => []), cursor: null,
});

/** Return the screen after a frame; rows that stay are the same objects. */
export function after(screen: Screen, frame: Frame): Screen {
  const [columns, count] = frame.size ?? [screen.columns, screen.rows.length];
  const rows = Array.from({ length: count }, (_, row) => screen.rows[row] ?? []);
  for (const [row, stretches] of frame.rows) if (row < count) rows[row] = stretches;
  return { columns, rows, cursor: frame.cursor };
}

/** Return which frame is to be seen at a time, -1 before the first; `times` are in order. */
export function frameAt(times: ArrayLike<number>, ms: number): number {
  let from = 0;
  let to = times.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if ((times[middle] ?? 0) <= ms) from = middle + 1;
    else to = middle;
  }
  return from - 1;
}

/** Bits of a look: five for each of two colours (0 is the terminal's own, else one of eight), and what else there is. */
const FLAGS = [
  [1 << 10, "aa-t-bold"], [1 << 11, "aa-t-faint"], [1 << 12, "aa-t-italic"], [1 << 13, "aa-t-underline"],
  [1 << 14, "aa-t-reverse"], [1 << 15, "aa-t-strike"], [1 << 16, "aa-t-masked"], [1 << 17, "aa-t-ours"], [1 << 18, "aa-t-wide"],
  [1 << 19, "aa-t-hidden"],
] as const;
export const MASKED = 1 << 16;
export const OURS = 1 << 17;
export const WIDE = 1 << 18;
/** The program asked for it not to be seen. */
export const HIDDEN = 1 << 19;

/** Return the classes of a look, "" of a plain one. */
export function classesOf(look: number): string {
  const names: string[] = [];
  const ink = look & 31;
  const paper = (look >> 5) & 31;
  if (ink) names.push(`aa-t-ink-${ink - 1}`);
  if (paper) names.push(`aa-t-paper-${paper - 1}`);
  for (const [bit, name] of FLAGS) if (look & bit) names.push(name);
  return names.join(" ");
}

export const textOf = (stretches: readonly Stretch[]): string =>
  stretches.map((stretch) => (typeof stretch === "string" ? stretch : stretch[0])).join("").trimEnd();
