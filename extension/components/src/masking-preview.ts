// @ts-nocheck
/**
 * Shows what masks would hide: before and after, side by side, while the rules are written.
 *
 * The kernel keeps the data and reads the rules. The browser sends the text of rules, and asks for
 * pages of lists by name.
 *
 * Above `mount` are pure functions; `mount` draws into an element from any source.
 */

import { el, shown } from "./dom.ts";
import { plain } from "./text.ts";
import { count, counted, percent } from "./units.ts";

export const TABS = ["hits", "candidates", "uncovered", "columns", "difference"];
export const PAGE_ROWS = 50;
const DIFFERENCE_ROWS = 25;
const BARS = 8;

/**
 * Return how wide each bar is, 0 to 100, by the largest of `counts`.
 *
 * Where there is one at all it shows: a bar of one in a million is not the bar of none.
 */
export function widths(counts) {
  const most = Math.max(...counts, 1);
  return counts.map((each) => (each > 0 ? Math.max(2, Math.round((100 * each) / most)) : 0));
}

/** Return the range that a page shows, "1–50 of 1,234". */
export function range(offset, rows, total) {
  if (!total) return "none";
  return `${count(offset + 1)}–${count(offset + rows)} of ${count(total)}`;
}

/** Return where the last page begins. */
export const lastPage = (total, rows) => Math.max(0, Math.floor((total - 1) / rows) * rows);

/** Say how something was found: the detector, or what else it was. */
export function how(hit) {
  if (hit.detector) return hit.detector;
  return { column: "whole column", json_path: "JSON path", pattern: "pattern" }[hit.how] ?? hit.how;
}

/** Return what a mark shows where a value was taken away altogether. */
export function replacement(hit) {
  return hit.is_dropped && !hit.after[1] ? { text: "NULL", isNothing: true } : { text: hit.after[1], isNothing: false };
}

const KEYS = {
  ArrowRight: 1, ArrowLeft: -1, Home: "first", End: "last",
};

/** Return which tab a key leads to from `tab`, or null where it belongs to somebody else. */
export function tabAt(tab, key) {
  const move = KEYS[key];
  if (move === undefined) return null;
  if (move === "first") return TABS[0];
  if (move === "last") return TABS[TABS.length - 1];
  return TABS[(TABS.indexOf(tab) + move + TABS.length) % TABS.length];
}

/** Return the line, from 1, that an error of the kernel names, or 0. */
export function lineOf(error) {
  const found = /\bline (\d+)/.exec(error);
  return found ? Number(found[1]) : 0;
}

/** Return where line `number` of `text` begins and ends. */
export function lineRange(text, number) {
  let start = 0;
  for (let line = 1; line < number; line += 1) {
    const end = text.indexOf("\n", start);
    if (end < 0) break;
    start = end + 1;
  }
  const end = text.indexOf("\n", start);
  return [start, end < 0 ? text.length : end];
}

/** Return the rules with one more behind them, an empty line between. */
export function appended(rules, rule) {
  const before = rules.trimEnd();
  return before ? `${before}\n\n${rule}` : rule;
}

// --- drawing --------------------------------------------------------------------------------------

let instances = 0;
const NAMES = {
  hits: "What is hidden",
  candidates: "Perhaps wrongly",
  uncovered: "Not covered",
  columns: "Columns",
  difference: "Difference",
};

/**
 * Draw the preview of `source` into `root`; returns `{show(tab), dispose()}`.
 *
 * `source.request(op, args)` answers with data. `onTab(name)` hears which tab is shown.
 */
