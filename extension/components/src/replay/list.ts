/** The list of commands, of which only what is in view is drawn, and asked for. */

import { el, shown } from "../dom.ts";
import { listWindow } from "../list-window.ts";
import { elapsed } from "../units.ts";
import { remember, type Ask, type Lifetime } from "../view.ts";
import type { ReplayAnswers, Summary } from "./answers.ts";
import type { Scene } from "./clock.ts";
import { classOf, fateOf, nth, numberOf, spanAt, startOf, statusOf, undone } from "./commands.ts";

const ROW_HEIGHT = 46;
const PAGE_ROWS = 60;
const KEPT_ROWS = 5_000;
const MORE_ROWS = 4; // above and below what is in view

export interface CommandList {
  readonly element: HTMLElement;
  draw(scene: Scene, place: number): void;
  /** The same, scrolled as little as shows `place`. */
  show(scene: Scene, place: number): void;
  /** What is known of a command, once its row was in view. */
  summary(number: number): Summary | undefined;
  forget(number: number): void;
}

export function commandList(options: {
  prefix: string;
  ask: Ask<ReplayAnswers>;
  lifetime: Lifetime;
  onPick: (place: number) => void;
  complain: (error: unknown) => void;
}): CommandList {
  const { prefix, lifetime } = options;
  const spacer = el("div", { class: "aa-spacer" });
  const list = el(
    "div",
    { class: "aa-list", role: "listbox", tabindex: 0, "aria-label": "Commands", id: `${prefix}-list` },
    spacer,
  );
  const inView = listWindow(list, spacer, ROW_HEIGHT);
  const summaries = new Map<number, Summary>();
  let drawn: { scene: Scene; place: number } | null = null;
  let isFetching = false;
  let frame = 0;

  lifetime.listen(list, "scroll", () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(redraw);
  });
  lifetime.onEnd(() => cancelAnimationFrame(frame));

  function redraw(): void {
    if (!drawn) return;
    const { scene, place } = drawn;
    const { index, view } = scene;
    inView.resize(view.length);
    const { from, to, down } = inView.range(MORE_ROWS);
    const rows: HTMLElement[] = [];
    const missing: number[] = [];
    for (let i = from; i < to; i += 1) {
      const number = numberOf(index, nth(view, i));
      if (!summaries.has(number)) missing.push(number);
      const node = row(scene, i, i === place);
      node.style.top = `${down(i)}px`;
      rows.push(node);
    }
    if (!view.length && index.length) rows.push(el("div", { class: "aa-empty" }, "nothing matches the filter"));
    spacer.replaceChildren(...rows);
    if (place >= 0) list.setAttribute("aria-activedescendant", `${prefix}-row-${nth(view, place)}`);
    else list.removeAttribute("aria-activedescendant");
    if (missing.length) void fetchRows(missing);
  }

  async function fetchRows(numbers: number[]): Promise<void> {
    if (isFetching) return;
    isFetching = true;
    try {
      const { data } = await options.ask("page", { numbers: numbers.slice(0, PAGE_ROWS) });
      for (const summary of data.rows) remember(summaries, summary.command_no, summary, KEPT_ROWS);
    } catch (error) {
      options.complain(error);
      return;
    } finally {
      isFetching = false;
    }
    if (!lifetime.isOver) redraw();
  }

  function row({ index, view, spans }: Scene, i: number, isCurrent: boolean): HTMLElement {
    const position = nth(view, i);
    const number = numberOf(index, position);
    const cls = classOf(index, position);
    const status = statusOf(index, position);
    const summary = summaries.get(number);
    const span = spanAt(spans, i);
    const bracket = ["aa-txn"];
    if (span?.from === i) bracket.push("aa-txn-from");
    if (span?.to === i) bracket.push("aa-txn-to");
    if (span) bracket.push(`aa-txn-${span.fate.replace(" ", "-")}`);
    const problem = summary?.error_code ? `${status} ${summary.error_code}` : status;
    return el(
      "div",
      {
        class: `aa-row${isCurrent ? " aa-current" : ""}${status === "ok" ? "" : " aa-notok"}`,
        role: "option", id: `${prefix}-row-${position}`,
        "aria-selected": isCurrent ? "true" : "false", "aria-posinset": i + 1, "aria-setsize": view.length,
        onclick: () => options.onPick(i),
      },
      el("span", { class: span ? bracket.join(" ") : "aa-txn-none", title: span ? `transaction ${span.txn}, ${span.fate}` : null }),
      el("span", { class: `aa-bar aa-class-${cls}` }),
      el(
        "div", { class: "aa-row-text" },
        el(
          "div", { class: "aa-row-top" },
          el("span", { class: "aa-no" }, `#${number}`),
          el("span", { class: `aa-op aa-class-${cls}` }, ...(summary ? shown(summary.operation || cls) : ["…"])),
          status === "ok" ? null : el("span", { class: `aa-mark aa-status-${status}` }, ...shown(problem)),
          summary && status === "ok" && summary.rows !== null ? el("span", { class: "aa-rows" }, summary.rows_label) : null,
          undone(index, position) ? el("span", { class: "aa-undone" }, fateOf(index, position)) : null,
          el("span", { class: "aa-grow" }),
          el("span", { class: "aa-when" }, elapsed(startOf(index, position))),
        ),
        el("div", { class: "aa-row-sql" }, ...(summary ? shown(summary.text ?? "") : [])),
      ),
    );
  }

  return {
    element: list,
    draw(scene, place) {
      drawn = { scene, place };
      redraw();
    },
    show(scene, place) {
      drawn = { scene, place };
      inView.resize(scene.view.length);
      if (place >= 0) inView.reveal(place);
      redraw();
    },
    summary: (number) => summaries.get(number),
    forget: (number) => void summaries.delete(number),
  };
}
