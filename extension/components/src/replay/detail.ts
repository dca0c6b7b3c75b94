/** One command: what was asked and decided, what came back, and its rows by pages. */

import { arrange, el, highlighted, shown } from "../dom.ts";
import { resultTable, turns } from "../grid.ts";
import { bytes, count, counted, duration, elapsed, moment } from "../units.ts";
import { messageOf, remember, replaceKeepingFocus, type Ask, type Lifetime } from "../view.ts";
import type { CommandFacts, ReplayAnswers, SessionFacts } from "./answers.ts";
import { changes, fateOf, numberOf, type Fate, type Index } from "./commands.ts";
import { terminal, type Terminal } from "./terminal.ts";

const RESULT_ROWS = 50;
const KEPT_COMMANDS = 200;
const COPIED_MS = 1_200;

/** A command as it stands in the session: where, and whether it still runs in playing time. */
export interface Moment {
  session: SessionFacts;
  index: Index;
  position: number;
  isRunning: boolean;
  /** Where in it the playing time is, in microseconds. */
  offset: number;
}

export interface CommandDetail {
  readonly element: HTMLElement;
  /** Draw a command; resolves to it, or to null where another overtook it or it cannot be read. */
  show(moment: Moment): Promise<CommandFacts | null>;
  showNothing(why: string): void;
  forget(number: number): void;
  /** Whether what is shown has a time of its own in it: a terminal. */
  readonly isTimed: boolean;
  /** Show it as it was so many microseconds behind its beginning. */
  at(offset: number): void;
  /** How long nothing changes in it from there on, in microseconds. */
  quietFrom(offset: number): number;
}