export function mount(root, source, { tab = "hits", onTab = () => {} } = {}) {
  const prefix = `aa-masks-${(instances += 1)}`;
  let closed = false;
  let opened = null;
  let summary = null;
  let current = TABS.includes(tab) ? tab : "hits";
  let tried = ""; // the text whose effect is shown
  let drawing = 0;
  const filter = { rule: "", column: "", detector: "" };
  const offsets = {};

  // -- skeleton

  const announce = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const heading = el("header", { class: "aa-head" });
  const banner = el("p", { class: "aa-banner", hidden: true });
  const problem = el("div", { class: "aa-problem", role: "alert", hidden: true, id: `${prefix}-problem` });
  const editor = el("textarea", {
    class: "aa-editor", spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off",
    "aria-label": "Rules, as TOML", "aria-describedby": `${prefix}-problem`, rows: 12,
  });
  const state = el("span", { class: "aa-state" });
  const runButton = el("button", { type: "button", class: "aa-button aa-primary aa-run", title: "Ctrl+Enter", onclick: () => run() }, "Try these rules");
  const resetButton = el("button", {
    type: "button", class: "aa-button", title: "back to the rules that the difference is about",
    onclick: () => { editor.value = opened.before_text; edited(); run(); },
  }, "Reset");
  const bars = el("div", { class: "aa-bars" });
  const tabs = el("div", { class: "aa-tabs", role: "tablist", "aria-label": "Views of the preview" });
  const panel = el("section", { class: "aa-panel", role: "tabpanel", id: `${prefix}-panel`, tabindex: 0 });
  const frame = el(
    "div",
    { class: "aa-view aa-frame aa-masks", role: "region", "aria-label": "Masking preview" },
    heading, trouble, banner,
    el(
      "div", { class: "aa-body" },
      el(
        "div", { class: "aa-side" },
        el("div", { class: "aa-rules-top" }, el("h4", {}, "Rules"), state, el("span", { class: "aa-grow" }), resetButton, runButton),
        editor, problem, bars,
      ),
      el("div", { class: "aa-main" }, tabs, panel),
    ),
    announce,
  );
  root.append(frame);

  const complain = (error) => {
    if (closed || error.message === "closed") return;
    trouble.replaceChildren(...shown(error.message));
    trouble.hidden = false;
  };
  const ask = async (op, args) => {
    const { data } = await source.request(op, args);
    trouble.hidden = true;
    return data;
  };

  // -- rules

  editor.addEventListener("input", edited);
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      event.stopPropagation();
      run();
    }
  });

  function edited() {
    const isOther = editor.value !== tried;
    state.textContent = isOther ? "not tried yet" : "";
    frame.classList.toggle("aa-stale", isOther);
    resetButton.disabled = !opened || editor.value === opened.before_text;
  }

  function addRule(rule) {
    editor.value = appended(editor.value, rule);
    edited();
    editor.scrollTop = editor.scrollHeight;
    editor.focus();
    editor.setSelectionRange(editor.value.length - rule.length, editor.value.length);
    announce.textContent = "a rule was added; Ctrl+Enter tries it";
  }

  async function run() {
    const text = editor.value;
    runButton.disabled = true;
    state.textContent = "trying …";
    frame.setAttribute("aria-busy", "true");
    try {
      summary = await ask("run", { text });
      if (closed) return;
      tried = text;
      problem.hidden = true;
      editor.removeAttribute("aria-invalid");
      for (const name of Object.keys(offsets)) delete offsets[name];
      Object.assign(filter, { rule: "", column: "", detector: "" });
      drawAll();
      announce.textContent = `${counted(summary.hidden, "place")} would be hidden`;
    } catch (error) {
      if (closed || error.message === "closed") return;
      problem.replaceChildren(
        el("b", {}, "These rules cannot be used"),
        ...error.message.split("\n").map((line) => el("div", {}, ...shown(line))),
        error.hint ? el("div", { class: "aa-hint" }, "hint: ", ...shown(error.hint)) : null,
        el("div", { class: "aa-hint" }, "What is shown is still that of the rules before."),
      );
      problem.hidden = false;
      editor.setAttribute("aria-invalid", "true");
      const line = lineOf(error.message);
      if (line) {
        editor.focus();
        editor.setSelectionRange(...lineRange(text, line));
      }
    } finally {
      runButton.disabled = false;
      frame.removeAttribute("aria-busy");
      edited();
    }
  }

  // -- heading and counts

  function drawAll() {
    drawHeading();
    drawBars();
    drawTabs();
    drawPanel();
  }

  function drawHeading() {
    const figure = (number, label, kind, to) =>
      el(
        "button",
        { type: "button", class: `aa-figure aa-${kind}`, onclick: () => show(to), title: NAMES[to] },
        el("b", {}, count(number)), el("span", {}, label),
      );
    heading.replaceChildren(
      el(
        "div", { class: "aa-title" },
        el("span", { class: "aa-name" }, "Masking preview"),
        el("span", { class: "aa-quiet" }, "of ", ...shown(opened.source)),
      ),
      el(
        "div", { class: "aa-figures" },
        figure(summary.values, summary.values === 1 ? "value looked at" : "values looked at", "plain", "columns"),
        figure(summary.hidden, summary.hidden === 1 ? "place hidden" : "places hidden", "hide", "hits"),
        figure(summary.candidates, "perhaps wrongly", summary.candidates ? "doubt" : "plain", "candidates"),
        figure(summary.uncovered, "not covered", summary.uncovered ? "open" : "good", "uncovered"),
      ),
    );
    const masked = summary.masked.reduce((sum, each) => sum + each.values, 0);
    const words = [];
    if (opened.is_recorded) {
      words.push(
        "Values under “before” are as they were recorded. ",
        masked
          ? el("b", {}, `${counted(masked, "value")} ${masked === 1 ? "was" : "were"} masked then: the marks are all there is, and what they hide cannot come back.`)
          : "Nothing in them was masked when they were recorded.",
      );
    }
    banner.replaceChildren(...words);
    banner.hidden = !words.length;
  }

  function drawBars() {
    const group = (title, key, rows, each) => {
      const sizes = widths(rows.map((row) => row.count));
      return el(
        "div", { class: "aa-bar-group", role: "group", "aria-label": title },
        el("h4", {}, title),
        ...rows.slice(0, BARS).map((row, i) =>
          el(
            "button",
            {
              type: "button", class: "aa-bar", "aria-pressed": filter[key] === row.name ? "true" : "false",
              disabled: !row.count, title: row.count ? `show those of ${plain(row.name)}` : "hides nothing here",
              onclick: () => {
                filter[key] = filter[key] === row.name ? "" : row.name;
                offsets.hits = 0;
                show("hits");
                drawBars();
                [...bars.querySelectorAll(".aa-bar")].find((node) => node.dataset.key === `${key} ${row.name}`)?.focus();
              },
              "data-key": `${key} ${row.name}`,
            },
            el("span", { class: "aa-bar-name" }, ...shown(each(row))),
            el("span", { class: "aa-bar-count" }, count(row.count)),
            fill(sizes[i]),
          ),
        ),
        rows.length > BARS ? el("div", { class: "aa-quiet" }, `${count(rows.length - BARS)} more`) : null,
      );
    };
    const columns = summary.columns.filter((each) => each.places).map((each) => ({ name: each.name, count: each.places }));
    bars.replaceChildren(
      group("By rule", "rule", summary.rules, (row) => row.name),
      columns.length ? group("By column", "column", columns, (row) => row.name) : "",
      summary.detectors.length ? group("By detector", "detector", summary.detectors, (row) => row.name) : "",
      summary.notes.length
        ? el("details", { class: "aa-notes", open: summary.notes.length < 3 }, el("summary", {}, counted(summary.notes.length, "note")),
            el("ul", {}, ...summary.notes.map((note) => el("li", {}, ...shown(note)))))
        : "",
    );
  }

  function fill(width) {
    const node = el("i", { class: "aa-fill", "aria-hidden": "true" });
    node.style.width = `${width}%`;
    return node;
  }

  // -- tabs

  function drawTabs() {
    const numbers = { hits: summary.hidden, candidates: summary.candidates, uncovered: summary.uncovered, columns: summary.columns.length };
    tabs.replaceChildren(
      ...TABS.map((name) =>
        el(
          "button",
          {
            type: "button", role: "tab", class: "aa-tab", id: `${prefix}-tab-${name}`, "aria-controls": `${prefix}-panel`,
            "aria-selected": name === current ? "true" : "false", tabindex: name === current ? 0 : -1,
            onclick: () => show(name),
            onkeydown: (event) => {
              const to = event.ctrlKey || event.metaKey || event.altKey ? null : tabAt(current, event.key);
              if (!to) return;
              event.preventDefault();
              show(to);
              tabs.querySelector(`#${prefix}-tab-${to}`).focus();
            },
          },
          NAMES[name],
          name in numbers ? el("b", {}, count(numbers[name])) : null,
        ),
      ),
    );
    panel.setAttribute("aria-labelledby", `${prefix}-tab-${current}`);
  }

  function show(name) {
    if (!TABS.includes(name) || !summary) return;
    current = name;
    onTab(name);
    drawTabs();
    drawPanel();
  }

  async function drawPanel() {
    drawing += 1;
    const mine = drawing;
    panel.classList.add("aa-waiting");
    try {
      const nodes = await { hits, candidates, uncovered, columns, difference }[current]();
      if (mine !== drawing || closed) return; // another tab overtook this one
      const held = panel.contains(root.getRootNode().activeElement)
        ? root.getRootNode().activeElement.getAttribute("aria-label") : null;
      panel.replaceChildren(...nodes);
      panel.scrollTop = 0;
      // Whoever turns pages by keyboard must not be thrown out of the panel with the old buttons.
      if (held) {
        const again = [...panel.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === held);
        (again && !again.disabled ? again : panel).focus({ preventScroll: true });
      }
    } catch (error) {
      complain(error);
    } finally {
      if (mine === drawing) panel.classList.remove("aa-waiting");
    }
  }

  function pager(name, page, rows) {
    if (page.total <= rows) return null;
    const last = lastPage(page.total, rows);
    const turn = (label, text, to, off) =>
      el("button", {
        type: "button", class: "aa-button", "aria-label": label, title: label, disabled: off,
        onclick: () => { offsets[name] = to; drawPanel(); },
      }, text);
    return el(
      "span", { class: "aa-pager" },
      turn("First page", "«", 0, page.offset === 0),
      turn("Previous page", "‹", Math.max(0, page.offset - rows), page.offset === 0),
      el("span", { class: "aa-range" }, range(page.offset, page.rows.length, page.total)),
      turn("Next page", "›", page.offset + rows, page.offset >= last),
      turn("Last page", "»", last, page.offset >= last),
    );
  }

  const top = (words, ...more) => el("div", { class: "aa-panel-top" }, el("p", {}, ...words), el("span", { class: "aa-grow" }), ...more);
  const empty = (...words) => el("p", { class: "aa-empty" }, ...words);

  const before = (hit) =>
    el("div", { class: "aa-text aa-before" }, ...shown(hit.before[0]), el("mark", { class: "aa-hidden-part" }, ...shown(hit.before[1])), ...shown(hit.before[2]));
  const after = (hit) => {
    const made = replacement(hit);
    return el(
      "div", { class: "aa-text aa-after" },
      ...shown(hit.after[0]), el("mark", { class: made.isNothing ? "aa-made aa-nothing" : "aa-made" }, ...shown(made.text)), ...shown(hit.after[2]),
    );
  };
  const badge = (hit) =>
    el(
      "span", { class: "aa-by" },
      el("span", { class: "aa-badge aa-rule" }, ...shown(hit.rule)),
      how(hit) !== hit.rule ? el("span", { class: "aa-badge" }, ...shown(how(hit))) : null,
      ...hit.doubts.map((doubt) => el("span", { class: "aa-badge aa-doubtful", title: "it may be something else" }, ...shown(doubt))),
    );
  const pair = (hit) =>
    el(
      "div", { class: "aa-pair", role: "listitem" },
      el("div", { class: "aa-where" }, el("span", {}, ...shown(hit.place)), badge(hit)),
      before(hit), after(hit),
    );
  const headings = (left, right) =>
    el("div", { class: "aa-pair aa-headings", "aria-hidden": "true" }, el("div", {}, left), el("div", {}, right));

  async function hits() {
    const page = await ask("hits", { offset: offsets.hits ?? 0, limit: PAGE_ROWS, ...filter });
    const chosen = Object.entries(filter).filter(([, value]) => value);
    const clear = chosen.map(([key, value]) =>
      el("button", {
        type: "button", class: "aa-chip", "aria-label": `no longer only ${key} ${plain(value)}`,
        onclick: () => { filter[key] = ""; offsets.hits = 0; drawBars(); drawPanel(); },
      }, `${key}: `, ...shown(value), " ×"));
    if (!page.total && !chosen.length) return [empty("Nothing would be hidden by these rules.")];
    const rest = summary.hidden - summary.kept;
    return [
      top([counted(page.total, "place"), rest ? `; ${count(rest)} more were counted and are not kept` : "", " "], ...clear, pager("hits", page, PAGE_ROWS)),
      headings("before", "after, as it would be recorded"),
      el("div", { class: "aa-pairs", role: "list" }, ...page.rows.map(pair)),
    ];
  }

  async function candidates() {
    const page = await ask("candidates", { offset: offsets.candidates ?? 0, limit: PAGE_ROWS });
    if (!page.total) return [empty("Nothing here looks hidden wrongly.")];
    return [
      top(["Found by a detector, and perhaps something else: why, with examples. A rule about columns, or fewer detectors, says it better."], pager("candidates", page, PAGE_ROWS)),
      ...page.rows.map((row) =>
        el(
          "article", { class: "aa-card aa-doubt" },
          el("div", { class: "aa-card-top" },
            el("b", {}, ...shown(row.column)), el("span", { class: "aa-badge" }, ...shown(row.detector)),
            el("span", { class: "aa-quiet" }, counted(row.count, "place"))),
          el("p", {}, ...shown(row.reason)),
          el("div", { class: "aa-examples" }, ...row.examples.map(before)),
        ),
      ),
    ];
  }

  async function uncovered() {
    const page = await ask("uncovered", { offset: offsets.uncovered ?? 0, limit: PAGE_ROWS });
    if (!page.total) return [empty("Nothing that stays visible looks like a secret or like personal data.")];
    return [
      top(["What would stay visible, and looks like something to hide. Examples are shown in part."], pager("uncovered", page, PAGE_ROWS)),
      ...page.rows.map((row) => {
        const meter = el("span", { class: "aa-meter", "aria-hidden": "true" }, fill(Math.max(2, Math.round(row.share * 100))));
        return el(
          "article", { class: "aa-card aa-open" },
          el("div", { class: "aa-card-top" },
            el("b", {}, ...shown(row.column)), el("span", { class: "aa-badge" }, ...shown(row.detector || row.kind)),
            el("span", { class: "aa-grow" }), meter, el("span", { class: "aa-quiet" }, `${percent(row.share)} of ${counted(row.values, "value")}`),
            el("button", {
              type: "button", class: "aa-button aa-small", "aria-label": `add a rule for ${plain(row.column)} ${row.detector}`.trim(),
              title: "writes a rule that hides it; then try it", onclick: () => addRule(row.rule),
            }, "Add a rule")),
          row.examples.length
            ? el("div", { class: "aa-examples" }, ...row.examples.map((each) => el("div", { class: "aa-text" }, ...shown(each))))
            : el("p", {}, ...shown(row.reason)),
        );
      }),
    ];
  }

  async function columns() {
    const cell = (text, kind) => el("td", { class: kind }, ...shown(text));
    return [
      top(["Every column that was looked at, and how much of it would be hidden."]),
      el(
        "table", { class: "aa-table" },
        el("thead", {}, el("tr", {}, ...["column", "values", "null", "hidden", "", "masked before", "by"].map((name, i) => el("th", { scope: "col", class: [1, 2, 3, 5].includes(i) ? "aa-num" : null }, name)))),
        el("tbody", {}, ...summary.columns.map((each) =>
          el("tr", {},
            el("th", { scope: "row" }, ...shown(each.name || "document")),
            cell(count(each.values), "aa-num"), cell(count(each.nulls), "aa-num"), cell(count(each.hidden), "aa-num"),
            el("td", {}, each.values ? el("span", { class: "aa-meter aa-hide", title: percent(each.hidden / each.values) }, fill(each.hidden ? Math.max(2, Math.round((100 * each.hidden) / each.values)) : 0)) : ""),
            cell(each.masked ? count(each.masked) : "–", "aa-num"), cell(each.rules.join(", ") || "–"),
          ))),
      ),
    ];
  }

  async function difference() {
    const parts = ["only_a", "only_b", "otherwise"];
    const pages = [];
    for (const part of parts) pages.push(await ask("difference", { part, offset: offsets[part] ?? 0, limit: DIFFERENCE_ROWS }));
    const { counts } = pages[0];
    const isSame = !counts.only_a && !counts.only_b && !counts.otherwise;
    const section = (title, number, page, name, rows) =>
      number ? el("section", { class: "aa-part" }, el("div", { class: "aa-panel-top" }, el("h4", {}, title), el("b", { class: "aa-number" }, count(number)), el("span", { class: "aa-grow" }), pager(name, page, DIFFERENCE_ROWS)), ...rows) : null;
    return [
      top([
        isSame ? `Both sets of rules hide the same ${counted(counts.same, "place")}.` : `The rules on the left beside those that the preview began with; ${counted(counts.same, "place")} alike.`,
      ]),
      section("No longer hidden", counts.only_a, pages[0], "only_a", [headings("stays visible now", "was to be hidden as"), el("div", { class: "aa-pairs", role: "list" }, ...pages[0].rows.map(pair))]),
      section("Hidden only now", counts.only_b, pages[1], "only_b", [headings("before", "after, as it would be recorded"), el("div", { class: "aa-pairs", role: "list" }, ...pages[1].rows.map(pair))]),
      section("Hidden otherwise", counts.otherwise, pages[2], "otherwise", [
        headings("by the rules before", "by these rules"),
        el("div", { class: "aa-pairs", role: "list" }, ...pages[2].rows.map(({ a, b }) =>
          el("div", { class: "aa-pair", role: "listitem" }, el("div", { class: "aa-where" }, el("span", {}, ...shown(b.place)), badge(b)), after(a), after(b)))),
      ]),
    ].filter(Boolean);
  }

  // -- life

  (async () => {
    const data = await ask("open", {});
    if (closed) return;
    opened = data;
    summary = data;
    tried = data.text;
    editor.value = data.text;
    edited();
    drawAll();
  })().catch(complain);

  return {
    show: (name) => {
      if (name !== current) show(name);
    },
    dispose() {
      closed = true;
      frame.remove();
    },
  };
}
