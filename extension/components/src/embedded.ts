/**
 * The third carrier of questions: a page that has the answers in it, as an evidence report does.
 *
 * A `Replay` is made by agentaudit.analysis.report.replays. It has what a kernel would be asked for,
 * whole, so it is answered here as the kernel answers: pages of the list, one command, its rows.
 */

import { Refused, type Answer, type Source } from "./channel.ts";
import type { ResultPage } from "./grid.ts";
import type { CommandFacts, ReplayAnswers, Seen, SessionFacts, Summary, TerminalFacts } from "./replay/answers.ts";
import { buffersOf } from "./replay/commands.ts";
import { after, emptyScreen, textOf, type Frame } from "./replay/film.ts";
import { counted } from "./units.ts";

export const VERSION = 1;

// What the kernel sends of a text at first (widgets/replay.py).
const STATEMENT_CHARACTERS = 8_000;
const CELL_CHARACTERS = 300;
const LINE_CHARACTERS = 240;
const MAX_SEEN = 200;

/** A command with all that is here of its text, and the rows of its result that are. */
export interface CarriedCommand extends Omit<CommandFacts, "text_more"> {
  result?: Pick<ResultPage, "columns" | "rows">;
  terminal?: CarriedTerminal;
}

/** A terminal with all of its frames, page by page. */
export interface CarriedTerminal extends TerminalFacts {
  times: number[];
  pages: Frame[][];
}

/** A session that can be played: its commands in their order, or the ones of them that were chosen. */
export interface Replay {
  v: number;
  session: SessionFacts;
  events: number;
  /** The columns of the index, in the order of the answer's buffers; null is NaN. */
  index: (number | null)[][];
  commands: CarriedCommand[];
}

/** Answer a replay's questions from what is carried. */
export function embedded(replay: Replay): Source {
  const numbered = new Map(replay.commands.map((command) => [command.command_no, command]));

  function carried(number: unknown): CarriedCommand {
    const command = numbered.get(number as number);
    if (!command) throw new Refused(`command ${String(number)} is not in this report`);
    return command;
  }

  function rowsOf(number: unknown): Pick<ResultPage, "columns" | "rows"> {
    const { result } = carried(number);
    if (!result) throw new Refused("its rows are not in this report");
    return result;
  }

  function terminalOf(number: unknown): CarriedTerminal {
    const { terminal } = carried(number);
    if (!terminal) throw new Refused("its terminal is not in this report");
    return terminal;
  }

  const answers: { [Op in keyof ReplayAnswers]: (args: Record<string, unknown>) => Answer<ReplayAnswers[Op]> } = {
    open: () => plain({ session: replay.session, total: replay.commands.length, events: replay.events }),
    index({ offset, limit }) {
      const from = Number(offset);
      const columns = replay.index.map((column) => column.slice(from, from + Number(limit)));
      return { data: { offset: from, count: columns[0]?.length ?? 0 }, buffers: buffersOf(columns) };
    },
    page({ numbers }) {
      const asked = new Set(numbers as number[]);
      return plain({ rows: replay.commands.filter(({ command_no }) => asked.has(command_no)).map(summary) });
    },
    find({ text }) {
      const wanted = String(text).toLowerCase();
      const found = replay.commands.filter((command) => searched(command).toLowerCase().includes(wanted));
      const numbers = Int32Array.from(found, ({ command_no }) => command_no);
      return { data: { count: numbers.length }, buffers: [new DataView(numbers.buffer)] };
    },
    command({ command_no }) {
      const { result: _, terminal: __, ...command } = carried(command_no);
      const text = beginning(command.text, STATEMENT_CHARACTERS);
      return plain({ ...command, text, text_more: command.text.length - text.length });
    },
    statement: ({ command_no }) => plain({ text: carried(command_no).text, more: 0 }),
    result({ command_no, offset, limit }) {
      const { columns, rows } = rowsOf(command_no);
      const from = Number(offset);
      const page = rows.slice(from, from + Number(limit));
      const whole = carried(command_no).rows_returned ?? rows.length;
      return plain({
        columns,
        rows: page.map((row) => row.map(brief)),
        total: rows.length,
        is_limited: whole > rows.length,
      });
    },
    cell({ command_no, row, column }) {
      const cell = rowsOf(command_no).rows[Number(row)]?.[Number(column)] ?? "";
      if (typeof cell === "string") return plain({ text: cell, more: 0 });
      return plain({ text: cell.text, more: cell.length - [...cell.text].length });
    },
    terminal({ command_no }) {
      const { times, pages: _, ...facts } = terminalOf(command_no);
      return { data: facts, buffers: [new DataView(Int32Array.from(times).buffer)] };
    },
    frames({ command_no, page }) {
      const frames = terminalOf(command_no).pages[Number(page)];
      if (!frames) throw new Refused("this part of the terminal is not in this report");
      return plain({ frames });
    },
    seen: ({ command_no, text }) => plain(seen(terminalOf(command_no), String(text).toLowerCase())),
  };

  return {
    request: async <Data>(op: string, args: Record<string, unknown> = {}) => {
      if (!Object.hasOwn(answers, op)) throw new Refused(`${op}: a report has no answer to that`);
      return answers[op as keyof ReplayAnswers](args) as Answer<unknown> as Answer<Data>;
    },
  };
}

