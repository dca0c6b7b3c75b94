/** The screen of a command's terminal as a person saw it, at a time; with what stood there to be found. */

import { values } from "../channel.ts";
import { el, shown } from "../dom.ts";
import { count, elapsed } from "../units.ts";
import { remember, type Ask, type Lifetime } from "../view.ts";
import type { ReplayAnswers } from "./answers.ts";
import { after, classesOf, emptyScreen, frameAt, HIDDEN, MASKED, OURS, WIDE, type Frame, type Screen, type Stretch } from "./film.ts";

const KEPT_PAGES = 8;
const US = 1_000;

export interface Terminal {
  readonly element: HTMLElement;
  /** Show the screen as it was so many microseconds behind the beginning of the command. */
  at(offset: number): void;
  /** How long nothing changes from a time on, in microseconds; 0 where that is not known. */
  quietFrom(offset: number): number;
  /** Ask again how much there is: the command has gone on. */
  refresh(): void;
}

export function terminal(options: {
  number: number;
  ask: Ask<ReplayAnswers>;
  lifetime: Lifetime;
  complain: (error: unknown) => void;
  /** Hears of a time that somebody chose, in microseconds. */
  onSeek: (offset: number) => void;
}): Terminal {
  const { number, ask, lifetime, complain } = options;
  let facts: ReplayAnswers["terminal"] | null = null;
  let times: Int32Array = new Int32Array(0);
  let wanted = Infinity; // microseconds
  let drawn = -2; // the number of the frame that is drawn
  let painted: Screen = emptyScreen(0, 0);
  const pages = new Map<number, Frame[]>();
  const asked = new Set<number>();

  const kind = el("span", { class: "aa-quiet" });
  const clock = el("output", { class: "aa-clock", "aria-label": "Time on the terminal" }, elapsed(0));
  const slider = el("input", {
    type: "range", class: "aa-t-slider", min: 0, max: 0, step: 1, value: 0, "aria-label": "Time on the terminal",
    oninput: () => options.onSeek(Number(slider.value) * US),
  });
  const field = el("input", {
    type: "search", class: "aa-field aa-t-field", placeholder: "find on the screen", "aria-label": "Find on the screen",
    onkeydown: (event: KeyboardEvent) => {
      if (event.key !== "Enter") return;
      event.stopPropagation();
      void find();
    },
  });
  const found = el("div", { class: "aa-t-found", hidden: true });
  const lines = el("div", { class: "aa-t-lines" });
  const screen = el(
    "div", { class: "aa-t-screen aa-scroll", tabindex: 0, role: "group", "aria-label": "Screen of the terminal", "aria-busy": "true" }, lines,
  );
  const note = el("p", { class: "aa-note", hidden: true });
  const element = el(
    "section", { class: "aa-terminal", "aria-label": "Terminal" },
    el("div", { class: "aa-grid-top" }, el("b", {}, "Terminal"), kind, el("span", { class: "aa-grow" }), clock, field),
    screen, slider, note, found,
  );

  async function load(): Promise<void> {
    const { data, buffers } = await ask("terminal", { command_no: number });
    if (lifetime.isOver) return;
    facts = data;
    times = values<Int32Array>(Int32Array, buffers[0]);
    slider.max = String(Math.max(1, data.duration_ms));
    pages.delete(Math.floor((times.length - 1) / data.page_frames)); // it may have gone on
    asked.clear();
    drawn = -2;
    note.hidden = !data.left_out;
    note.replaceChildren(...shown(data.left_out ?? ""));
    draw();
  }

  function draw(): void {
    if (!facts) return;
    const ms = Math.min(wanted / US, facts.duration_ms);
    slider.value = String(Math.round(ms));
    clock.textContent = elapsed(ms * US);
    slider.setAttribute("aria-valuetext", clock.textContent);
    const to = frameAt(times, ms);
    if (to === drawn) return;
    if (to < 0) return paint(emptyScreen(facts.columns, facts.rows), to);
    const page = Math.floor(to / facts.page_frames);
    const frames = pages.get(page);
    if (!frames) return void fetchPage(page);
    const first = page * facts.page_frames;
    const goesOn = drawn >= first && drawn < to;
    let now = goesOn ? painted : emptyScreen(facts.columns, facts.rows);
    for (const frame of frames.slice(goesOn ? drawn + 1 - first : 0, to + 1 - first)) now = after(now, frame);
    paint(now, to);
    // While it plays, the page that comes next is there in time.
    if (to - first > facts.page_frames / 2 && first + facts.page_frames < times.length) void fetchPage(page + 1);
  }

  async function fetchPage(page: number): Promise<void> {
    if (pages.has(page) || asked.has(page)) return;
    asked.add(page);
    screen.setAttribute("aria-busy", "true");
    try {
      const { data } = await ask("frames", { command_no: number, page });
      remember(pages, page, data.frames, KEPT_PAGES);
    } catch (error) {
      complain(error); // and it stays asked for: at each frame that is played it would fail again
      return;
    }
    asked.delete(page);
    if (!lifetime.isOver) draw();
  }

  function paint(now: Screen, to: number): void {
    const before = painted;
    const isOther = drawn === -2 || before.columns !== now.columns || before.rows.length !== now.rows.length;
    if (isOther) {
      lines.replaceChildren(...now.rows.map(() => el("div", { class: "aa-t-line" })));
      lines.style.width = `${now.columns}ch`;
      kind.replaceChildren(...shown(`${facts?.kind || "of no name"}, ${now.columns}×${now.rows.length}`));
    }
    const [cursorRow] = now.cursor ?? [-1];
    const [cursorBefore] = before.cursor ?? [-1];
    for (const [row, stretches] of now.rows.entries()) {
      if (!isOther && before.rows[row] === stretches && row !== cursorRow && row !== cursorBefore) continue;
      lines.children[row]?.replaceChildren(...nodes(stretches, row === cursorRow ? (now.cursor?.[1] ?? -1) : -1));
    }
    painted = now;
    drawn = to;
    screen.setAttribute("aria-busy", "false");
  }

  async function find(): Promise<void> {
    const text = field.value;
    if (!text) {
      found.hidden = true;
      return;
    }
    found.hidden = false;
    found.replaceChildren(el("p", { class: "aa-note" }, "looking…"));
    try {
      const { data } = await ask("seen", { command_no: number, text });
      const hits = data.hits.map(({ first_ms, last_ms, text: row }) =>
        el(
          "button",
          { type: "button", class: "aa-t-hit", title: `until ${elapsed(last_ms * US)}`, onclick: () => options.onSeek(first_ms * US) },
          el("span", { class: "aa-clock" }, elapsed(first_ms * US)), " ", ...shown(row),
        ),
      );
      const said = data.hits.length ? `${count(data.hits.length)}${data.is_cut ? " and more" : ""}` : "never";
      found.replaceChildren(el("p", { class: "aa-note", role: "status" }, `stood on the screen: ${said}`), ...hits);
      found.scrollIntoView({ block: "nearest" });
    } catch (error) {
      found.hidden = true;
      complain(error);
    }
  }

  load().catch(complain);

  return {
    element,
    at(offset) {
      wanted = offset;
      draw();
    },
    quietFrom(offset) {
      if (!facts) return 0;
      const next = times[frameAt(times, offset / US) + 1] ?? facts.duration_ms;
      return Math.max(0, next * US - offset);
    },
    refresh: () => void load().catch(complain),
  };
}

