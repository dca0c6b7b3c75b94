/** Sessions as rows and as a table; recorded text enters them by `shown` alone. */

import { el, shown } from "@agentaudit/components/dom.ts";
import { bytes, count, counted, duration, moment } from "@agentaudit/components/units.ts";

import type { Listed } from "./server.ts";

/** "2026-11-22 18:16": to the minute, UTC. */
export const minute = (us: number): string => moment(us).slice(0, 16);

/** What is worth a second look in a session, as small badges. */
export function marks(one: Listed): HTMLElement[] {
  const mark = (text: string, kind: string, title: string) => el("span", { class: `aal-mark aal-${kind}`, title }, ...shown(text));
  return [
    one.close_reason && one.close_reason !== "client" ? mark(one.close_reason.replaceAll("_", " "), one.close_reason === "refused" ? "bad" : "warn", "why it ended") : null,
    one.denied ? mark(`${count(one.denied)} denied`, "bad", "commands that a rule denied") : null,
    one.held ? mark(`${count(one.held)} held`, "warn", "commands that waited for a decision") : null,
    one.errors ? mark(counted(one.errors, "error"), "bad", "commands that failed") : null,
    one.changes ? mark(counted(one.changes, "change"), "change", "writes, schema changes, administration") : null,
    one.masked ? mark(`${count(one.masked)} masked`, "quiet", "values that masks hid") : null,
  ].filter((each) => each !== null);
}

/** A session in a list, as a button. */
export function row(one: Listed, open: (one: Listed) => void): HTMLElement {
  const isLive = one.closed_at === null;
  const button = el(
    "button",
    { type: "button", class: "aal-row", "data-session": one.session_id, onclick: () => open(one) },
    el(
      "span", { class: "aal-row-top" },
      isLive ? el("span", { class: "aal-live", title: "it goes on now" }, "●") : null,
      el("b", {}, ...shown(one.user || "unknown user")),
      el("span", { class: "aal-grow" }),
      el("span", { class: "aal-amount" }, counted(one.commands, "command")),
    ),
    el("span", { class: "aal-row-top" },
      el("span", { class: "aal-quiet" }, ...shown(one.agent || "no agent"), " → "),
      el("span", { class: "aal-target" }, ...shown(one.target || "–"))),
    el("span", { class: "aal-row-bottom" },
      el("span", { class: "aal-when", title: `opened ${moment(one.opened_at)}, UTC` }, minute(one.opened_at)),
      ...marks(one)),
  );
  return el("li", { class: "aal-item" }, button);
}

/** A session in a table. */
export function tableRow(one: Listed, open: (one: Listed) => void): HTMLElement {
  const lasted = one.closed_at === null ? "live" : duration(one.closed_at - one.opened_at);
  return el(
    "tr", { "data-session": one.session_id, class: one.closed_at === null ? "aal-is-live" : null, onclick: () => open(one) },
    el("th", { scope: "row" }, el("button", {
      type: "button", class: "aal-link", onclick: (event: Event) => {
        event.stopPropagation();
        open(one);
      },
    }, moment(one.opened_at).slice(0, 19))),
    el("td", { class: "aal-num" }, lasted),
    el("td", {}, ...shown(one.user || "unknown user")),
    el("td", {}, ...shown(one.agent || "–")),
    el("td", { class: "aal-mono" }, ...shown(one.target || "–")),
    el("td", { class: "aal-num" }, count(one.commands)),
    el("td", { class: "aal-num" }, bytes(one.bytes_out)),
    el("td", {}, ...marks(one)),
    el("td", { class: "aal-risks" }, ...one.risk.slice(0, 6).map((risk) => el("span", { class: "aal-mark aal-warn" }, ...shown(risk)))),
  );
}

/**
 * Move the focus among the buttons of a list by arrow keys, Home and End. Where a list `isLong` it
 * is one stop of the Tab key: whoever passes it does not pass each of its lines.
 */
export function keysOf(list: HTMLElement, isLong = false): void {
  const buttons = () => [...list.querySelectorAll<HTMLElement>("button")];
  const rove = (to = list.querySelector<HTMLElement>("button[tabindex='0']") ?? buttons()[0]) => {
    for (const each of buttons()) each.tabIndex = each === to ? 0 : -1;
  };
  if (isLong) {
    new MutationObserver(() => rove()).observe(list, { childList: true });
    list.addEventListener("focusin", (event) => rove((event.target as HTMLElement).closest("button") ?? undefined));
  }
  list.addEventListener("keydown", (event) => {
    const each = buttons();
    const at = each.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: each.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    each[Math.max(0, Math.min(to, each.length - 1))]?.focus();
    event.preventDefault();
    event.stopPropagation();
  });
}

/** Put the focus on what a tab is used by, when it comes to the front and nothing in it has it. */
export function focusOn(view: HTMLElement, selector: string): void {
  const active = document.activeElement;
  if (active && active !== view && view.contains(active)) return;
  view.querySelector<HTMLElement>(selector)?.focus({ preventScroll: true });
}
