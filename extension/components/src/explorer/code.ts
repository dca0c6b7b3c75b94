/** What a filter stands for, as SQL and as Python: to be read, copied and built upon. */

import { type Source } from "../channel.ts";
import { el, highlighted, shown } from "../dom.ts";
import type { Scope } from "./scope.ts";

export interface CodeView {
  readonly element: HTMLElement;
  /** Say that it may be wanted now: while it was not, nothing was asked. */
  refresh(): void;
  dispose(): void;
}

export function code(
  source: Source, scope: Scope, complain: (error: unknown) => void, isWanted: () => boolean = () => true,
): CodeView {
  const python = el("code", {});
  const sql = el("code", {});
  // What is shown has controls written out; what is copied has not.
  let told = { sql: "", python: "" };
  const element = el(
    "section", { class: "aa-code", "aria-label": "What the filter stands for" },
    part("Python", python, () => told.python),
    part("SQL", sql, () => told.sql),
  );
  let asked = 0;
  let isOld = true;

  async function refresh(): Promise<void> {
    if (!isOld || !isWanted()) return;
    isOld = false;
    asked += 1;
    const mine = asked;
    try {
      const { data } = await source.request<{ sql: string; python: string }>("code", { filter: scope.filter });
      if (mine !== asked) return;
      told = data;
      python.replaceChildren(...shown(data.python));
      sql.replaceChildren(...highlighted(data.sql));
    } catch (error) {
      isOld = true;
      complain(error);
    }
  }

  const unhear = scope.hear((change) => {
    if (change !== "filter") return;
    isOld = true;
    void refresh();
  });
  void refresh();
  return {
    element,
    refresh: () => void refresh(),
    dispose() {
      asked = -1;
      unhear();
    },
  };
}

function part(title: string, text: HTMLElement, copied: () => string): HTMLElement {
  return el(
    "div", { class: "aa-code-part" },
    el("div", { class: "aa-code-top" }, el("b", {}, title), el("span", { class: "aa-grow" }),
      el("button", {
        type: "button", class: "aa-button aa-calm", "aria-label": `Copy the ${title}`,
        onclick: async (event: MouseEvent) => {
          const button = event.currentTarget as HTMLElement;
          try {
            await navigator.clipboard.writeText(copied());
            button.textContent = "copied";
          } catch {
            button.textContent = "select it to copy"; // no clipboard here: plain http
          }
          setTimeout(() => (button.textContent = "copy"), 1_500);
        },
      }, "copy")),
    el("pre", { class: "aa-x-code", tabindex: 0, "aria-label": title }, text),
  );
}