/** A row as nodes, with the cursor in a column of it. */
function nodes(stretches: readonly Stretch[], cursor: number): Node[] {
  const made: (Node | string)[] = [];
  let column = 0;
  for (const stretch of stretches) {
    const [text, look] = typeof stretch === "string" ? [stretch, 0] : stretch;
    const wide = look & WIDE ? 2 : 1;
    const characters = [...text];
    const at = cursor < 0 ? -1 : Math.floor((cursor - column) / wide);
    if (at >= 0 && at < characters.length) {
      made.push(...piece(characters.slice(0, at), look), el("span", { class: "aa-t-cursor" }, ...piece(characters.slice(at, at + 1), look)));
      made.push(...piece(characters.slice(at + 1), look));
      cursor = -1;
    } else made.push(...piece(characters, look));
    column += characters.length * wide;
  }
  if (cursor >= column) made.push(" ".repeat(cursor - column), el("span", { class: "aa-t-cursor" }, " "));
  // A row without a word has the height of one.
  return (made.length ? made : [" "]).map((node) => (typeof node === "string" ? document.createTextNode(node) : node));
}

function piece(characters: readonly string[], look: number): Node[] {
  if (!characters.length) return [];
  const words = look & WIDE
    ? characters.map((each) => el("span", { class: "aa-t-cell" }, ...shown(each)))
    : shown(characters.join(""));
  if (!look) return words;
  const title = look & MASKED ? "hidden by a mask" : look & OURS ? "said by the gateway itself" : look & HIDDEN ? "the terminal was told not to show this" : null;
  return [el("span", { class: classesOf(look), title }, ...words)];
}