export function commandDetail(options: {
  ask: Ask<ReplayAnswers>;
  lifetime: Lifetime;
  complain: (error: unknown) => void;
  /** Hears of a time in the command that somebody chose, in microseconds. */
  onSeek: (offset: number) => void;
}): CommandDetail {
  const { ask, lifetime, complain } = options;
  const detail = el("section", { class: "aa-detail", "aria-label": "Command", tabindex: -1 });
  const known = new Map<number, CommandFacts>();
  let drawings = 0;
  let shownNumber = -1;
  let screen: Terminal | null = null;

  /** The screen of a command, the same while that is shown; of one without a terminal, none. */
  function screenOf(command: CommandFacts): Terminal | null {
    const number = command.command_no;
    if (number !== shownNumber || command.has_terminal !== (screen !== null)) {
      screen = command.has_terminal ? terminal({ number, ask, lifetime, complain, onSeek: options.onSeek }) : null;
    } else if (command.ended_at === null) screen?.refresh();
    return screen;
  }

  async function show(now: Moment): Promise<CommandFacts | null> {
    drawings += 1;
    const mine = drawings;
    const number = numberOf(now.index, now.position);
    let command = known.get(number);
    if (!command) {
      detail.classList.add("aa-waiting");
      try {
        command = (await ask("command", { command_no: number })).data;
      } catch (error) {
        complain(error);
        return null;
      }
      if (command.ended_at !== null) remember(known, number, command, KEPT_COMMANDS);
      if (mine !== drawings || lifetime.isOver) return null; // the reader has moved on
    }
    detail.classList.remove("aa-waiting");
    screen = screenOf(command);
    // A screen stays where it is: somebody may hold its slider.
    arrange(detail, parts(command, now));
    if (number !== shownNumber) detail.scrollTop = 0;
    shownNumber = number;
    screen?.at(now.isRunning ? now.offset : Infinity);
    if (!now.isRunning && command.returns_rows) void drawResult(command, mine, 0);
    return command;
  }

  function parts(command: CommandFacts, now: Moment): HTMLElement[] {
    const { isRunning } = now;
    const found = [top(command, now), facts(command, now)];
    if (command.text || !screen) found.push(statement(command)); // a shell is asked for without a word
    if (screen) found.push(screen.element);
    if (command.params) found.push(parameters(command.params));
    if (!isRunning && (command.error_text || command.error_code)) {
      found.push(
        el(
          "div", { class: "aa-error", role: "group", "aria-label": "Error" },
          el("b", {}, ...shown(command.error_code ? `${command.status} ${command.error_code}` : command.status)),
          el("span", {}, ...shown(command.error_text || "")),
        ),
      );
    }
    if (!isRunning && command.returns_rows) {
      found.push(el("div", { class: "aa-result", "aria-busy": "true" }, el("p", { class: "aa-note" }, "reading the recorded result…")));
    }
    if (command.cut) found.push(el("p", { class: "aa-note" }, ...shown(command.cut)));
    return found;
  }

  function top(command: CommandFacts, { session, index, position, isRunning }: Moment): HTMLElement {
    const badge = (text: string, kind: string, title: string | null = null) =>
      el("span", { class: `aa-badge ${kind}`, title }, ...shown(text));
    const fate = changes(index, position) ? fateOf(index, position) : "";
    return el(
      "div", { class: "aa-detail-top" },
      el("span", { class: "aa-detail-no" }, `#${command.command_no}`),
      badge(command.operation || "unknown", `aa-class-${command.cls} aa-strong`),
      badge(command.cls, `aa-class-${command.cls}`, command.confidence === "certain" ? "what it does, certain" : "what it does, as far as it can be known"),
      isRunning ? badge("running…", "aa-running") : badge(command.status, `aa-status-${command.status}`),
      ...(isRunning ? [] : transactionBadges(command, fate)),
      badge(
        command.rule && command.rule !== "none" ? `${command.decision}: ${command.rule}` : command.decision,
        `aa-decision-${command.decision}`, "the gateway's decision, and the rule that made it",
      ),
      command.masked ? badge(`${command.masked} masked`, "aa-masked") : null,
      ...command.risk.map((name) => badge(name, "aa-warn", "risk")),
      el("span", { class: "aa-grow" }),
      el("button", {
        type: "button", class: "aa-button aa-calm", title: "Copy the Python that gives this command",
        onclick: (event: MouseEvent) =>
          void copy(event.currentTarget as HTMLElement, `case.session("${session.id}").command(${command.command_no})`),
      }, "copy Python"),
    );
  }

  function facts(command: CommandFacts, { session, isRunning }: Moment): HTMLElement {
    const fact = (label: string, value: string) =>
      el("div", { class: "aa-fact" }, el("dt", {}, label), el("dd", {}, ...shown(value)));
    const ended = isRunning ? [] : [
      fact("took", duration(command.duration_us)),
      command.rows_returned === null ? null : fact("returned", counted(command.rows_returned, "row")),
      command.rows_affected === null ? null : fact("changed", counted(command.rows_affected, "row")),
    ];
    return el(
      "dl", { class: "aa-facts aa-command-facts" },
      fact("started", `${moment(command.started_at)}  ${elapsed(command.started_at - session.opened_at)}`),
      ...ended,
      fact("bytes", `${bytes(command.bytes_in)} in, ${bytes(command.bytes_out)} out`),
      command.resources.length ? fact("objects", command.resources.join(", ")) : null,
      fact("events", `${command.first_event_no} – ${command.last_event_no}`),
    );
  }

  function statement(command: CommandFacts): HTMLElement {
    const code = el("code", {}, ...highlighted(command.text));
    const box = el("pre", { class: "aa-statement aa-scroll", tabindex: 0, "aria-label": "Statement" }, code);
    if (!command.text_more) return box;
    const more = el(
      "button",
      {
        type: "button", class: "aa-button aa-calm aa-more",
        onclick: async () => {
          try {
            const { data } = await ask("statement", { command_no: command.command_no });
            code.replaceChildren(...highlighted(data.text));
            more.remove();
            box.focus({ preventScroll: true });
            if (data.more) box.after(el("p", { class: "aa-note" }, `… ${count(data.more)} characters more: session.statement(${command.command_no})`));
          } catch (error) {
            complain(error);
          }
        },
      },
      `show all ${count(command.text.length + command.text_more)} characters`,
    );
    return el("div", {}, box, more);
  }

  async function drawResult(command: CommandFacts, mine: number, offset: number): Promise<void> {
    const box = () => detail.querySelector<HTMLElement>(".aa-result");
    let page: ReplayAnswers["result"];
    try {
      page = (await ask("result", { command_no: command.command_no, offset, limit: RESULT_ROWS })).data;
    } catch (error) {
      if (mine !== drawings) return;
      box()?.setAttribute("aria-busy", "false");
      box()?.replaceChildren(el("p", { class: "aa-note" }, "this result cannot be read: ", ...shown(messageOf(error))));
      return;
    }
    const into = box();
    if (mine !== drawings || lifetime.isOver || !into) return;
    into.setAttribute("aria-busy", "false");
    const cell = el("pre", { class: "aa-cell aa-scroll", tabindex: 0, hidden: true });
    const openCell = async (row: number, column: number, name: string) => {
      try {
        const { data } = await ask("cell", { command_no: command.command_no, row, column });
        cell.replaceChildren(
          el("b", {}, ...shown(`${name}, row ${count(row + 1)}`), "\n"), ...shown(data.text),
          data.more ? `\n… ${count(data.more)} characters more` : "",
        );
        cell.hidden = false;
        cell.scrollIntoView({ block: "nearest" });
      } catch (error) {
        complain(error);
      }
    };
    const table = resultTable(page, offset, `Result of command ${command.command_no}`, (row, column, name) => void openCell(row, column, name));
    const grid = el("div", { class: "aa-grid", tabindex: 0, role: "group", "aria-label": "Result rows" }, table);
    const turn = (to: number) => void drawResult(command, mine, to);
    replaceKeepingFocus(
      into, () => grid,
      el(
        "div", { class: "aa-grid-top" },
        el("b", {}, "Result"),
        el("span", { class: "aa-range" }, rangeOf(command, page, offset)),
        el("span", { class: "aa-grow" }),
        ...(page.total > RESULT_ROWS ? turns({ offset, total: page.total }, RESULT_ROWS, turn, "rows") : []),
      ),
      grid,
      cell,
    );
  }

  return {
    element: detail,
    show,
    showNothing(why) {
      drawings += 1;
      shownNumber = -1;
      screen = null;
      detail.replaceChildren(el("p", { class: "aa-empty" }, why));
    },
    forget: (number) => void known.delete(number),
    get isTimed() {
      return screen !== null;
    },
    at: (offset) => screen?.at(offset),
    quietFrom: (offset) => screen?.quietFrom(offset) ?? 0,
  };
}