const plain = <Data>(data: Data): Answer<Data> => ({ data, buffers: [] });

function summary(command: CarriedCommand): Summary {
  const { command_no, operation, error_code, rows_returned, rows_affected } = command;
  const rows = rows_returned ?? rows_affected;
  return {
    command_no,
    operation,
    text: beginning(command.text, LINE_CHARACTERS).replace(/(?:\r\n|[ \t\n])+/g, " "),
    error_code,
    rows,
    ...(rows === null ? {} : { rows_label: counted(rows, "row") + (rows_returned === null ? " changed" : "") }),
  };
}

/** All of a command that a text may be found in. */
function searched(command: CarriedCommand): string {
  const { text, operation, error_code, error_text, params, resources, result } = command;
  const columns = result?.columns.map(({ name }) => name) ?? [];
  return [text, operation, error_code, error_text, ...(params ?? []), ...resources, ...columns].join("\n");
}

/** A long cell as its beginning and how long it is, as the kernel gives it. */
function brief(cell: ResultPage["rows"][number][number]): typeof cell {
  if (cell === null || (typeof cell === "string" && cell.length <= CELL_CHARACTERS)) return cell;
  const whole = typeof cell === "string" ? { text: cell, length: [...cell].length } : cell;
  return { text: beginning(whole.text, CELL_CHARACTERS), length: whole.length };
}

/** The first characters of a text; a pair of surrogates is never cut. */
function beginning(text: string, characters: number): string {
  if (text.length <= characters) return text;
  const isCutInTwo = /[\ud800-\udbff]/.test(text.charAt(characters - 1));
  return text.slice(0, isCutInTwo ? characters - 1 : characters);
}

/** Find the rows in which a text stood. */
function seen(terminal: CarriedTerminal, text: string): ReplayAnswers["seen"] {
  const hits = new Map<string, Seen>();
  let now = emptyScreen(terminal.columns, terminal.rows);
  let standing = new Map<string, Seen>();
  for (const [place, frame] of terminal.pages.flat().entries()) {
    const ms = terminal.times[place] ?? 0;
    for (const hit of standing.values()) hit.last_ms = ms;
    now = after(now, frame);
    standing = new Map();
    for (const row of now.rows.map(textOf)) {
      if (!row.toLowerCase().includes(text)) continue;
      let hit = hits.get(row);
      if (!hit && hits.size < MAX_SEEN) hits.set(row, (hit = { first_ms: ms, last_ms: ms, text: row }));
      if (hit) standing.set(row, hit);
    }
  }
  for (const hit of standing.values()) hit.last_ms = terminal.duration_ms;
  return { hits: [...hits.values()], is_cut: hits.size === MAX_SEEN };
}
