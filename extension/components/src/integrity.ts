/**
 * Shows what of an archive is verified, what is exposed, and which check failed where.
 *
 * The kernel checks in a thread; the page asks how far it is. A strip a gateway shows its log over
 * time: what was sealed, signs of life and gaps, what outside has said, purges and legal holds, and
 * at its end the exposure window.
 *
 * Above `mountIntegrity` are pure functions; it draws into an element from any source.
 */

import { datedTicks } from "./axis.ts";
import { Closed, type Source } from "./channel.ts";
import { el, icon, shown } from "./dom.ts";
import { copyable, fact, instant, placed, tabbed, table } from "./panel.ts";
import { plain } from "./text.ts";
import { bytes, count, counted, duration } from "./units.ts";

const POLL_MS = 300;

export interface Segment {
  entry: number;
  segments: number;
  segment: string;
  begun_us: number;
  sealed_us: number;
  first_us: number;
  last_us: number;
  first_event: number;
  events: number;
  epoch: number;
  sessions: number;
  commands: number;
  root: string;
  bytes: number;
}

export interface Gap {
  kind: string;
  entry: number;
  from_us: number;
  until_us: number | null;
}

export interface Mark {
  kind: string;
  entry: number;
  at_us: number;
  until_us: number | null;
  says: string;
  id: string;
}

export interface Gateway {
  gateway: string;
  origin: string;
  problem: string;
  entries: number;
  from_us: number;
  until_us: number;
  clock: string;
  version: string;
  is_recording: boolean;
  epochs: number;
  events: number;
  segment_count: number;
  segments: Segment[];
  begun: { segment: string; at_us: number }[];
  tick_count: number;
  ticks: number[];
  stretch_us: number;
  gaps: Gap[];
  marks: Mark[];
  left_out: Record<string, number>;
  checkpoint: string;
  cosigned: string;
  cosigned_size: number;
  script: string;
  ours: string;
}

export interface Finding {
  check: string;
  place: string;
  seen: string;
  expected: string;
  gateway: string;
  segment: string;
  entry: number;
  event: number;
  row: number;
  means: string;
  do: string;
}

export interface Exposure {
  gateway: string;
  anchor: string;
  since_size: number;
  since_us: number | null;
  entries: number;
  events: number;
  /** How far this machine remembers the log: only here a change before that would be noticed. */
  remembered_size: number;
  here_entries: number;
  here_events: number;
  /** All of it in words. */
  says: string;
}

interface Anchor {
  gateway: string;
  kind: string;
  size: number;
  log_us: number | null;
  at_s: number | null;
  by: string[];
}

export interface Answer {
  ok: boolean | null;
  word: string;
  why: string[];
  deep: boolean;
  took_us: number;
  findings: Finding[];
  finding_count: number;
  exposure: Exposure[];
  anchors: Anchor[];
  scripted: string[];
  unknown_signers: string[];
  without_quorum: string[];
  unread: string[];
  notes: string[];
  counts: Record<string, number>;
}

export interface State {
  run: number;
  state: "none" | "checking" | "stopping" | "done" | "failed" | "stopped";
  deep: boolean;
  stage: string;
  done: number;
  total: number;
  error?: string;
  hint?: string;
  answer: Answer | null;
  answered: number;
}

interface Opened {
  archive: string;
  access: string;
  given: { keys: string[]; since: boolean; policy: boolean; tsa: boolean };
  gateways: Gateway[];
  state: State;
}

interface Files {
  segment: string;
  root: string;
  head: string;
  files: { table: string; path: string; bytes: number; rows: number; sha256: string }[];
  script: string;
}

// --- without a page

/** Return how a verdict is drawn: `good`, `bad`, `warn` or, before there is one, `none`. */
export function mood(answer: Pick<Answer, "ok"> | null): "good" | "bad" | "warn" | "none" {
  if (!answer) return "none";
  return answer.ok === null ? "warn" : answer.ok ? "good" : "bad";
}

