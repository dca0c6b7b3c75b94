/**
 * Commands over time, in lanes: densities from afar, single commands from near.
 *
 * The kernel counts; a question asks for three times the stretch that is seen, so that small moves are
 * drawn from what is there. What was drawn moves at once, and what is asked for replaces it when it
 * comes. The gravest of what shares a pixel is what shows.
 */

import { slice, type Slice } from "../arrow.ts";
import { ticks } from "../axis.ts";
import { fitted, palette } from "../canvas.ts";
import type { Source } from "../channel.ts";
import { el, icon, shown } from "../dom.ts";
import { flat, plain } from "../text.ts";
import { count, counted, duration, moment } from "../units.ts";
import { measured } from "../measured.ts";
import type { CommandClass } from "../replay/commands.ts";
import { keyHelp, Lifetime, onAnotherLook } from "../view.ts";
import { across, centred, clamped, covers, overscan, panned, timeAt, whole, zoomed, type Span } from "./lens.ts";
import { between, Scope } from "./scope.ts";

export const LANES = ["none", "session", "user", "agent", "target", "class"] as const;
export type Lanes = (typeof LANES)[number];

/** Classes by their code in what the index answers (`GRAVITY` of analysis/explore/meaning.py); the last is any other. */
export const GRAVITY: readonly (CommandClass | "")[] = ["schema", "admin", "write", "unknown", "read", "session", ""];

/** What a bit of `flags` says, in the order of gravity: what stands first is drawn on top. */
export const FLAGS = [
  { bit: 4, name: "denied", shape: "cross" },
  { bit: 1, name: "error", shape: "notch" },
  { bit: 2, name: "held", shape: "diamond" },
  { bit: 16, name: "large", shape: "ring" },
  { bit: 8, name: "masked", shape: "bar" },
] as const;

interface Bins {
  lane: number;
  bin: number;
  n: number;
  cls: number;
  flags: number;
  severity: number;
}

interface Marks {
  severity: number;
  id: number;
  t: number;
  duration: number | null;
  lane: number;
  cls: number;
  status: number;
  flags: number;
}

interface Lane {
  /** Null for the lane that is the rest. */
  name: string | null;
  n: number;
  /** Of how many lanes this is the rest. */
  others?: number;
}

/** What the kernel says of a stretch of time: bins of `step` microseconds from `origin`, or commands. */
interface Looked {
  kind: "bins" | "marks";
  lanes: Lane[];
  n: number | null;
  ready: boolean;
  /** Of which build of the index the ids of commands are; null while there is none. */
  build: number | null;
  origin: number;
  step: number;
}

type Drawn = { lanes: Lane[]; span: Span; pixels: number } & (
  | { kind: "bins"; bins: Slice<Bins>; origin: number; step: number }
  /** The gravest of `order` is drawn last, over all that shares its place. */
  | { kind: "marks"; marks: Slice<Marks>; order: number[]; build: number | null }
);

export interface Bounds {
  first: number;
  last: number;
}

const LANE_HEIGHT = 30;
const LONE_LANE_HEIGHT = 84;
const STRIP_HEIGHT = 34;
const AXIS_HEIGHT = 20;
const TICK_PX = 90;
const CAP_PX = 4;
/** So many bins are answered at most: a wider plot has wider ones. */
const MAX_BINS = 4_096;
const SETTLE_MS = 30;
const STEP = 0.2;
const ZOOM = 0.5;

const KEYS: Record<string, string> = {
  ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", Home: "first", End: "last",
  "0": "all", ",": "previous", ".": "next", "[": "previousGrave", "]": "nextGrave", f: "filter", Escape: "clear",
  "?": "help",
};

const HELP = [
  ["← →", "earlier, later"], ["+ -", "closer, farther"], ["Home End 0", "first, last, all"],
  [", .", "previous, next command"], ["[ ]", "previous, next error, hold or denial"],
  ["f", "keep what is in view"], ["Esc", "all times"], ["shift and drag", "choose a stretch"],
] as const;

/** Return what a key asks of a timeline, or null. */
export function action(event: Pick<KeyboardEvent, "key" | "ctrlKey" | "metaKey" | "altKey">): string | null {
  return event.ctrlKey || event.metaKey || event.altKey ? null : (KEYS[event.key] ?? null);
}

