/** Parts that panels share: tabs, a text to be copied, a place on an axis, a table. */

import { el, shown } from "./dom.ts";

/** Return where a time lies between two others, in percent of the way, never outside. */
export function placed(at: number, from: number, until: number): number {
  if (until <= from) return 0;
  return Math.min(100, Math.max(0, (100 * (at - from)) / (until - from)));
}

/** Microseconds since 1970 -> "2026-11-03 10:00:00Z": to the second, for times that people set. */
export function instant(us: number | null | undefined): string {
  if (us === null || us === undefined) return "–";
  return `${new Date(us / 1_000).toISOString().slice(0, 19).replace("T", " ")}Z`;
}

/** Microseconds since 1970 -> "2026-11-03". */
export const day = (us: number): string => new Date(us / 1_000).toISOString().slice(0, 10);

/** Return which of `names` a key leads to from `current`, or null where it belongs to somebody else. */
export function tabAt(names: readonly string[], current: string, key: string): string | null {
  const last = names.length - 1;
  const at = names.indexOf(current);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[key];
  if (to === undefined || last < 0) return null;
  return names[(to + names.length) % names.length] ?? null;
}

export interface Tabs {
  bar: HTMLElement;
  panel: HTMLElement;
  current: string;
  show(name: string, isFocused?: boolean): void;
  /** Write a number beside a tab's name; -1 for none. */
  count(name: string, number: number): void;
}

let made = 0;

/** Make a bar of tabs over one panel, which `draw` fills; arrows, Home and End move among them. */
export function tabbed(label: string, titles: Record<string, string>, draw: (name: string, panel: HTMLElement) => void): Tabs {
  const prefix = `aa-tabs-${(made += 1)}`;
  const names = Object.keys(titles);
  const panel = el("section", { class: "aa-panel", role: "tabpanel", id: `${prefix}-panel`, tabindex: 0 });
  const bar = el("div", { class: "aa-tabs", role: "tablist", "aria-label": label });
  const buttons = new Map<string, HTMLButtonElement>();
  const tabs: Tabs = {
    bar,
    panel,
    current: names[0] ?? "",
    show(name, isFocused = false) {
      if (!buttons.has(name)) return;
      tabs.current = name;
      for (const [each, button] of buttons) {
        button.setAttribute("aria-selected", String(each === name));
        button.tabIndex = each === name ? 0 : -1;
      }
      panel.setAttribute("aria-labelledby", `${prefix}-${name}`);
      panel.replaceChildren();
      draw(name, panel);
      if (isFocused) buttons.get(name)?.focus();
    },
    count(name, number) {
      const badge = buttons.get(name)?.querySelector("b");
      if (!badge) return;
      badge.textContent = number.toLocaleString("en-US");
      badge.hidden = number < 0;
    },
  };
  for (const name of names) {
    const button = el(
      "button",
      {
        type: "button", class: "aa-tab", role: "tab", id: `${prefix}-${name}`, "aria-controls": `${prefix}-panel`,
        onclick: () => tabs.show(name),
        onkeydown: (event: KeyboardEvent) => {
          const to = tabAt(names, name, event.key);
          if (to === null) return;
          event.preventDefault();
          event.stopPropagation();
          tabs.show(to, true);
        },
      },
      titles[name], el("b", { hidden: true }),
    );
    buttons.set(name, button);
    bar.append(button);
  }
  return tabs;
}

/** Make a text that is read whole or copied at a click; `what` names it to who does not see it. */
export function copyable(text: string, what: string): HTMLElement {
  const code = el("pre", { class: "aa-code", tabindex: 0, role: "region", "aria-label": what }, ...shown(text));
  const button = el("button", { type: "button", class: "aa-button aa-small aa-copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", () => {
    const done = (word: string) => {
      button.textContent = word;
      button.setAttribute("aria-label", `${word} ${what}`);
    };
    // A page that was not loaded over TLS has no clipboard: then the text is chosen, to be copied.
    const choose = () => {
      const range = document.createRange();
      range.selectNodeContents(code);
      const chosen = document.getSelection();
      chosen?.removeAllRanges();
      chosen?.addRange(range);
      done("Press Ctrl+C");
    };
    if (!navigator.clipboard) choose();
    else navigator.clipboard.writeText(text).then(() => done("Copied"), choose);
  });
  return el("div", { class: "aa-copyable" }, code, button);
}

/** Make a term with its value, for a list of facts. */
export function fact(term: string, ...value: (Node | string)[]): HTMLElement {
  return el("div", { class: "aa-fact" }, el("dt", {}, term), el("dd", {}, ...value));
}

/** Make a table of `rows` under `headings`; a heading that begins with # is of numbers. */
export function table(label: string, headings: readonly string[], rows: readonly (readonly (Node | string)[])[]): HTMLElement {
  const isNumber = headings.map((heading) => heading.startsWith("#"));
  const cell = (content: Node | string, at: number) => el("td", { class: isNumber[at] ? "aa-num" : null }, content);
  return el(
    "div", { class: "aa-scroller", tabindex: 0, role: "region", "aria-label": label },
    el(
      "table", { class: "aa-table" },
      el("thead", {}, el("tr", {}, ...headings.map((heading, at) =>
        el("th", { scope: "col", class: isNumber[at] ? "aa-num" : null }, heading.replace(/^#/, ""))))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell)))),
    ),
  );
}