/** Say what runs, or what became of it where that is no answer; empty where there is nothing to say. */
export function running(state: State): string {
  const kind = state.deep ? "deep" : "fast";
  if (state.state === "stopping") return `stopping the ${kind} check …`;
  if (state.state === "stopped") return `the ${kind} check was stopped before its end`;
  if (state.state === "failed") return state.error || "the check failed";
  if (state.state !== "checking") return "";
  const part = state.total > 0 ? ` ${count(state.done)} of ${count(state.total)}` : "";
  return `${kind} check: ${state.stage || "begins"}${part}`;
}

const LANES: Record<string, string> = {
  anchor: "outside", cosigned: "outside", purge: "purge", hold: "purge",
};

/** Return the lane that an entry is drawn in: what outside says, what went or must not, the rest. */
export const laneOf = (kind: string): string => LANES[kind] ?? "log";

const GAPS: Record<string, string> = {
  stopped: "not recording: it was stopped",
  crashed: "not recording: it ended without saying so",
  silent: "silent: no sign of life for over five minutes",
};

/** Say what a gap is, and how long. */
export function gapSays(gap: Gap): string {
  const says = GAPS[gap.kind] ?? gap.kind;
  return gap.until_us === null ? `${says}, and has not gone on since` : `${says}, for ${duration(gap.until_us - gap.from_us)}`;
}

/** Return the findings that concern a segment: by its name, or by an event or entry in it. */
export function findingsIn(segment: Segment, gateway: string, findings: readonly Finding[]): Finding[] {
  return findings.filter(
    (each) =>
      each.segment === segment.segment ||
      (each.gateway === gateway && each.segment === "" &&
        (each.entry === segment.entry ||
          (each.event >= segment.first_event && each.event < segment.first_event + segment.events))),
  );
}

/** Return which segment a finding is in, or null where it is in none that is shown. */
export function segmentOf(finding: Finding, gateways: readonly Gateway[]): { gateway: Gateway; segment: Segment } | null {
  for (const gateway of gateways) {
    for (const segment of gateway.segments) {
      if (findingsIn(segment, gateway.gateway, [finding]).length) return { gateway, segment };
    }
  }
  return null;
}

/** Return how high each stretch's bar is, 0 to 1, by the root of its count: one tick still shows. */
export function heights(ticks: readonly number[]): number[] {
  const most = Math.max(...ticks, 1);
  return ticks.map((each) => Math.sqrt(each / most));
}

// --- drawing

const PATHS = {
  good: "M6.4 11.6 2.9 8.1l1.1-1.1 2.4 2.4L12 3.8l1.1 1.1z",
  bad: "M4 2.9 8 6.9l4-4L13.1 4l-4 4 4 4-1.1 1.1-4-4-4 4L2.9 12l4-4-4-4z",
  warn: "M8 2c2 0 3.4 1.2 3.4 3 0 1.4-.8 2.1-1.6 2.7-.7.6-1 .9-1 1.8H7.1c0-1.7.8-2.4 1.6-3 .6-.5 1-.8 1-1.5 0-.8-.7-1.4-1.7-1.4S6.300 4.300 6.200 5.300H4.500C4.600 3.300 6 2 8 2zM7 11h2v2H7z",
  none: "M7.200 3h1.600v4.700l3 1.800-.8 1.400L7.200 8.600z",
};

export interface IntegrityOptions {
  /** Hears of each answer; what holds the view may show it elsewhere. */
  onAnswer?: (answer: Answer) => void;
}

