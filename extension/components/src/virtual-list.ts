/** A list of any length, of which what is in view is asked for, by pages. */

import { el } from "./dom.ts";
import { listWindow, type Range } from "./list-window.ts";
import { measured } from "./measured.ts";

export const PAGE = 100;
const KEPT_PAGES = 40;
const MORE_ROWS = 2;
const SETTLE_MS = 40;

interface Options<Row> {
  label: string;
  rowHeight: number;
  /** Return rows from `offset` on. */
  fetch(offset: number, limit: number): Promise<readonly Row[]>;
  /** Draw one row; its place is in its `aria-posinset` already. */
  draw(row: Row): Node[];
  onActive(row: Row, place: number): void;
  onOpen(row: Row): void;
  complain(error: unknown): void;
}

export interface VirtualList<Row> {
  readonly element: HTMLElement;
  /** Begin anew with so many rows, the `first` of which are here; the active one is forgotten. */
  reset(total: number, first?: readonly Row[]): void;
  /** Make a place the active one, in view, and say so by `onActive`. */
  goTo(place: number): void;
  /** The same without a word: somebody else has said it. */
  reveal(place: number): void;
  active(): number;
  row(place: number): Row | undefined;
  dispose(): void;
}

let instances = 0;

export function virtualList<Row>(options: Options<Row>): VirtualList<Row> {
  const { rowHeight } = options;
  const prefix = `aa-list-${(instances += 1)}`;
  const spacer = el("div", { class: "aa-x-spacer" });
  const rows = el("div", { class: "aa-x-rows" });
  const element = el("div", { class: "aa-x-list", role: "listbox", tabindex: 0, "aria-label": options.label }, spacer, rows);
  const pages = new Map<number, readonly Row[]>();
  const waiting = new Set<number>();
  let total = 0;
  let place = -1;
  let generation = 0;
  let frame = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const inView = listWindow(element, spacer, rowHeight);

  function row(at: number): Row | undefined {
    return pages.get(Math.floor(at / PAGE))?.[at % PAGE];
  }

  /** Which rows are drawn, and where, if none is missing: those of a list of another size may be the same. */
  let drawnAt = "";
  const placeOf = ({ from, to, down }: Range): string => `${from} ${to} ${down(from)}`;

  function draw(range = inView.range(MORE_ROWS)): void {
    const { from, to, down } = range;
    const drawn: Node[] = [];
    let isMissing = false;
    for (let at = from; at < to; at += 1) {
      const found = row(at);
      isMissing ||= found === undefined;
      const isActive = at === place;
      drawn.push(
        el(
          "div",
          {
            class: `aa-x-row${isActive ? " aa-active" : ""}`, role: "option", id: `${prefix}-${at}`,
            "aria-selected": isActive ? "true" : "false", "aria-posinset": at + 1, "aria-setsize": total,
            style: `top:${down(at)}px;height:${rowHeight}px`, "data-place": at,
          },
          ...(found === undefined ? [el("span", { class: "aa-empty" }, "…")] : options.draw(found)),
        ),
      );
    }
    rows.replaceChildren(...drawn);
    drawnAt = isMissing ? "" : placeOf(range);
    if (place >= from && place < to) element.setAttribute("aria-activedescendant", `${prefix}-${place}`);
    else element.removeAttribute("aria-activedescendant");
    if (isMissing) {
      clearTimeout(timer);
      timer = setTimeout(() => void load(from, to), pages.size ? SETTLE_MS : 0);
    }
  }

  async function load(from: number, to: number): Promise<void> {
    const mine = generation;
    const began = performance.now();
    for (let page = Math.floor(from / PAGE); page * PAGE < to; page += 1) {
      if (pages.has(page) || waiting.has(page)) continue;
      waiting.add(page);
      try {
        const found = await options.fetch(page * PAGE, PAGE);
        if (mine !== generation) return;
        pages.set(page, found);
        if (pages.size > KEPT_PAGES) pages.delete(pages.keys().next().value as number);
        draw();
        measured("rows", began);
        if (Math.floor(place / PAGE) !== page) continue;
        if (!isToldYet) tell();
        if (isWanted && element.isConnected) open();
      } catch (error) {
        isWanted = false;
        options.complain(error);
        return;
      } finally {
        waiting.delete(page);
      }
    }
  }

  /** False while the active row has still to be told: it is not here yet. */
  let isToldYet = true;
  function tell(): void {
    const found = row(place);
    isToldYet = found !== undefined;
    if (found !== undefined) options.onActive(found, place);
  }

  /** Whether the active row is to be opened as soon as it is here; another that becomes it is not. */
  let isWanted = false;
  function open(): void {
    const found = row(place);
    isWanted = found === undefined && place >= 0;
    if (found !== undefined) options.onOpen(found);
  }

  function goTo(next: number): void {
    reveal(next);
    if (total) tell();
  }

  function reveal(next: number): void {
    if (!total) return;
    isToldYet = true;
    const before = place;
    place = Math.min(Math.max(next, 0), total - 1);
    if (place !== before) isWanted = false;
    inView.reveal(place);
    draw();
  }

  const soon = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => {
      const range = inView.range(MORE_ROWS);
      if (placeOf(range) !== drawnAt) draw(range);
    });
  };
  element.addEventListener("scroll", soon, { passive: true });
  element.addEventListener("click", (event) => {
    const at = (event.target as HTMLElement).closest<HTMLElement>("[data-place]")?.dataset["place"];
    if (at !== undefined) goTo(Number(at));
    // No `dblclick` comes: what the first click was on is drawn anew by the second.
    if (event.detail === 2) open();
  });
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== element) return;
    const to: Record<string, number> = {
      ArrowDown: place + 1, j: place + 1, ArrowUp: place - 1, k: place - 1, Home: 0, End: total - 1,
      PageDown: place + inView.fits(), PageUp: place - inView.fits(),
    };
    const next = to[event.key];
    if (next !== undefined) goTo(next);
    else if (event.key === "Enter") open();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const sizes = new ResizeObserver(soon);
  sizes.observe(element);

  return {
    element,
    reset(rowsNow, first = []) {
      generation += 1;
      total = rowsNow;
      place = -1;
      isToldYet = true;
      isWanted = false;
      pages.clear();
      waiting.clear();
      if (first.length) pages.set(0, first);
      draw(inView.restart(total, MORE_ROWS));
    },
    goTo,
    reveal,
    active: () => place,
    row,
    dispose() {
      generation += 1;
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      sizes.disconnect();
    },
  };
}