/** Return how high a bar of `n` is, from 0 to 1: by its logarithm, so that one of a million shows. */
export const height = (n: number, most: number): number =>
  n <= 0 ? 0 : 0.12 + 0.88 * (Math.log1p(n) / Math.log1p(Math.max(most, 1)));

interface Options {
  lanes?: Lanes;
  onLanes?: (lanes: Lanes) => void;
  complain: (error: unknown) => void;
}

export interface TimelineView {
  refresh(bounds: Bounds): void;
  /** Lay it out in other lanes; whoever says so knows it already. */
  layOut(lanes: Lanes): void;
  dispose(): void;
}

export function mountTimeline(
  root: HTMLElement, source: Source, scope: Scope, bounds: Bounds, { lanes = "none", onLanes, complain }: Options,
): TimelineView {
  let limits = whole(bounds.first, bounds.last);
  let span: Span = { ...limits };
  let drawn: Drawn | null = null;
  let strip: Drawn | null = null;
  let brushed: Span | null = null;
  let asked = 0;
  let began = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let colours: ((name: string) => string) | null = null;
  let font: string | null = null;
  const lifetime = new Lifetime();
  lifetime.onEnd(() => clearTimeout(timer));

  // -- skeleton

  const button = (label: string, title: string, path: string, act: () => void) =>
    el("button", { type: "button", class: "aa-button aa-icon", title, "aria-label": label, onclick: act }, icon(path));
  const lanesField = el(
    "select", { class: "aa-field", "aria-label": "Lanes" },
    ...LANES.map((each) => el("option", { value: each }, each === "none" ? "all in one lane" : `a lane a ${each}`)),
  );
  lanesField.value = lanes;
  const range = el("output", { class: "aa-t-range", "aria-live": "off" });
  const toFilter = el("button", {
    type: "button", class: "aa-button aa-calm", title: "Keep what is in view (f)", onclick: () => perform("filter"),
  }, "filter to view");
  const clear = el("button", {
    type: "button", class: "aa-button aa-calm", title: "All times (Esc)", hidden: true, onclick: () => perform("clear"),
  }, "all times");
  const announce = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const stripCanvas = el("canvas", { class: "aa-strip-canvas" });
  const stripBox = el("div", { class: "aa-strip", title: "Drag to look at a stretch of time", "aria-hidden": "true" }, stripCanvas);
  const names = el("div", { class: "aa-lanes", "aria-hidden": "true" });
  const canvas = el("canvas", { class: "aa-plot-canvas" });
  const tip = el("div", { class: "aa-t-tip", hidden: true });
  const plot = el(
    "div",
    {
      class: "aa-plot", tabindex: 0, role: "application", "aria-roledescription": "timeline",
      "aria-label": "Commands over time. Arrows move, plus and minus zoom, full stop and comma step.",
    },
    canvas, tip,
  );
  const axisCanvas = el("canvas", { class: "aa-axis-canvas", "aria-hidden": "true" });
  const legend = el("div", { class: "aa-legend", "aria-hidden": "true" });
  const help = keyHelp(HELP);
  const frame = el(
    "div", { class: "aa-timeline" },
    el(
      "div", { class: "aa-t-toolbar", role: "toolbar", "aria-label": "Timeline" },
      lanesField,
      button("Earlier", "Earlier (left)", "M10 3 5 8l5 5z", () => perform("left")),
      button("Later", "Later (right)", "m6 3 5 5-5 5z", () => perform("right")),
      button("Closer", "Closer (+)", "M7 3h2v4h4v2H9v4H7V9H3V7h4z", () => perform("in")),
      button("Farther", "Farther (-)", "M3 7h10v2H3z", () => perform("out")),
      button("All", "All (0)", "M2 3h1v10H2zM13 3h1v10h-1zM4 8l3-3v2h2V5l3 3-3 3V9H7v2z", () => perform("all")),
      el("span", { class: "aa-gap" }), range, el("span", { class: "aa-grow" }), toFilter, clear,
      el("button", {
        type: "button", class: "aa-button aa-calm", title: "Keys (?)", "aria-label": "Keyboard help of the timeline",
        onclick: () => perform("help"),
      }, "?"),
    ),
    stripBox,
    el("div", { class: "aa-plot-row" }, names, plot),
    axisCanvas, legend, help.element, announce,
  );
  root.append(frame);

  // -- asking

  let read: { plot: number; strip: number; names: number } | null = null;
  /** Widths, read once: a browser that is asked for one after something was written lays all out for that. */
  const widths = () =>
    (read ??= {
      plot: Math.max(50, plot.clientWidth), strip: Math.max(50, stripBox.clientWidth), names: names.hidden ? 0 : names.offsetWidth,
    });
  const width = () => widths().plot;

  async function look(wide: Span, pixels: number, lanesNow: Lanes, channel: string): Promise<Drawn> {
    // The time of the filter is shown as a band: what lies outside it stays in view.
    const { since: _, until: __, ...filter } = scope.filter;
    const { data, buffers } = await source.request<Looked>("look", {
      filter, since: Math.max(0, Math.floor(wide.since)), until: Math.ceil(wide.until), lanes: lanesNow,
      width: Math.round(pixels), channel,
    });
    const seen = { lanes: data.lanes ?? [], span: wide, pixels };
    return data.kind === "marks"
      ? marksOf(seen, slice<Marks>(buffers[0]), data.build)
      : { kind: "bins", ...seen, origin: data.origin, step: data.step, bins: slice<Bins>(buffers[0]) };
  }

  /** Draw what is there at once, and ask for what is not. */
  function move(next: Span, isNew = false): void {
    span = next;
    began = performance.now();
    if (isNew) {
      clearTimeout(timer);
      void ask();
      // Behind the question, which is sent at the end of this turn: the kernel works meanwhile.
      queueMicrotask(() => {
        if (!lifetime.isOver) draw();
      });
      return;
    }
    draw();
    const isFine = drawn && Math.abs(drawn.pixels / 3 / width() - 1) < 0.25;
    if (drawn && ((isFine && covers(drawn.span, span)) || (drawn.kind === "marks" && contains(drawn.span, span)))) {
      measured("move", began);
      return;
    }
    // Whoever goes on is answered where they have come to, not for each step on the way.
    clearTimeout(timer);
    if (!plot.hasAttribute("aria-busy")) void ask();
    else timer = setTimeout(ask, SETTLE_MS);
  }

  async function ask(): Promise<void> {
    asked += 1;
    const mine = asked;
    const start = began;
    plot.setAttribute("aria-busy", "true");
    try {
      const answer = await look(overscan(span), Math.min(MAX_BINS, width() * 3), lanesField.value as Lanes, "plot");
      if (lifetime.isOver || mine !== asked) return;
      drawn = answer;
      drawNames();
      drawPlot();
      // Of another build, the ids of commands are others: find the selected one again.
      if (answer.kind === "marks" && here && here.build !== answer.build && (await find())) draw();
      measured("look", start);
    } catch (error) {
      if (mine === asked) complain(error); // else a newer question took its place
    } finally {
      if (mine === asked) {
        plot.removeAttribute("aria-busy");
        if (isStripOld) void askStrip();
      }
    }
  }

  function marksOf(seen: { lanes: Lane[]; span: Span; pixels: number }, marks: Slice<Marks>, build: number | null): Drawn {
    const order = Array.from({ length: marks.length }, (_, i) => i);
    order.sort((a, b) => (marks.severity[a] ?? 0) - (marks.severity[b] ?? 0));
    return { kind: "marks", ...seen, marks, order, build };
  }

  let askedStrip = 0;
  /** Behind the plot, which is what somebody waits for. */
  let isStripOld = true;
  async function askStrip(): Promise<void> {
    isStripOld = false;
    askedStrip += 1;
    const mine = askedStrip;
    try {
      const answer = await look(limits, widths().strip, "none", "strip");
      if (lifetime.isOver || mine !== askedStrip) return;
      strip = answer;
      drawStrip();
    } catch (error) {
      if (mine === askedStrip) complain(error);
    }
  }

  // -- drawing

  const colour = (name: string): string => {
    colours ??= palette(frame, [...GRAVITY, "bad", "warn", "quiet", "line", "ink", "paper", "accent", "selected", "good"]);
    return colours(name);
  };

  const laneHeight = () => ((drawn?.lanes.length ?? 1) > 1 ? LANE_HEIGHT : LONE_LANE_HEIGHT);
  const plotHeight = () => Math.max(1, drawn?.lanes.length ?? 1) * laneHeight();

  function draw(): void {
    drawPlot();
    drawStrip();
    range.textContent = `${moment(Math.max(span.since, limits.since)).slice(0, 19)} – ${moment(Math.min(span.until, limits.until)).slice(0, 19)} UTC (${duration(span.until - span.since)})`;
  }

  function drawPlot(): void {
    const wide = width();
    const pen = fitted(canvas, wide, plotHeight());
    if (!pen) return;
    drawAxis(pen, wide);
    if (drawn?.kind === "bins") drawBins(pen, drawn, span, wide, laneHeight());
    else if (drawn) drawMarks(pen, drawn, span, wide, laneHeight());
    drawBand(pen, wide, plotHeight());
  }

  /** Lines in the plot, and below all lanes, which may scroll, what they stand for. */
  function drawAxis(pen: CanvasRenderingContext2D, wide: number): void {
    axisCanvas.style.width = `${wide}px`;
    axisCanvas.style.marginLeft = `${widths().names}px`;
    const below = fitted(axisCanvas, wide, AXIS_HEIGHT);
    if (!below) return;
    below.font = `11px ${(font ??= getComputedStyle(frame).fontFamily)}`;
    below.textBaseline = "middle";
    for (const tick of ticks(span.since, span.until, ((span.until - span.since) / wide) * TICK_PX)) {
      const x = Math.round(across(span, wide, tick.time)) + 0.5;
      pen.strokeStyle = colour("line");
      pen.globalAlpha = tick.isMajor ? 1 : 0.5;
      pen.beginPath();
      pen.moveTo(x, 0);
      pen.lineTo(x, plotHeight());
      pen.stroke();
      pen.globalAlpha = 1;
      below.fillStyle = colour(tick.isMajor ? "ink" : "quiet");
      below.fillText(tick.label, x + 3, AXIS_HEIGHT / 2);
    }
    pen.strokeStyle = colour("line");
    for (let lane = 1; lane <= (drawn?.lanes.length ?? 1); lane += 1) {
      pen.beginPath();
      pen.moveTo(0, lane * laneHeight() - 0.5);
      pen.lineTo(wide, lane * laneHeight() - 0.5);
      pen.stroke();
    }
  }

  function drawBins(
    pen: CanvasRenderingContext2D, of: Drawn & { kind: "bins" }, seen: Span, wide: number, high: number,
  ): void {
    const { bins } = of;
    let most = 1;
    for (let i = 0; i < bins.length; i += 1) most = Math.max(most, bins.n[i] ?? 0);
    const pixels = Math.max(1, across(seen, wide, seen.since + of.step));
    for (let i = 0; i < bins.length; i += 1) {
      const x = across(seen, wide, of.origin + (bins.bin[i] ?? 0) * of.step);
      if (x < -pixels || x > wide) continue;
      const base = ((bins.lane[i] ?? 0) + 1) * high - 1;
      const tall = height(bins.n[i] ?? 0, most) * (high - 8);
      // How many is the bar, how grave its cap: most of what is in a bin is what nobody looks for.
      const broad = Math.max(1, pixels - 0.2);
      pen.globalAlpha = 0.45;
      pen.fillStyle = colour("session");
      pen.fillRect(x, base - tall, broad, tall);
      pen.globalAlpha = 1;
      pen.fillStyle = colour(GRAVITY[bins.cls[i] ?? 0] || "unknown");
      pen.fillRect(x, base - tall, broad, Math.min(tall, CAP_PX));
    }
    for (const [i] of gravestLast(bins.flags, bins.length)) {
      const x = across(seen, wide, of.origin + (bins.bin[i] ?? 0) * of.step);
      if (x < -pixels || x > wide) continue;
      const base = ((bins.lane[i] ?? 0) + 1) * high - 1;
      drawFlags(pen, bins.flags[i] ?? 0, x + pixels / 2, base - high + 5, Math.min(pixels, 6));
    }
  }

  function drawMarks(
    pen: CanvasRenderingContext2D, of: Drawn & { kind: "marks" }, seen: Span, wide: number, high: number,
  ): void {
    const { marks } = of;
    for (const i of of.order) {
      const time = marks.t[i] ?? 0;
      const x = across(seen, wide, time);
      const long = Math.max(3, across(seen, wide, time + (marks.duration[i] ?? 0)) - x);
      if (x + long < 0 || x > wide) continue;
      const top = (marks.lane[i] ?? 0) * high + 10;
      pen.fillStyle = colour(GRAVITY[marks.cls[i] ?? 0] || "unknown");
      pen.fillRect(x, top, long, high - 14);
      if (of.build === here?.build && marks.id[i] === here?.id) {
        pen.strokeStyle = colour("ink");
        pen.lineWidth = 2;
        pen.strokeRect(x - 2, top - 2, long + 4, high - 10);
        pen.lineWidth = 1;
      }
    }
    for (const [i] of gravestLast(marks.flags, marks.length)) {
      const x = across(seen, wide, marks.t[i] ?? 0);
      if (x >= -6 && x <= wide) drawFlags(pen, marks.flags[i] ?? 0, x + 1.5, (marks.lane[i] ?? 0) * high + 5, 6);
    }
  }

  /** Which of a column of flags are to be drawn, in the order in which they are: the gravest on top. */
  function gravestLast(flags: ArrayLike<number>, length: number): [number, number][] {
    const rank = (of: number) => FLAGS.findIndex(({ bit }) => of & bit);
    return Array.from({ length }, (_, i): [number, number] => [i, rank(flags[i] ?? 0)])
      .filter(([, at]) => at >= 0)
      .sort(([, a], [, b]) => b - a);
  }

  /** The gravest flag, as a shape of its own, because a colour alone does not reach everybody. */
  function drawFlags(pen: CanvasRenderingContext2D, flags: number, x: number, y: number, size: number): void {
    const flag = FLAGS.find(({ bit }) => flags & bit);
    if (!flag) return;
    const r = Math.max(1.5, size / 2);
    pen.fillStyle = pen.strokeStyle =
      colour(flag.name === "denied" || flag.name === "error" ? "bad" : flag.name === "held" ? "warn" : "quiet");
    pen.beginPath();
    if (flag.shape === "cross") {
      pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x + r, y - r); pen.lineTo(x - r, y + r);
      pen.stroke();
    } else if (flag.shape === "diamond") {
      pen.moveTo(x, y - r - 1); pen.lineTo(x + r + 1, y); pen.lineTo(x, y + r + 1); pen.lineTo(x - r - 1, y);
      pen.fill();
    } else if (flag.shape === "ring") {
      pen.arc(x, y, r, 0, 2 * Math.PI);
      pen.stroke();
    } else if (flag.shape === "notch") {
      pen.moveTo(x - r, y - r); pen.lineTo(x + r, y - r); pen.lineTo(x, y + r);
      pen.fill();
    } else pen.fillRect(x - r, y - 1, 2 * r, 2);
  }

  function drawBand(pen: CanvasRenderingContext2D, wide: number, high: number): void {
    const { since, until } = scope.filter;
    if (since !== undefined || until !== undefined) {
      pen.fillStyle = colour("quiet");
      pen.globalAlpha = 0.14;
      const from = since === undefined ? 0 : across(span, wide, since);
      const to = until === undefined ? wide : across(span, wide, until);
      if (from > 0) pen.fillRect(0, 0, Math.min(from, wide), high);
      if (to < wide) pen.fillRect(Math.max(to, 0), 0, wide - Math.max(to, 0), high);
      pen.globalAlpha = 1;
    }
    if (brushed) {
      pen.fillStyle = colour("accent");
      pen.globalAlpha = 0.2;
      const from = across(span, wide, brushed.since);
      pen.fillRect(from, 0, across(span, wide, brushed.until) - from, high);
      pen.globalAlpha = 1;
    }
  }

  function drawStrip(): void {
    const wide = widths().strip;
    const pen = fitted(stripCanvas, wide, STRIP_HEIGHT);
    if (!pen) return;
    if (strip?.kind === "bins") drawBins(pen, strip, limits, wide, STRIP_HEIGHT);
    else if (strip) drawMarks(pen, strip, limits, wide, STRIP_HEIGHT);
    const from = across(limits, wide, span.since);
    const to = across(limits, wide, span.until);
    pen.fillStyle = colour("paper");
    pen.globalAlpha = 0.6;
    pen.fillRect(0, 0, from, STRIP_HEIGHT);
    pen.fillRect(to, 0, wide - to, STRIP_HEIGHT);
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("accent");
    pen.strokeRect(Math.max(0.5, from), 0.5, Math.max(3, Math.min(wide - 1, to) - Math.max(0.5, from)), STRIP_HEIGHT - 1);
  }

  function drawNames(): void {
    const high = laneHeight();
    const isAlone = (drawn?.lanes.length ?? 1) <= 1;
    if (names.hidden !== isAlone) read = null;
    names.hidden = isAlone;
    names.replaceChildren(
      ...(drawn?.lanes ?? []).map((lane) =>
        el("div", { class: "aa-lane-name", style: `height:${high}px`, title: `${plain(label(lane))}: ${counted(lane.n, "command")}` },
          el("span", {}, ...shown(label(lane))), el("small", {}, count(lane.n)))),
    );
  }

  function label({ name, others }: Lane): string {
    if (name === null) return counted(others ?? 0, "other");
    return lanesField.value === "session" ? name.slice(0, 13) : name || "(none)";
  }

  function drawLegend(): void {
    legend.replaceChildren(
      ...GRAVITY.filter((name) => name).map((name) => el("span", { class: `aa-key aa-class-${name}` }, el("i", { class: "aa-dot" }), name)),
      ...FLAGS.map(({ name }) => el("span", { class: `aa-key aa-flag-${name}` }, { denied: "✕", error: "▼", held: "◆", large: "○", masked: "▬" }[name], ` ${name}`)),
    );
  }

  // -- moving

  function perform(what: string): void {
    const middle = (span.since + span.until) / 2;
    switch (what) {
      case "left": return move(panned(span, limits, -STEP));
      case "right": return move(panned(span, limits, STEP));
      case "in": return move(zoomed(span, limits, ZOOM, middle));
      case "out": return move(zoomed(span, limits, 1 / ZOOM, middle));
      case "all": return move({ ...limits });
      case "first": return move(centred(span, limits, bounds.first));
      case "last": return move(centred(span, limits, bounds.last));
      case "previous": return void step(-1, false);
      case "next": return void step(1, false);
      case "previousGrave": return void step(-1, true);
      case "nextGrave": return void step(1, true);
      case "filter": return scope.narrow(between(scope.filter, Math.max(0, Math.floor(span.since)), Math.ceil(span.until)));
      case "clear":
        return help.isOpen ? help.close() : scope.narrow(between(scope.filter));
      case "help":
        help.toggle();
    }
  }

  /** Where the selected command is: its id in one build of the index, and its time. */
  let here: { id: number; build: number | null; t: number } | null = null;

  /** Go to the command before or after the selected one, or the middle of what is seen. */
  async function step(direction: 1 | -1, grave: boolean): Promise<void> {
    const filter = { ...scope.filter };
    if (grave) filter.flags = ["error", "held", "denied"];
    try {
      const { data, buffers } = await source.request<{ build: number }>("step", {
        filter, direction, t: Math.max(0, Math.round(here?.t ?? (span.since + span.until) / 2)),
        session: scope.selected?.session ?? null, command: scope.selected?.command ?? null,
      });
      const row = slice<{ id: number; t: number; session_id: string; command_no: number; text: string }>(buffers[0]);
      const [id, t, session] = [row.id?.[0], row.t?.[0], row.session_id?.[0]];
      if (id === undefined || t === undefined || session === undefined) {
        announce.textContent = direction > 0 ? "none after it" : "none before it";
        return;
      }
      here = { id, build: data.build, t };
      scope.select({ session, command: row.command_no[0] ?? 0 });
      move(t > span.since && t < span.until ? span : centred(span, limits, t));
      announce.textContent = `${moment(t)}, ${plain(flat(row.text[0] ?? "")).slice(0, 200)}`;
    } catch (error) {
      complain(error);
    }
  }

  lifetime.listen(frame, "keydown", (event) => {
    if (event.target !== plot && !(event.key === "Escape" && help.isOpen)) return;
    const what = action(event);
    if (!what) return;
    perform(what);
    event.preventDefault();
    event.stopPropagation();
  });

  lifetime.listen(plot, "wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && !plot.matches(":focus-within")) return; // the page scrolls
    event.preventDefault();
    const x = event.clientX - plot.getBoundingClientRect().left;
    if (event.shiftKey) move(panned(span, limits, Math.sign(event.deltaY || event.deltaX) * STEP));
    else move(zoomed(span, limits, Math.exp(event.deltaY / 300), timeAt(span, width(), x)));
  }, { passive: false });

  let drag: { x: number; span: Span; brush: boolean; moved: boolean } | null = null;
  lifetime.listen(plot, "pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, span: { ...span }, brush: event.shiftKey, moved: false };
    plot.setPointerCapture(event.pointerId);
  });
  lifetime.listen(plot, "pointermove", (event) => {
    if (!drag) return hover(event);
    const by = event.clientX - drag.x;
    drag.moved ||= Math.abs(by) > 3;
    if (!drag.moved) return;
    tip.hidden = true;
    if (drag.brush) {
      const left = plot.getBoundingClientRect().left;
      const [a, b] = [drag.x - left, event.clientX - left].map((x) => timeAt(span, width(), x)).sort((p, q) => p - q);
      brushed = { since: a ?? 0, until: b ?? 0 };
      draw();
    } else {
      const us = (by / width()) * (drag.span.until - drag.span.since);
      move(clamped({ since: drag.span.since - us, until: drag.span.until - us }, limits));
    }
  });
  lifetime.listen(plot, "pointerup", (event) => {
    const ended = drag;
    drag = null;
    if (brushed) {
      scope.narrow(between(scope.filter, Math.max(0, Math.floor(brushed.since)), Math.ceil(brushed.until)));
      brushed = null;
      draw();
    } else if (ended && !ended.moved) choose(event);
  });
  lifetime.listen(plot, "pointerleave", () => { tip.hidden = true; });
  lifetime.listen(plot, "pointercancel", () => {
    drag = null;
    brushed = null;
    draw();
  });

  let stripDrag: number | null = null;
  const stripTime = (event: MouseEvent) => {
    const box = stripBox.getBoundingClientRect();
    return timeAt(limits, Math.max(50, box.width), event.clientX - box.left);
  };
  lifetime.listen(stripBox, "pointerdown", (event) => {
    stripDrag = stripTime(event);
    stripBox.setPointerCapture(event.pointerId);
  });
  lifetime.listen(stripBox, "pointermove", (event) => {
    if (stripDrag === null) return;
    const [since, until] = [stripDrag, stripTime(event)].sort((a, b) => a - b) as [number, number];
    if (until - since > (limits.until - limits.since) / 500) move(clamped({ since, until }, limits));
  });
  lifetime.listen(stripBox, "pointerup", (event) => {
    const time = stripTime(event);
    if (stripDrag !== null && Math.abs(time - stripDrag) <= (limits.until - limits.since) / 500) {
      move(centred(span, limits, time));
    }
    stripDrag = null;
  });

  // -- pointing

  /** Return the mark or bin under a pointer: its place in the columns, or -1. */
  function under(event: MouseEvent): number {
    if (!drawn) return -1;
    const box = plot.getBoundingClientRect();
    const x = event.clientX - box.left;
    const lane = Math.floor((event.clientY - box.top) / laneHeight());
    let found = -1;
    if (drawn.kind === "bins") {
      const { bins } = drawn;
      const bin = Math.floor((timeAt(span, width(), x) - drawn.origin) / drawn.step);
      for (let i = 0; i < bins.length; i += 1) {
        if (bins.lane[i] === lane && Math.abs((bins.bin[i] ?? 0) - bin) <= 1) {
          if (found < 0 || bins.bin[i] === bin) found = i;
        }
      }
      return found;
    }
    let nearest = 6;
    // From the top: what is drawn last is what somebody points at.
    for (const i of [...drawn.order].reverse()) {
      if (drawn.marks.lane[i] !== lane) continue;
      const from = across(span, width(), drawn.marks.t[i] ?? 0);
      const to = across(span, width(), (drawn.marks.t[i] ?? 0) + (drawn.marks.duration[i] ?? 0));
      const away = x < from ? from - x : x > to ? x - to : 0;
      if (away < nearest) [found, nearest] = [i, away];
    }
    return found;
  }

  function hover(event: MouseEvent): void {
    const i = under(event);
    if (i < 0 || !drawn) {
      tip.hidden = true;
      return;
    }
    const flags = (drawn.kind === "bins" ? drawn.bins.flags[i] : drawn.marks.flags[i]) ?? 0;
    const said = FLAGS.filter(({ bit }) => flags & bit).map(({ name }) => name).join(", ");
    const cls = GRAVITY[(drawn.kind === "bins" ? drawn.bins.cls[i] : drawn.marks.cls[i]) ?? 0] ?? "";
    const first = drawn.kind === "bins"
      ? `${counted(drawn.bins.n[i] ?? 0, "command")}, gravest: ${cls}`
      : `${cls}, ${duration(drawn.marks.duration[i] ?? 0)}`;
    const time = drawn.kind === "bins"
      ? drawn.origin + (drawn.bins.bin[i] ?? 0) * drawn.step
      : (drawn.marks.t[i] ?? 0);
    tip.replaceChildren(el("b", {}, first), el("div", {}, moment(time)), said ? el("div", {}, said) : null as never);
    if (!said) tip.lastChild?.remove();
    tip.hidden = false;
    const box = plot.getBoundingClientRect();
    const x = event.clientX - box.left;
    tip.style.left = `${Math.min(x + 12, box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(0, event.clientY - box.top - tip.offsetHeight - 8)}px`;
  }

  async function choose(event: MouseEvent): Promise<void> {
    const i = under(event);
    plot.focus({ preventScroll: true });
    if (i < 0 || !drawn) return;
    if (drawn.kind === "bins") {
      const x = event.clientX - plot.getBoundingClientRect().left;
      move(zoomed(span, limits, 0.25, timeAt(span, width(), x)));
      return;
    }
    const { build, marks } = drawn;
    const [id, t, before] = [marks.id[i] ?? -1, marks.t[i] ?? 0, scope.selected];
    try {
      const { data } = await source.request<{ session: string | null; command_no: number }>("which", { id, build });
      if (lifetime.isOver || scope.selected !== before) return;
      if (data.session === null) {
        announce.textContent = "the archive was read anew; choose again";
        move(span, true);
        return;
      }
      here = { id, build, t };
      scope.select({ session: data.session, command: data.command_no });
      draw();
    } catch (error) {
      complain(error);
    }
  }

  // -- life

  lifetime.listen(lanesField, "change", () => {
    onLanes?.(lanesField.value as Lanes);
    move(span, true);
  });
  lifetime.onEnd(scope.hear((change) => {
    if (change === "filter") {
      clear.hidden = scope.filter.since === undefined && scope.filter.until === undefined;
      isStripOld = true;
      move(span, true);
    } else void follow();
  }));

  /** Find where the selected command is; return whether it is elsewhere than it was. */
  async function find(): Promise<boolean> {
    const { selected } = scope;
    const before = here;
    if (!selected) here = null;
    else {
      const { data } = await source.request<{ id: number | null; build: number | null; t: number }>("locate", { ...selected });
      if (lifetime.isOver || scope.selected !== selected) return false; // it has moved on
      here = typeof data.id === "number" ? { id: data.id, build: data.build, t: data.t } : null;
    }
    return here?.id !== before?.id || here?.build !== before?.build;
  }

  /** Show what another view has selected. */
  async function follow(): Promise<void> {
    try {
      if (!(await find())) return;
      if (here) move(here.t > span.since && here.t < span.until ? span : centred(span, limits, here.t));
      else draw();
    } catch (error) {
      complain(error);
    }
  }

  const redraw = () => {
    colours = font = read = null;
    move(span);
  };
  lifetime.onEnd(onAnotherLook([plot], redraw));

  drawLegend();
  move(span, true);

  return {
    refresh(next) {
      const sawAll = span.since === limits.since && span.until === limits.until;
      bounds = next;
      limits = whole(next.first, next.last);
      if (sawAll) span = { ...limits };
      isStripOld = true;
      move(span, true);
    },
    layOut(next) {
      if (lanesField.value === next) return;
      lanesField.value = next;
      move(span, true);
    },
    dispose() {
      lifetime.end();
      frame.remove();
    },
  };
}

const contains = (wide: Span, span: Span): boolean => wide.since <= span.since && span.until <= wide.until;