/** Draw the integrity of what `source` tells of into `root`. */
export function mountIntegrity(root: HTMLElement, source: Source, options: IntegrityOptions = {}): { dispose(): void } {
  let closed = false;
  let opened: Opened | null = null;
  let state: State | null = null;
  let answer: Answer | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let chosen = ""; // the key of the mark whose details are shown

  // -- skeleton

  const announce = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const seal = el("div", { class: "aa-seal" });
  const word = el("h3", { class: "aa-word" }, "Not checked yet");
  const why = el("div", { class: "aa-why" });
  const fast = el("button", { type: "button", class: "aa-button", onclick: () => void act("check", { deep: false }) }, "Check again");
  const deep = el(
    "button",
    { type: "button", class: "aa-button aa-primary", title: "hashes every row, and makes every table anew", onclick: () => void act("check", { deep: true }) },
    "Check deeply",
  );
  const stop = el("button", { type: "button", class: "aa-button", hidden: true, onclick: () => void act("stop", {}) }, "Stop");
  const bar = el("progress", { class: "aa-progress", hidden: true, "aria-label": "Progress of the check" });
  const says = el("span", { class: "aa-says" });
  const verdict = el(
    "header", { class: "aa-verdict" },
    seal,
    el("div", { class: "aa-verdict-text" }, word, why),
    el("div", { class: "aa-acts" }, el("div", { class: "aa-act-row" }, fast, deep, stop), bar, says),
  );
  const loud = el("div", { class: "aa-loud", role: "note", hidden: true });
  const figures = el("dl", { class: "aa-figures" });
  const strips = el("div", { class: "aa-strips" });
  const tabs = tabbed(
    "Parts of the check",
    { findings: "Findings", exposure: "Exposure and anchors", without: "Verify without us", notes: "Notes" },
    drawTab,
  );
  const frame = el(
    "div", { class: "aa-view aa-frame aa-panelled aa-integrity", role: "region", "aria-label": "Integrity of the archive" },
    trouble, verdict, loud, figures, strips, tabs.bar, tabs.panel, announce,
  );
  root.append(frame);

  const complain = (error: unknown): void => {
    if (closed || error instanceof Closed) return;
    trouble.replaceChildren(...shown(error instanceof Error ? error.message : "the kernel could not answer"));
    trouble.hidden = false;
  };

  async function ask<Data>(op: string, args: Record<string, unknown> = {}): Promise<Data> {
    const { data } = await source.request<Data>(op, args);
    trouble.hidden = true;
    return data;
  }

  // -- the check

  async function open(): Promise<void> {
    try {
      opened = await ask<Opened>("open");
      if (closed) return;
      drawStrips();
      take(opened.state);
    } catch (error) {
      complain(error);
    }
  }

  async function act(op: string, args: Record<string, unknown>): Promise<void> {
    try {
      const now = await ask<State>(op, args);
      if (!closed) take(now);
    } catch (error) {
      complain(error);
    }
  }

  async function poll(): Promise<void> {
    try {
      const now = await ask<State>("state", { seen: state?.answered ?? 0 });
      if (closed) return;
      const isNew = now.answer !== null;
      take(now);
      // The archive may have grown since its logs were read.
      if (isNew && now.run > 1) {
        opened = await ask<Opened>("open");
        if (!closed) drawStrips();
      }
    } catch (error) {
      complain(error);
    }
  }

  function take(now: State): void {
    const wasRunning = state?.state === "checking" || state?.state === "stopping";
    state = now;
    if (now.answer) {
      answer = now.answer;
      drawAnswer();
      options.onAnswer?.(answer);
    }
    drawState();
    const isRunning = now.state === "checking" || now.state === "stopping";
    if (wasRunning && !isRunning) announce.textContent = running(now) || `${answer?.word ?? ""}: ${answer?.why.join("; ") ?? ""}`;
    clearTimeout(timer);
    if (isRunning) timer = setTimeout(() => void poll(), POLL_MS);
  }

  function drawState(): void {
    if (!state) return;
    const isRunning = state.state === "checking" || state.state === "stopping";
    frame.setAttribute("aria-busy", String(isRunning));
    frame.classList.toggle("aa-running-now", isRunning);
    // What has the focus must not vanish under it.
    const hadFocus = document.activeElement === (isRunning ? deep : stop) || document.activeElement === fast;
    fast.hidden = deep.hidden = isRunning;
    stop.hidden = !isRunning;
    stop.disabled = state.state === "stopping";
    if (hadFocus) (isRunning ? stop : deep).focus();
    bar.hidden = !isRunning;
    if (state.total > 0) {
      bar.max = state.total;
      bar.value = state.done;
    } else bar.removeAttribute("value");
    says.replaceChildren(...shown(running(state)));
    if (state.state === "failed" && state.hint) says.append(el("small", {}, "hint: ", ...shown(state.hint)));
    if (!answer) {
      seal.className = "aa-seal aa-is-none";
      seal.replaceChildren(icon(PATHS.none));
      word.textContent = isRunning ? "Checking" : state.state === "failed" ? "Could not check" : "Not checked yet";
      why.replaceChildren();
    }
  }

  function drawAnswer(): void {
    if (!answer) return;
    const found = answer;
    const how = mood(found);
    frame.dataset["mood"] = how;
    seal.className = `aa-seal aa-is-${how}`;
    seal.replaceChildren(icon(PATHS[how]));
    word.textContent = found.word.charAt(0).toUpperCase() + found.word.slice(1);
    why.replaceChildren(
      ...found.why.map((each) => el("p", {}, ...shown(each))),
      el("p", { class: "aa-quiet" }, `${found.deep ? "deep" : "fast"} check, took ${duration(found.took_us)}`),
    );
    loud.hidden = found.scripted.length === 0;
    loud.replaceChildren(
      el("b", {}, "Made-up time"), " ",
      ...shown(`${found.scripted.join(", ")} recorded with a scripted clock: no time in it was ever real, so none of it proves when anything happened.`),
    );
    const events = found.exposure.reduce((sum, each) => sum + each.events, 0);
    const entries = found.exposure.reduce((sum, each) => sum + each.entries, 0);
    const figure = (number: number, label: string, kind = "") =>
      el("div", { class: `aa-figure ${kind}` }, el("dt", {}, label), el("dd", {}, count(number)));
    const told = (name: string) => found.counts[name] ?? 0;
    figures.replaceChildren(
      figure(found.finding_count, "checks failed", found.finding_count ? "aa-is-bad" : "aa-is-good"),
      figure(events, "events exposed", entries || events ? "aa-is-warn" : "aa-is-good"),
      figure(told("segments"), "segments"),
      figure(told("sessions"), "sessions"),
      figure(told("commands"), "commands"),
      figure(told("events"), "events sealed"),
      figure(told("live_events"), "not sealed yet"),
    );
    drawStrips();
    tabs.count("findings", found.finding_count);
    tabs.count("notes", found.notes.length + found.unread.length);
    tabs.show(tabs.current);
  }

  // -- strips

  function drawStrips(): void {
    if (!opened) return;
    // The answer, which says it too, may be a while in coming.
    const scripted = opened.gateways.filter((each) => each.clock !== "system").map((each) => each.gateway);
    if (scripted.length && !answer) {
      loud.hidden = false;
      loud.replaceChildren(el("b", {}, "Made-up time"), " ", ...shown(`${scripted.join(", ")} recorded with a scripted clock: no time in it was ever real.`));
    }
    strips.replaceChildren(...opened.gateways.map(strip));
    if (!opened.gateways.length) strips.replaceChildren(el("p", { class: "aa-empty" }, "No gateway has a log here."));
    if (!tabs.panel.childNodes.length || tabs.current === "without") tabs.show(tabs.current);
  }

  function strip(gateway: Gateway): HTMLElement {
    const state = gateway.is_recording ? "recording" : "not recording";
    const top = el(
      "div", { class: "aa-strip-top" },
      el("h4", {}, ...shown(gateway.gateway)),
      el("span", { class: `aa-badge ${gateway.is_recording ? "aa-live" : ""}` }, state),
      gateway.clock === "system" ? null : el("span", { class: "aa-badge aa-scripted" }, ...shown(`${gateway.clock} clock`)),
      el("span", { class: "aa-quiet" }, [
        counted(gateway.segment_count, "segment"), counted(gateway.events, "event"),
        counted(gateway.tick_count, "tick"), counted(gateway.epochs + 1, "key epoch"),
        counted(gateway.entries, "log entry", "log entries"),
      ].join(" · ")),
    );
    const box = el("section", { class: "aa-strip", "aria-label": plain(`Log of ${gateway.gateway}`) }, top);
    if (gateway.problem) {
      box.append(el("p", { class: "aa-strip-problem" }, "Its log cannot be read: ", ...shown(gateway.problem)));
      return box;
    }
    const exposure = answer?.exposure.find((each) => each.gateway === gateway.gateway) ?? null;
    const from = gateway.from_us;
    const until = Math.max(gateway.until_us, from + 1);
    const place = (node: HTMLElement, at: number, end: number | null = null): HTMLElement => {
      node.style.left = `${placed(at, from, until)}%`;
      if (end !== null) node.style.width = `${placed(end, from, until) - placed(at, from, until)}%`;
      return node;
    };
    const detail = el("div", { class: "aa-strip-detail", "aria-live": "polite" });
    const marks: { at: number; node: HTMLButtonElement }[] = [];
    const mark = (key: string, kind: string, label: string, at: number, end: number | null, details: () => Node[]): HTMLElement => {
      const node = el("button", {
        type: "button", class: `aa-mark aa-mark-${kind}`, tabindex: -1, "aria-label": plain(label), title: plain(label),
        "aria-pressed": "false",
        onclick: () => choose(),
        onfocus: () => rove(node),
      });
      const choose = () => {
        chosen = key;
        for (const each of marks) each.node.setAttribute("aria-pressed", String(each.node === node));
        detail.replaceChildren(...details());
      };
      node.dataset["key"] = key;
      marks.push({ at, node });
      if (key === chosen) {
        node.setAttribute("aria-pressed", "true");
        detail.replaceChildren(...details());
      }
      place(node, at, end);
      // What begins where the strip ends would lie beside it.
      if (end !== null && placed(at, from, until) > 99.5) node.style.left = "calc(100% - 6px)";
      return node;
    };
    const rove = (node: HTMLButtonElement) => {
      for (const each of marks) each.node.tabIndex = each.node === node ? 0 : -1;
    };
    const lane = (name: string, title: string, ...children: Node[]) =>
      el("div", { class: `aa-lane aa-lane-${name}` }, el("span", { class: "aa-lane-name" }, title), el("div", { class: "aa-track" }, ...children));

    const findings = answer?.findings ?? [];
    const sealed = gateway.segments.map((segment) => {
      const inside = findingsIn(segment, gateway.gateway, findings);
      const how = inside.length ? "bad" : answer === null ? "none" : answer.ok === false ? "none" : mood(answer);
      const what = segment.segments > 1 ? `${count(segment.segments)} segments` : "segment";
      const label = `${what}, ${counted(segment.events, "event")}, sealed ${instant(segment.sealed_us)}` +
        (inside.length ? `, ${counted(inside.length, "check")} failed` : "");
      return mark(`segment ${segment.segment}`, `segment aa-is-${how}`, label, segment.begun_us, segment.sealed_us,
        () => segmentDetail(gateway, segment, inside));
    });
    const begun = gateway.begun.map((each) =>
      mark(`begun ${each.segment}`, "begun", `segment begun ${instant(each.at_us)}, not sealed yet`, each.at_us, until, () => [
        el("dl", { class: "aa-facts" }, fact("Not sealed yet", el("code", {}, each.segment)), fact("Begun", instant(each.at_us))),
      ]));
    const gaps = gateway.gaps.map((gap) =>
      mark(`gap ${gap.entry}`, `gap aa-gap-${gap.kind}`, gapSays(gap), gap.from_us, gap.until_us ?? until, () => [
        el("dl", { class: "aa-facts" }, fact("Gap", gapSays(gap)), fact("From", instant(gap.from_us)),
          fact("Until", instant(gap.until_us)), fact("Log entry", count(gap.entry))),
      ]));
    const entryDetail = (each: Mark) => [
      el("dl", { class: "aa-facts" },
        fact(each.until_us === null ? "At" : "From", instant(each.at_us)),
        ...(each.until_us === null ? [] : [fact("Until", instant(each.until_us))]),
        fact("Log entry", count(each.entry)), fact("Says", ...shown(each.says)),
        ...(each.id ? [fact("Id", el("code", {}, ...shown(each.id)))] : [])),
    ];
    const entries = (name: string) =>
      gateway.marks.filter((each) => laneOf(each.kind) === name).map((each) =>
        mark(`entry ${each.kind} ${each.entry}`, `entry aa-entry-${each.kind}`, `${instant(each.at_us)}: ${each.says}`,
          each.at_us, each.kind === "hold" ? (each.until_us ?? until) : null, () => entryDetail(each)));
    const anchors = [...new Map((answer?.anchors ?? [])
      .filter((each) => each.gateway === gateway.gateway && each.log_us !== null)
      .map((each) => [`${each.kind} ${each.size}`, each])).values()];
    const outside = anchors.map((each) =>
      mark(`anchor ${each.kind} ${each.size}`, "entry aa-entry-trusted", `${each.kind} at ${counted(each.size, "log entry", "log entries")}`,
        each.log_us ?? from, null, () => [
          el("dl", { class: "aa-facts" }, fact("Anchor", ...shown(each.kind)), fact("Log entries", count(each.size)),
            fact("Log's time", instant(each.log_us)),
            ...(each.at_s === null ? [] : [fact("Signed at", instant(each.at_s * 1e6))]),
            ...(each.by.length ? [fact("By", ...shown(each.by.join(", ")))] : [])),
        ]));
    const purges = entries("purge");
    const lanes = el(
      "div", { class: "aa-lanes", role: "group", "aria-label": plain(`Timeline of ${gateway.gateway}; arrow keys move`) },
      lane("sealed", "Sealed", ...sealed, ...begun),
      lane("life", "Recording", signs(gateway), ...gaps),
      lane("outside", "Anchors", ...entries("outside"), ...outside),
      ...(purges.length ? [lane("purge", "Purges, holds", ...purges)] : []),
      lane("log", "Log", ...entries("log")),
      el("div", { class: "aa-lane aa-axis", "aria-hidden": "true" }, el("span", {}), el("div", { class: "aa-track" },
        ...datedTicks(from, until).map((tick) => place(el("span", { class: "aa-tick" }, tick.label), tick.time)))),
    );
    if (exposure && (exposure.entries || exposure.events)) {
      const since = exposure.since_size ? (exposure.since_us ?? from) : from;
      const over = el("div", { class: "aa-exposed-over", "aria-hidden": "true" });
      const window = place(el("div", { class: "aa-exposed" }, el("span", {}, "exposed")), since);
      window.style.right = "0";
      over.append(window);
      lanes.append(over);
    }
    marks.sort((a, b) => a.at - b.at);
    const first = marks.find((each) => each.node.dataset["key"] === chosen) ?? marks[0];
    if (first) first.node.tabIndex = 0;
    lanes.addEventListener("keydown", (event) => {
      const at = marks.findIndex((each) => each.node === document.activeElement);
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const next = marks[Math.min(Math.max(to, 0), marks.length - 1)];
      next?.node.focus();
      next?.node.click();
    });
    box.append(lanes);
    if (exposure) {
      const isNothing = !exposure.entries && !exposure.events;
      box.append(el("p", { class: `aa-exposure aa-is-${isNothing ? "good" : "warn"}` }, el("b", {}, "Exposure window: "), ...shown(exposure.says)));
    }
    const left = Object.entries(gateway.left_out).map(([kind, number]) => `${count(number)} of kind ${kind}`);
    if (left.length) box.append(el("p", { class: "aa-note" }, ...shown(`Earlier entries that are not drawn: ${left.join(", ")}.`)));
    box.append(detail);
    return box;
  }

  /** Ticks and heartbeats as bars: where there are none, nobody says that it records. */
  function signs(gateway: Gateway): HTMLElement {
    const box = el("div", { class: "aa-signs", "aria-hidden": "true" });
    const whole = Math.max(gateway.until_us - gateway.from_us, 1);
    const width = (100 * gateway.stretch_us) / whole;
    heights(gateway.ticks).forEach((height, at) => {
      if (!height) return;
      const sign = el("i", {});
      sign.style.left = `${Math.min(at * width, 100)}%`;
      sign.style.width = `${Math.min(width, 100 - Math.min(at * width, 100))}%`;
      sign.style.height = `${Math.round(20 + 80 * height)}%`;
      box.append(sign);
    });
    return box;
  }

  function segmentDetail(gateway: Gateway, segment: Segment, inside: readonly Finding[]): Node[] {
    const isOne = segment.segments === 1;
    const last = segment.first_event + segment.events - 1;
    const files = el("div", {});
    const more = el("button", { type: "button", class: "aa-button aa-small" }, "Files and digests");
    more.addEventListener("click", () => {
      ask<Files>("segment", { gateway: gateway.gateway, segment: segment.segment }).then((told) => {
        if (closed) return;
        more.hidden = true;
        files.replaceChildren(
          table("Files of the segment", ["table", "#rows", "#size", "SHA-256 as sealed"], told.files.map((file) => [
            el("code", {}, ...shown(file.table)), count(file.rows), bytes(file.bytes), el("code", { class: "aa-digest" }, ...shown(file.sha256)),
          ])),
          copyable(told.script, "commands that check the files"),
        );
      }, complain);
    });
    return [
      el("dl", { class: "aa-facts" },
        fact(isOne ? "Segment" : `${count(segment.segments)} segments from`, el("code", {}, ...shown(segment.segment))),
        fact("Events", `${count(segment.events)} (${count(segment.first_event)} to ${count(last)})`),
        fact("Sessions", count(segment.sessions)), fact("Commands", count(segment.commands)),
        fact("Sealed", instant(segment.sealed_us)), fact("Log entry", count(segment.entry)), fact("Key epoch", count(segment.epoch)),
        fact("Events' own times", `${instant(segment.first_us)} to ${instant(segment.last_us)}`),
        ...(isOne ? [fact("Root", el("code", { class: "aa-digest" }, ...shown(segment.root))), fact("Size", bytes(segment.bytes))] : [])),
      ...inside.map((each) => el("p", { class: "aa-is-bad" }, el("b", {}, ...shown(each.check)), " ", ...shown(`${each.place}: ${each.seen}`))),
      ...(isOne ? [more, files] : []),
    ];
  }

  /** Bring a finding's segment into view, with its details. */
  function reveal(finding: Finding): void {
    const found = opened && segmentOf(finding, opened.gateways);
    if (!found) return;
    const node = [...strips.querySelectorAll<HTMLButtonElement>(".aa-mark")].find((each) => each.dataset["key"] === `segment ${found.segment.segment}`);
    node?.focus();
    node?.click();
    node?.scrollIntoView({ block: "nearest" });
  }

  // -- tabs

  function drawTab(name: string, panel: HTMLElement): void {
    if (name === "without") panel.append(...without());
    else if (!answer) panel.append(el("p", { class: "aa-empty" }, "No check has come to its end yet."));
    else if (name === "findings") panel.append(...findingCards(answer));
    else if (name === "exposure") panel.append(...exposure(answer));
    else panel.append(...notes(answer));
  }

  function findingCards(found: Answer): Node[] {
    if (!found.findings.length) {
      return [el("p", { class: `aa-empty ${found.ok ? "aa-is-good" : ""}` }, found.ok === null ? "No check failed; that it is whole could not be told." : "No check failed.")];
    }
    const cards = found.findings.map((each) => {
      const isShown = opened !== null && segmentOf(each, opened.gateways) !== null;
      const numbers = (["entry", "event", "row"] as const).filter((name) => each[name] >= 0).map((name) => fact(name, count(each[name])));
      return el(
        "li", { class: "aa-finding" },
        el("div", { class: "aa-finding-top" },
          el("span", { class: "aa-badge aa-check-name" }, ...shown(each.check)),
          el("code", { class: "aa-place" }, ...shown(each.place)), el("span", { class: "aa-grow" }),
          isShown ? el("button", { type: "button", class: "aa-button aa-small", onclick: () => reveal(each), "aria-label": plain(`Show on the strip: ${each.place}`) }, "Show on the strip") : null),
        el("dl", { class: "aa-facts" }, fact("seen", ...shown(each.seen)),
          ...(each.expected ? [fact("expected", ...shown(each.expected))] : []),
          ...(each.segment ? [fact("segment", el("code", {}, ...shown(each.segment)))] : []), ...numbers),
        el("p", {}, el("b", {}, "It means: "), each.means, "."),
        el("p", {}, el("b", {}, "To do: "), each.do, "."),
      );
    });
    const rest = found.finding_count - found.findings.length;
    return [
      el("p", { class: "aa-first" }, "Keep a copy of the archive before anything else."),
      el("ol", { class: "aa-findings", "aria-label": "Findings" }, ...cards),
      ...(rest > 0 ? [el("p", { class: "aa-note" }, `and ${count(rest)} more: agentaudit verify prints all of them`)] : []),
    ];
  }

  function exposure(found: Answer): Node[] {
    const given = opened?.given;
    return [
      el("p", {}, "Whoever holds a gateway's signing key could rewrite what no anchor that others know covers. What this machine remembers of a log is noticed here alone."),
      table("Exposure window", ["gateway", "anchored by", "#at log entries", "log's time there", "#entries exposed", "#events exposed", "#events since remembered here"],
        found.exposure.map((each) => [
          el("code", {}, ...shown(each.gateway)), el("span", {}, ...shown(each.anchor)), count(each.since_size),
          instant(each.since_us), count(each.entries), count(each.events), each.remembered_size ? count(each.here_events) : "–"])),
      el("h5", {}, "Anchors"),
      found.anchors.length
        ? table("Anchors", ["gateway", "kind", "#log entries", "log's time", "signed at", "by"], found.anchors.map((each) => [
            el("code", {}, ...shown(each.gateway)), el("span", {}, ...shown(each.kind)), count(each.size), instant(each.log_us),
            each.at_s === null ? "–" : instant(each.at_s * 1e6), el("span", {}, ...shown(each.by.join(", ") || "–"))]))
        : el("p", { class: "aa-empty" }, "None: nothing outside the archive was given or is remembered."),
      given
        ? el("p", { class: "aa-note" }, `From outside the archive: ${counted(given.keys.length, "verifier key")}`,
            given.since ? ", a checkpoint" : "", given.policy ? ", a policy with witnesses" : "", given.tsa ? ", time-stamping authorities" : "",
            ". A checkpoint (since=), a policy with witnesses (policy=) and time-stamping authorities (tsa=) make the window smaller.")
        : el("span", {}),
    ];
  }

  function without(): Node[] {
    if (!opened) return [];
    return [
      el("p", {}, "What is signed needs nothing of ours to be checked. A checkpoint that you keep elsewhere proves later that the log was not shortened or rewritten: give it as since=."),
      ...opened.gateways.filter((each) => !each.problem).flatMap((each) => [
        el("h5", {}, ...shown(each.gateway)),
        copyable(each.checkpoint, `checkpoint of ${plain(each.gateway)}`),
        ...(each.cosigned ? [el("p", {}, `As witnesses have cosigned it, at ${counted(each.cosigned_size, "entry", "entries")}:`), copyable(each.cosigned, `cosigned checkpoint of ${plain(each.gateway)}`)] : []),
        el("p", {}, "Its signature, by OpenSSL alone:"),
        copyable(each.script, `commands for OpenSSL, ${plain(each.gateway)}`),
      ]),
      el("p", {}, "The files of a segment, by sha256sum: choose it on its strip. Log, heads, leaves and proofs, with Go and SQL: docs/verify-without-us.md. With ours, elsewhere:"),
      ...(opened.gateways[0] ? [copyable(opened.gateways[0].ours, "command that checks it again")] : []),
    ];
  }

  function notes(found: Answer): Node[] {
    const list = (title: string, lines: readonly string[]) =>
      lines.length ? [el("h5", {}, title), el("ul", { class: "aa-lines" }, ...lines.map((line) => el("li", {}, ...shown(line))))] : [];
    const all = [...list("Not read", found.unread), ...list("No fault, but worth knowing", found.notes)];
    return all.length ? all : [el("p", { class: "aa-empty" }, "Nothing else is worth knowing.")];
  }

  drawState();
  void open();
  return {
    dispose() {
      closed = true;
      clearTimeout(timer);
      frame.remove();
    },
  };
}
