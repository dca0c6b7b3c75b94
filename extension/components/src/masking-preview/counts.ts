/** The counts of a preview: figures in the heading, bars beneath the rules, and meters. */

import { el, shown } from "../dom.ts";
import { plain } from "../text.ts";
import { count, counted } from "../units.ts";
import type { Counted, Opened, Summary } from "./answers.ts";
import { NAMES, type Tab } from "./tabs.ts";

const MOST_BARS = 8;

/** What of the hits is looked at; "" is all. */
export interface Chosen {
  rule: string;
  column: string;
  detector: string;
}

/**
 * Return how wide each bar is, 0 to 100, by the largest of `counts`.
 *
 * Where there is one at all it shows: a bar of one in a million is not the bar of none.
 */
export function widths(counts: readonly number[]): number[] {
  const most = Math.max(...counts, 1);
  return counts.map((each) => (each > 0 ? Math.max(2, Math.round((100 * each) / most)) : 0));
}

function fill(width: number): HTMLElement {
  const node = el("i", { class: "aa-fill", "aria-hidden": "true" });
  node.style.width = `${width}%`;
  return node;
}

/** A share of 0 to 1 as a bar; `kind` says what it is of, `title` how much. */
export const meter = (share: number, kind = "", title: string | null = null): HTMLElement =>
  el("span", { class: `aa-meter ${kind}`.trim(), title, "aria-hidden": "true" }, fill(share > 0 ? Math.max(2, Math.round(share * 100)) : 0));

export function figures(opened: Opened, summary: Summary, show: (tab: Tab) => void): HTMLElement[] {
  const figure = (number: number, label: string, kind: string, to: Tab) =>
    el(
      "button",
      { type: "button", class: `aa-figure aa-${kind}`, onclick: () => show(to), title: NAMES[to] },
      el("b", {}, count(number)), el("span", {}, label),
    );
  return [
    el(
      "div", { class: "aa-title" },
      el("span", { class: "aa-name" }, "Masking preview"),
      el("span", { class: "aa-quiet" }, "of ", ...shown(opened.source)),
    ),
    el(
      "div", { class: "aa-figures" },
      figure(summary.values, summary.values === 1 ? "value looked at" : "values looked at", "plain", "columns"),
      figure(summary.hidden, summary.hidden === 1 ? "place hidden" : "places hidden", "hide", "hits"),
      figure(summary.candidates, "perhaps wrongly", summary.candidates ? "doubt" : "plain", "candidates"),
      figure(summary.uncovered, "not covered", summary.uncovered ? "open" : "good", "uncovered"),
    ),
  ];
}

/** What is to be known of the values that are shown; nothing where they were not recorded. */
export function banner(opened: Opened, summary: Summary): (Node | string)[] {
  if (!opened.is_recorded) return [];
  const masked = summary.masked.reduce((sum, each) => sum + each.values, 0);
  return [
    "Values under “before” are as they were recorded. ",
    masked
      ? el("b", {}, `${counted(masked, "value")} ${masked === 1 ? "was" : "were"} masked then: the marks are all there is, and what they hide cannot come back.`)
      : "Nothing in them was masked when they were recorded.",
  ];
}

/** Bars by rule, column and detector, each a filter; and what else is to be known. */
export function bars(
  summary: Summary,
  chosen: Chosen,
  choose: (key: keyof Chosen, name: string) => void,
): HTMLElement[] {
  const group = (title: string, key: keyof Chosen, rows: readonly Counted[]) => {
    const sizes = widths(rows.map((row) => row.count));
    return el(
      "div", { class: "aa-bar-group", role: "group", "aria-label": title },
      el("h4", {}, title),
      ...rows.slice(0, MOST_BARS).map((row, i) =>
        el(
          "button",
          {
            type: "button", class: "aa-bar", "aria-pressed": chosen[key] === row.name ? "true" : "false",
            disabled: !row.count, title: row.count ? `show those of ${plain(row.name)}` : "hides nothing here",
            onclick: () => choose(key, row.name), "data-key": barKey(key, row.name),
          },
          el("span", { class: "aa-bar-name" }, ...shown(row.name)),
          el("span", { class: "aa-bar-count" }, count(row.count)),
          fill(sizes[i] ?? 0),
        ),
      ),
      rows.length > MOST_BARS ? el("div", { class: "aa-quiet" }, `${count(rows.length - MOST_BARS)} more`) : null,
    );
  };
  const columns = summary.columns.filter((each) => each.places).map((each) => ({ name: each.name, count: each.places }));
  const found: HTMLElement[] = [group("By rule", "rule", summary.rules)];
  if (columns.length) found.push(group("By column", "column", columns));
  if (summary.detectors.length) found.push(group("By detector", "detector", summary.detectors));
  if (summary.notes.length) {
    found.push(
      el("details", { class: "aa-notes", open: summary.notes.length < 3 },
        el("summary", {}, counted(summary.notes.length, "note")),
        el("ul", {}, ...summary.notes.map((note) => el("li", {}, ...shown(note))))),
    );
  }
  return found;
}

/** What stands in `data-key` of a bar. */
export const barKey = (key: keyof Chosen, name: string): string => `${key} ${name}`;
