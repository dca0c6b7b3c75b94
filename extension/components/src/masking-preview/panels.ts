/** What each tab of a preview shows. */

import { el, shown } from "../dom.ts";
import { range, turns, type Page } from "../grid.ts";
import { plain } from "../text.ts";
import { count, counted, percent } from "../units.ts";
import type { Ask } from "../view.ts";
import { PARTS, type Hit, type MaskingAnswers, type Part, type Summary, type Uncovered } from "./answers.ts";
import { meter, type Chosen } from "./counts.ts";
import { after, before, pair, pairs } from "./hits.ts";
import type { Tab } from "./tabs.ts";

const PAGE_ROWS = 50;
const DIFFERENCE_ROWS = 25;

/** Where each list is turned to. */
export type Offsets = Partial<Record<Tab | Part, number>>;

export interface Panels {
  ask: Ask<MaskingAnswers>;
  chosen: Chosen;
  offsets: Offsets;
  /** Draw the panel again, turned to another page or with another choice. */
  redraw: () => void;
  unchoose: (key: keyof Chosen) => void;
  addRule: (rule: string) => void;
}

const empty = (words: string) => el("p", { class: "aa-empty" }, words);
const top = (words: (Node | string)[], ...more: (Node | null)[]) =>
  el("div", { class: "aa-panel-top" }, el("p", {}, ...words), el("span", { class: "aa-grow" }), ...more);

/** Ask for what a tab shows, and draw it. */
export function panel(tab: Tab, summary: Summary, panels: Panels): Promise<HTMLElement[]> {
  switch (tab) {
    case "hits": return hits(summary, panels);
    case "candidates": return candidates(panels);
    case "uncovered": return uncovered(panels);
    case "columns": return Promise.resolve(columns(summary));
    case "difference": return difference(panels);
  }
}

function pager(name: Tab | Part, page: Page & { rows: readonly unknown[] }, size: number, { offsets, redraw }: Panels): HTMLElement | null {
  if (page.total <= size) return null;
  const [first, previous, next, last] = turns(page, size, (offset) => {
    offsets[name] = offset;
    redraw();
  }, "page");
  const shownRange = el("span", { class: "aa-range" }, range(page.offset, page.rows.length, page.total));
  return el("span", { class: "aa-pager" }, first, previous, shownRange, next, last);
}

async function hits(summary: Summary, panels: Panels): Promise<HTMLElement[]> {
  const { chosen, offsets } = panels;
  const { data: page } = await panels.ask("hits", { offset: offsets.hits ?? 0, limit: PAGE_ROWS, ...chosen });
  const keys = (Object.keys(chosen) as (keyof Chosen)[]).filter((key) => chosen[key]);
  if (!page.total && !keys.length) return [empty("Nothing would be hidden by these rules.")];
  const chips = keys.map((key) =>
    el("button", {
      type: "button", class: "aa-chip", "aria-label": `no longer only ${key} ${plain(chosen[key])}`,
      onclick: () => panels.unchoose(key),
    }, `${key}: `, ...shown(chosen[key]), " ×"));
  const rest = summary.hidden - summary.kept;
  return [
    top([counted(page.total, "place"), rest ? `; ${count(rest)} more were counted and are not kept` : "", " "],
      ...chips, pager("hits", page, PAGE_ROWS, panels)),
    ...pairs("before", "after, as it would be recorded", ...page.rows.map((hit) => pair(hit))),
  ];
}

async function candidates(panels: Panels): Promise<HTMLElement[]> {
  const { data: page } = await panels.ask("candidates", { offset: panels.offsets.candidates ?? 0, limit: PAGE_ROWS });
  if (!page.total) return [empty("Nothing here looks hidden wrongly.")];
  return [
    top(["Found by a detector, and perhaps something else: why, with examples. A rule about columns, or fewer detectors, says it better."],
      pager("candidates", page, PAGE_ROWS, panels)),
    ...page.rows.map((row) =>
      el(
        "article", { class: "aa-card aa-doubt" },
        el("div", { class: "aa-card-top" },
          el("b", {}, ...shown(row.column)), el("span", { class: "aa-badge" }, ...shown(row.detector)),
          el("span", { class: "aa-quiet" }, counted(row.count, "place"))),
        el("p", {}, ...shown(row.reason)),
        el("div", { class: "aa-examples" }, ...row.examples.map(before)),
      ),
    ),
  ];
}