function transactionBadges(command: CommandFacts, fate: Fate): HTMLElement[] {
  const badges: HTMLElement[] = [];
  if (command.txn_status === "E") {
    badges.push(el("span", { class: "aa-badge aa-status-error", title: "the server refuses all until ROLLBACK" }, "failed transaction"));
  } else if (command.txn_status === "T") {
    badges.push(el("span", { class: "aa-badge", title: "the server's state after it" }, `in transaction ${command.txn_no ?? ""}`));
  }
  if (fate) {
    badges.push(el("span", { class: `aa-badge ${fate === "committed" ? "aa-kept" : "aa-undone"}`, title: "what became of its transaction" }, fate));
  }
  return badges;
}

function parameters(params: readonly (string | null)[]): HTMLElement {
  return el(
    "div", { class: "aa-params", role: "group", "aria-label": "Parameters" },
    ...params.map((value, i) =>
      el("div", { class: "aa-param" }, el("span", { class: "aa-sql-parameter" }, `$${i + 1}`),
        value === null ? el("i", { class: "aa-null" }, "NULL") : el("code", {}, ...shown(value)))),
  );
}

function rangeOf(command: CommandFacts, page: ReplayAnswers["result"], offset: number): string {
  if (!page.total) return "no rows";
  const whole = command.rows_returned ?? page.total;
  const are = command.cut && !page.is_limited ? "kept" : "shown here";
  const limited = whole > page.total ? `; the first ${count(page.total)} of ${count(whole)} are ${are}` : "";
  return `rows ${count(offset + 1)}–${count(offset + page.rows.length)} of ${count(page.total)}${limited}`;
}

async function copy(node: HTMLElement, text: string): Promise<void> {
  const label = node.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    node.textContent = text; // no clipboard here (plain http): show it instead, to be selected
    return;
  }
  node.textContent = "copied";
  setTimeout(() => (node.textContent = label), COPIED_MS);
}
