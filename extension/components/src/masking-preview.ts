/**
 * Shows what masks would hide: before and after, side by side, while the rules are written.
 *
 * The kernel keeps the data and reads the rules. The browser sends the text of rules, and asks for
 * pages of lists by name.
 */

import { Closed, Refused, type Source } from "./channel.ts";
import { el, shown } from "./dom.ts";
import type { MaskingAnswers, Opened, Summary } from "./masking-preview/answers.ts";
import { banner, barKey, bars, figures, type Chosen } from "./masking-preview/counts.ts";
import { panel, type Offsets } from "./masking-preview/panels.ts";
import { appended, lineOf, lineRange } from "./masking-preview/rules.ts";
import { isTab, NAMES, tabAt, TABS, type Tab } from "./masking-preview/tabs.ts";
import { count, counted } from "./units.ts";
import { asking, Lifetime, messageOf, notices, replaceKeepingFocus } from "./view.ts";

export interface MaskingPreviewOptions {
  tab?: string;
  /** Hears which tab is shown. */
  onTab?: (tab: Tab) => void;
}

export interface MaskingPreviewView {
  show(tab: string): void;
  dispose(): void;
}

let instances = 0;

/** Draw the preview of what `source` answers about into `root`. */
export function mount(root: Element, source: Source, options: MaskingPreviewOptions = {}): MaskingPreviewView {
  const { tab = "hits", onTab = () => {} } = options;
  const prefix = `aa-masks-${(instances += 1)}`;
  const lifetime = new Lifetime();
  const lines = notices();
  const ask = asking<MaskingAnswers>(source, lines);

  let opened: Opened | null = null;
  let summary: Summary | null = null;
  let current: Tab = isTab(tab) ? tab : "hits";
  let tried = ""; // the text whose effect is shown
  let drawings = 0;
  const chosen: Chosen = { rule: "", column: "", detector: "" };
  let offsets: Offsets = {};

  // -- skeleton

  const head = el("div", { class: "aa-head" });
  const known = el("p", { class: "aa-banner", hidden: true });
  const problem = el("div", { class: "aa-problem", role: "alert", hidden: true, id: `${prefix}-problem` });
  const editor = el("textarea", {
    class: "aa-editor", spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
    "aria-label": "Rules, as TOML", "aria-describedby": `${prefix}-problem`, rows: 12,
  });
  const state = el("span", { class: "aa-state" });
  const runButton = el("button", {
    type: "button", class: "aa-button aa-primary aa-run", title: "Ctrl+Enter", onclick: () => void run(),
  }, "Try these rules");
  const resetButton = el("button", {
    type: "button", class: "aa-button", title: "back to the rules that the difference is about",
    onclick: () => {
      if (!opened) return;
      editor.value = opened.before_text;
      void run();
    },
  }, "Reset");
  const barBox = el("div", { class: "aa-bars" });
  const tabs = el("div", { class: "aa-tabs", role: "tablist", "aria-label": "Views of the preview" });
  const panelBox = el("section", { class: "aa-panel", role: "tabpanel", id: `${prefix}-panel`, tabindex: 0 });
  const frame = el(
    "div",
    { class: "aa-view aa-frame aa-masks", role: "region", "aria-label": "Masking preview" },
    head, lines.trouble, known,
    el(
      "div", { class: "aa-body" },
      el(
        "div", { class: "aa-side" },
        el("div", { class: "aa-rules-top" }, el("h4", {}, "Rules"), state, el("span", { class: "aa-grow" }), resetButton, runButton),
        editor, problem, barBox,
      ),
      el("div", { class: "aa-main" }, tabs, panelBox),
    ),
    lines.status,
  );
  root.append(frame);

  // -- rules

  lifetime.listen(editor, "input", edited);
  lifetime.listen(editor, "keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      event.stopPropagation();
      void run();
    }
  });

  function edited(): void {
    const isOther = editor.value !== tried;
    state.textContent = isOther ? "not tried yet" : "";
    frame.classList.toggle("aa-stale", isOther);
    resetButton.disabled = !opened || editor.value === opened.before_text;
  }

  function addRule(rule: string): void {
    editor.value = appended(editor.value, rule);
    edited();
    editor.scrollTop = editor.scrollHeight;
    editor.focus();
    editor.setSelectionRange(editor.value.length - rule.length, editor.value.length);
    lines.say("a rule was added; Ctrl+Enter tries it");
  }

  async function run(): Promise<void> {
    const text = editor.value;
    runButton.disabled = true;
    state.textContent = "trying …";
    frame.setAttribute("aria-busy", "true");
    try {
      summary = (await ask("run", { text })).data;
      if (lifetime.isOver) return;
      tried = text;
      problem.hidden = true;
      editor.removeAttribute("aria-invalid");
      offsets = {};
      Object.assign(chosen, { rule: "", column: "", detector: "" });
      drawAll();
      lines.say(`${counted(summary.hidden, "place")} would be hidden`);
    } catch (error) {
      if (!(error instanceof Closed)) showProblem(error, text);
    } finally {
      runButton.disabled = false;
      frame.removeAttribute("aria-busy");
      edited();
    }
  }

  function showProblem(error: unknown, text: string): void {
    const message = messageOf(error);
    const hint = error instanceof Refused ? error.hint : "";
    problem.replaceChildren(
      el("b", {}, "These rules cannot be used"),
      ...message.split("\n").map((line) => el("div", {}, ...shown(line))),
      ...(hint ? [el("div", { class: "aa-hint" }, "hint: ", ...shown(hint))] : []),
      el("div", { class: "aa-hint" }, "What is shown is still that of the rules before."),
    );
    problem.hidden = false;
    editor.setAttribute("aria-invalid", "true");
    const line = lineOf(message);
    if (line) {
      editor.focus();
      editor.setSelectionRange(...lineRange(text, line));
    }
  }

  // -- heading, counts and tabs

  function drawAll(): void {
    if (!opened || !summary) return;
    head.replaceChildren(...figures(opened, summary, show));
    const words = banner(opened, summary);
    known.replaceChildren(...words);
    known.hidden = !words.length;
    drawBars();
    drawTabs();
    void drawPanel();
  }

  function drawBars(): void {
    if (summary) barBox.replaceChildren(...bars(summary, chosen, choose));
  }

  function choose(key: keyof Chosen, name: string): void {
    chosen[key] = chosen[key] === name ? "" : name;
    offsets.hits = 0;
    show("hits");
    drawBars();
    [...barBox.querySelectorAll<HTMLElement>(".aa-bar")].find((node) => node.dataset["key"] === barKey(key, name))?.focus();
  }

  function drawTabs(): void {
    if (!summary) return;
    const numbers: Partial<Record<Tab, number>> = {
      hits: summary.hidden, candidates: summary.candidates, uncovered: summary.uncovered, columns: summary.columns.length,
    };
    const button = (name: Tab) => {
      const number = numbers[name];
      return el(
        "button",
        {
          type: "button", role: "tab", class: "aa-tab", id: `${prefix}-tab-${name}`, "aria-controls": `${prefix}-panel`,
          "aria-selected": name === current ? "true" : "false", tabindex: name === current ? 0 : -1,
          onclick: () => show(name),
          onkeydown: (event: KeyboardEvent) => {
            const to = event.ctrlKey || event.metaKey || event.altKey ? null : tabAt(current, event.key);
            if (!to) return;
            event.preventDefault();
            show(to);
            tabs.querySelector<HTMLElement>(`#${prefix}-tab-${to}`)?.focus();
          },
        },
        NAMES[name],
        number === undefined ? null : el("b", {}, count(number)),
      );
    };
    tabs.replaceChildren(...TABS.map(button));
    panelBox.setAttribute("aria-labelledby", `${prefix}-tab-${current}`);
  }

  function show(name: Tab): void {
    if (!summary) return;
    current = name;
    onTab(name);
    drawTabs();
    void drawPanel();
  }

  async function drawPanel(): Promise<void> {
    if (!summary) return;
    drawings += 1;
    const mine = drawings;
    panelBox.classList.add("aa-waiting");
    try {
      const nodes = await panel(current, summary, {
        ask, chosen, offsets, addRule,
        redraw: () => void drawPanel(),
        unchoose: (key) => {
          chosen[key] = "";
          offsets.hits = 0;
          drawBars();
          void drawPanel();
        },
      });
      if (mine !== drawings || lifetime.isOver) return; // another tab overtook this one
      replaceKeepingFocus(panelBox, () => panelBox, ...nodes);
      panelBox.scrollTop = 0;
    } catch (error) {
      lines.complain(error);
    } finally {
      if (mine === drawings) panelBox.classList.remove("aa-waiting");
    }
  }

  // -- life

  async function load(): Promise<void> {
    const { data } = await ask("open");
    if (lifetime.isOver) return;
    opened = data;
    summary = data;
    tried = data.text;
    editor.value = data.text;
    edited();
    drawAll();
  }
  load().catch(lines.complain);

  return {
    show: (name) => {
      if (name !== current && isTab(name)) show(name);
    },
    dispose() {
      lifetime.end();
      frame.remove();
    },
  };
}
