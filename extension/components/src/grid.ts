/** Tables of which the other side has more: pages, and the rows that a command returned. */

import { el, icon, shown } from "./dom.ts";
import { count } from "./units.ts";

export interface Page {
  offset: number;
  total: number;
}

/** Return where the last page begins. */
export const lastPage = (total: number, rows: number): number => Math.max(0, Math.floor((total - 1) / rows) * rows);

/** Return the range that a page shows, "1–50 of 1,234". */
export function range(offset: number, rows: number, total: number): string {
  if (!total) return "none";
  return `${count(offset + 1)}–${count(offset + rows)} of ${count(total)}`;
}

export const ARROWS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z",
  previous: "M12 3v10L4 8z",
  next: "M4 3v10l8-5z",
  last: "M11 3h2v10h-2zM3 3v10l7-5z",
} as const;
const SIGNS = { first: "«", previous: "‹", next: "›", last: "»" } as const;

/** Buttons to the first, previous, next and last page of `size` rows: "First rows", or pages. */
export function turns(
  page: Page,
  size: number,
  turn: (offset: number) => void,
  what: "rows" | "page",
): [HTMLButtonElement, HTMLButtonElement, HTMLButtonElement, HTMLButtonElement] {
  const last = lastPage(page.total, size);
  const isRows = what === "rows";
  const button = (label: string, name: keyof typeof ARROWS, to: number, isOff: boolean) =>
    el(
      "button",
      {
        type: "button", class: isRows ? "aa-button aa-icon" : "aa-button", "aria-label": `${label} ${what}`,
        title: `${label} ${what}`, disabled: isOff, onclick: () => turn(to),
      },
      isRows ? icon(ARROWS[name]) : SIGNS[name],
    );
  return [
    button("First", "first", 0, page.offset === 0),
    button("Previous", "previous", Math.max(0, page.offset - size), page.offset === 0),
    button("Next", "next", page.offset + size, page.offset >= last),
    button("Last", "last", last, page.offset >= last),
  ];
}

/** A page of a result, as texts. */
export interface ResultPage {
  columns: { name: string; type: string; numeric: boolean }[];
  /** null is NULL; of a long cell its beginning, and how long it is. */
  rows: (string | null | { text: string; length: number })[][];
  total: number;
  /** Whether more rows were recorded than the kernel reads. */
  is_limited: boolean;
}

/** The rows of a page that begins at `offset`; `open` is called for a cell that was cut. */
export function resultTable(
  page: ResultPage,
  offset: number,
  label: string,
  open: (row: number, column: number, name: string) => void,
): HTMLTableElement {
  const { columns } = page;
  const kind = (c: number) => (columns[c]?.numeric ? "aa-num" : null);
  return el(
    "table", { "aria-label": label, "aria-rowcount": page.total + 1 },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "aa-rowno" }, "#"),
      ...columns.map((column, c) => el("th", { scope: "col", class: kind(c) },
        el("span", {}, ...shown(column.name)), el("small", {}, ...shown(column.type)))))),
    el("tbody", {}, ...page.rows.map((row, r) => el("tr", { "aria-rowindex": offset + r + 2 },
      el("th", { scope: "row", class: "aa-rowno" }, count(offset + r + 1)),
      ...row.map((cell, c) => {
        const attributes = { class: kind(c) };
        if (cell === null) return el("td", attributes, el("i", { class: "aa-null" }, "NULL"));
        if (typeof cell === "string") return el("td", attributes, ...shown(cell));
        return el("td", attributes, ...shown(cell.text), el("button", {
          type: "button", class: "aa-open-cell", title: `show all ${count(cell.length)} characters`,
          onclick: () => open(offset + r, c, columns[c]?.name ?? ""),
        }, "…"));
      })))),
  );
}