async function uncovered(panels: Panels): Promise<HTMLElement[]> {
  const { data: page } = await panels.ask("uncovered", { offset: panels.offsets.uncovered ?? 0, limit: PAGE_ROWS });
  if (!page.total) return [empty("Nothing that stays visible looks like a secret or like personal data.")];
  const card = (row: Uncovered) =>
    el(
      "article", { class: "aa-card aa-open" },
      el("div", { class: "aa-card-top" },
        el("b", {}, ...shown(row.column)), el("span", { class: "aa-badge" }, ...shown(row.detector || row.kind)),
        el("span", { class: "aa-grow" }), meter(row.share),
        el("span", { class: "aa-quiet" }, `${percent(row.share)} of ${counted(row.values, "value")}`),
        el("button", {
          type: "button", class: "aa-button aa-small", "aria-label": `add a rule for ${plain(row.column)} ${plain(row.detector)}`.trim(),
          title: "writes a rule that hides it; then try it", onclick: () => panels.addRule(row.rule),
        }, "Add a rule")),
      row.examples.length
        ? el("div", { class: "aa-examples" }, ...row.examples.map((each) => el("div", { class: "aa-text" }, ...shown(each))))
        : el("p", {}, ...shown(row.reason)),
    );
  return [
    top(["What would stay visible, and looks like something to hide. Examples are shown in part."],
      pager("uncovered", page, PAGE_ROWS, panels)),
    ...page.rows.map(card),
  ];
}

function columns(summary: Summary): HTMLElement[] {
  const heading = (name: string, kind: string | null = null) => el("th", { scope: "col", class: kind }, name);
  const number = (text: string) => el("td", { class: "aa-num" }, text);
  return [
    top(["Every column that was looked at, and how much of it would be hidden."]),
    el(
      "table", { class: "aa-table" },
      el("thead", {}, el("tr", {},
        heading("column"), heading("values", "aa-num"), heading("null", "aa-num"), heading("hidden", "aa-num"), heading("share"),
        heading("masked before", "aa-num"), heading("by"))),
      el("tbody", {}, ...summary.columns.map((each) => {
        const share = each.values ? each.hidden / each.values : 0;
        return el("tr", {},
          el("th", { scope: "row" }, ...shown(each.name || "document")),
          number(count(each.values)), number(count(each.nulls)), number(count(each.hidden)),
          el("td", {}, each.values ? meter(share, "aa-hide", percent(share)) : ""),
          number(each.masked ? count(each.masked) : "–"),
          el("td", {}, ...shown(each.rules.join(", ") || "–")));
      })),
    ),
  ];
}

async function difference(panels: Panels): Promise<HTMLElement[]> {
  const ask = async (part: Part) =>
    (await panels.ask("difference", { part, offset: panels.offsets[part] ?? 0, limit: DIFFERENCE_ROWS })).data;
  // One after the other: the first makes the kernel compare, the others find it done.
  const onlyBefore = await ask(PARTS[0]);
  const onlyNow = await ask(PARTS[1]);
  const otherwise = await ask(PARTS[2]);
  const { counts } = onlyBefore;
  const section = (title: string, part: Part, page: typeof onlyBefore, left: string, right: string, rows: HTMLElement[]) =>
    el(
      "section", { class: "aa-part" },
      el("div", { class: "aa-panel-top" },
        el("h4", {}, title), el("b", { class: "aa-number" }, count(counts[part])), el("span", { class: "aa-grow" }),
        pager(part, page, DIFFERENCE_ROWS, panels)),
      ...pairs(left, right, ...rows),
    );
  const isSame = PARTS.every((part) => !counts[part]);
  const found: HTMLElement[] = [
    top([
      isSame
        ? `Both sets of rules hide the same ${counted(counts.same, "place")}.`
        : `The rules on the left beside those that the preview began with; ${counted(counts.same, "place")} alike.`,
    ]),
  ];
  const single = (page: typeof onlyBefore) => page.rows.map((row) => pair(row as Hit));
  if (counts.only_a) found.push(section("No longer hidden", "only_a", onlyBefore, "stays visible now", "was to be hidden as", single(onlyBefore)));
  if (counts.only_b) found.push(section("Hidden only now", "only_b", onlyNow, "before", "after, as it would be recorded", single(onlyNow)));
  if (counts.otherwise) {
    const both = otherwise.rows.map((row) => {
      const { a, b } = row as { a: Hit; b: Hit };
      return pair(b, after(a), after(b));
    });
    found.push(section("Hidden otherwise", "otherwise", otherwise, "by the rules before", "by these rules", both));
  }
  return found;
}
