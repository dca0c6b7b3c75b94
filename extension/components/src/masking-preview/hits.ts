/** One hit as people see it: before and after, side by side, and what found it. */

import { el, shown } from "../dom.ts";
import type { Excerpt, Hit } from "./answers.ts";

/** Say how something was found: the detector, or what else it was. */
export function how(hit: Pick<Hit, "detector" | "how">): string {
  if (hit.detector) return hit.detector;
  return { column: "whole column", json_path: "JSON path", pattern: "pattern" }[hit.how] ?? hit.how;
}

/** Return what a mark shows; where a value was taken away altogether, that it is nothing. */
export function replacement(hit: Pick<Hit, "is_dropped" | "after">): { text: string; isNothing: boolean } {
  const text = hit.after[1];
  return hit.is_dropped && !text ? { text: "NULL", isNothing: true } : { text, isNothing: false };
}

const excerpt = (kind: string, [start, , end]: Excerpt, part: string, text: string) =>
  el("div", { class: `aa-text ${kind}` }, ...shown(start), el("mark", { class: part }, ...shown(text)), ...shown(end));

export const before = (hit: Hit): HTMLElement => excerpt("aa-before", hit.before, "aa-hidden-part", hit.before[1]);

export function after(hit: Hit): HTMLElement {
  const made = replacement(hit);
  return excerpt("aa-after", hit.after, made.isNothing ? "aa-made aa-nothing" : "aa-made", made.text);
}

const where = (hit: Hit) =>
  el(
    "div", { class: "aa-where" },
    el("span", {}, ...shown(hit.place)),
    el(
      "span", { class: "aa-by" },
      el("span", { class: "aa-badge aa-rule" }, ...shown(hit.rule)),
      how(hit) !== hit.rule ? el("span", { class: "aa-badge" }, ...shown(how(hit))) : null,
      ...hit.doubts.map((doubt) => el("span", { class: "aa-badge aa-doubtful", title: "it may be something else" }, ...shown(doubt))),
    ),
  );

/** Pairs beneath their two headings. */
export function pairs(left: string, right: string, ...rows: HTMLElement[]): HTMLElement[] {
  return [
    el("div", { class: "aa-pair aa-headings", "aria-hidden": "true" }, el("div", {}, left), el("div", {}, right)),
    el("div", { class: "aa-pairs", role: "list" }, ...rows),
  ];
}

export const pair = (hit: Hit, left = before(hit), right = after(hit)): HTMLElement =>
  el("div", { class: "aa-pair", role: "listitem" }, where(hit), left, right);
