/** Of a long list of rows of one height: which are in view, where they stand, and how one comes into view. */

/** Browsers lay out no taller elements; a longer list is scrolled in proportion. */
const TALLEST_PX = 8_000_000;
/** What is not laid out yet is taken to be so high. */
const HIGH_PX = 400;

export interface Range {
  from: number;
  to: number;
  down(place: number): number;
}

export interface ListWindow {
  /** Say how many rows there are. */
  resize(total: number): void;
  /** Say how many rows there are now, and begin at the first; returns what `range` does. */
  restart(total: number, more: number): Range;
  /** Return the places to be drawn, those in view and `more` around them, and how far down each stands. */
  range(more: number): Range;
  /** Scroll as little as shows a place. */
  reveal(place: number): void;
  /** How many whole rows are in view. */
  fits(): number;
}

/** `spacer`, inside of `box`, which scrolls, is made as tall as all rows are. */
export function listWindow(box: HTMLElement, spacer: HTMLElement, rowHeight: number): ListWindow {
  let total = 0;
  const all = () => total * rowHeight;
  const tall = () => Math.min(all(), TALLEST_PX);
  const high = () => box.clientHeight || HIGH_PX;
  /** Of how many rows the first in view is the first: all but those of the last screen. */
  const firsts = () => Math.max(0, total - high() / rowHeight);
  const room = () => Math.max(1, tall() - high());

  const first = (): number =>
    tall() === all() ? box.scrollTop / rowHeight : (box.scrollTop / room()) * firsts();

  function scrollTo(place: number): void {
    box.scrollTop = tall() === all() ? place * rowHeight : (place / Math.max(1, firsts())) * room();
  }

  return {
    resize(rows) {
      total = rows;
      spacer.style.height = `${tall()}px`;
    },
    restart(rows, more) {
      // Sizes are read before anything is written: a browser lays all out anew for whoever asks after that.
      const to = Math.min(rows, Math.ceil(high() / rowHeight) + more);
      if (box.scrollTop) box.scrollTop = 0;
      this.resize(rows);
      return { from: 0, to, down: (place) => place * rowHeight };
    },
    range(more) {
      const top = first();
      const from = Math.max(0, Math.floor(top) - more);
      const to = Math.min(total, Math.ceil(top + high() / rowHeight) + more);
      // By the scroll, and not by the place: the same for a list that is too tall.
      const shift = box.scrollTop - top * rowHeight;
      return { from, to, down: (place) => shift + place * rowHeight };
    },
    reveal(place) {
      if (place < first()) scrollTo(place);
      else if (place + 1 > first() + high() / rowHeight) scrollTo(place + 1 - high() / rowHeight);
    },
    fits: () => Math.max(1, Math.floor(high() / rowHeight)),
  };
}
