/** Facets of a filter: the values there are, how many commands each has under all else, and a click. */

import type { Source } from "../channel.ts";
import { arrange, el, shown } from "../dom.ts";
import { measured } from "../measured.ts";
import { plain } from "../text.ts";
import { count, counted } from "../units.ts";
import { Lifetime } from "../view.ts";
import { given, toggled, type Facet, type Scope } from "./scope.ts";

const TITLES: [Facet, string][] = [
  ["flags", "Marked"], ["cls", "Class"], ["status", "Status"], ["decision", "Decision"], ["user", "User"], ["agent", "Agent"],
  ["target", "Target"], ["table", "Table"], ["risk", "Risk"], ["operation", "Operation"], ["protocol", "Protocol"],
  ["session", "Session"],
];
const FEW = 7;
const PAGE = 50;
const TYPING_MS = 180;

type Value = [name: string | null, n: number];

/** Nothing is told before the kernel has read the archive. */
interface Told {
  facets?: Record<Facet, { values: Value[]; more: number }>;
}

/** What was looked for among the values of a facet that has more than `facets` tells, and found so far. */
interface Found {
  text: string;
  values: Value[];
  n: number;
}

/** What is drawn of a facet. What is shown again stays: only what it says is written anew, where that differs. */
interface Group {
  readonly details: HTMLDetailsElement;
  readonly summary: HTMLElement;
  readonly values: Map<string, Shown>;
}

interface Shown {
  readonly button: HTMLElement;
  say(isChosen: boolean, share: number, n: number): void;
}

export interface FacetsView {
  readonly element: HTMLElement;
  refresh(): void;
  dispose(): void;
}

export function facets(source: Source, scope: Scope, complain: (error: unknown) => void): FacetsView {
  const lifetime = new Lifetime();
  const body = el("div", { class: "aa-facets-body" });
  const status = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const element = el("nav", { class: "aa-facets", "aria-label": "Filters" }, body, status);
  const wide = new Set<Facet>();
  const fields = new Map<Facet, HTMLInputElement>();
  const found = new Map<Facet, Found>();
  const groups = new Map<Facet, Group>();
  const isOpen = new Map<Facet, boolean>(TITLES.map(([facet], i) => [facet, i < 8]));
  let told: Told = {};
  let asked = 0;

  async function refresh(): Promise<void> {
    asked += 1;
    const mine = asked;
    const began = performance.now();
    element.setAttribute("aria-busy", "true");
    try {
      const { data } = await source.request<Told>("facets", { filter: scope.filter });
      if (mine !== asked || lifetime.isOver) return;
      told = data;
      draw();
      measured("facets", began);
      // Their counts are those of before.
      for (const facet of found.keys()) void look(facet);
    } catch (error) {
      complain(error);
    } finally {
      if (mine === asked) element.removeAttribute("aria-busy");
    }
  }

  /** Look for the text in a facet's field: from the first value on, or for the next after those that are shown. */
  async function look(facet: Facet, isNext = false): Promise<void> {
    const text = fields.get(facet)?.value ?? "";
    const before = found.get(facet);
    const known = isNext && before?.text === text ? before.values : [];
    // The first time all that is shown already is asked for too: its order is another.
    const limit = isNext && !known.length ? 2 * PAGE : PAGE;
    const filter = scope.filter;
    try {
      const { data } = await source.request<{ values?: Value[]; n: number | null }>("values", {
        filter, facet, text, offset: known.length, limit,
      });
      const isLate = lifetime.isOver || filter !== scope.filter || text !== (fields.get(facet)?.value ?? "");
      if (isLate || found.get(facet) !== before || !data.values) return;
      found.set(facet, { text, values: [...known, ...data.values], n: data.n ?? 0 });
      draw();
      if (text || isNext) status.textContent = `${counted(data.n ?? 0, "value")}${text ? " found" : ""}, ${count(known.length + data.values.length)} shown`;
    } catch (error) {
      complain(error);
    }
  }

  function draw(): void {
    // Whoever steps through by keyboard stays where they are.
    const root = element.getRootNode() as Document | ShadowRoot;
    const active = root.activeElement;
    const held = active && body.contains(active) ? active.getAttribute("data-key") : null;
    arrange(body, TITLES.map(([facet, title]) => group(facet, title)).filter((node) => node !== null));
    if (held === null || root.activeElement === active) return;
    const again = body.querySelector<HTMLElement>(`[data-key="${CSS.escape(held)}"]`);
    // The button for more goes when all are shown: the last of them has the focus then.
    const facet = held.slice(0, held.indexOf("\n") + 1);
    const values = [...body.querySelectorAll<HTMLElement>(".aa-facet-value")].filter((node) => node.dataset["key"]?.startsWith(facet));
    (again ?? values.at(-1))?.focus({ preventScroll: true });
  }

  /** The field for a facet of which not all values are told: the same one as long as the view lives, since one types in it. */
  function field(facet: Facet, title: string): HTMLInputElement {
    const known = fields.get(facet);
    if (known) return known;
    let typing: ReturnType<typeof setTimeout> | undefined;
    const made = el("input", {
      type: "search", class: "aa-field aa-facet-search", placeholder: "part of a name", spellcheck: "false", autocomplete: "off",
      maxlength: 200, "aria-label": `Look for a value of ${title}`, "data-key": `${facet}\n\n?`,
      oninput: () => {
        clearTimeout(typing);
        typing = setTimeout(() => void look(facet), TYPING_MS);
      },
    });
    lifetime.onEnd(() => clearTimeout(typing));
    fields.set(facet, made);
    return made;
  }

  function narrow(facet: Facet): void {
    wide.delete(facet);
    fields.delete(facet);
    found.delete(facet);
    draw();
  }

  function group(facet: Facet, title: string): HTMLElement | null {
    const first = told.facets?.[facet];
    const chosen = scope.filter[facet] ?? [];
    if (!first || (!first.values.length && !chosen.length)) return null;
    const looked = first.more ? found.get(facet) : undefined;
    const counts = new Map((looked?.values ?? first.values).map(([value, n]) => [value ?? "", n]));
    // What is chosen stays in sight, even where nothing has it.
    const known = new Map(first.values.map(([value, n]) => [value ?? "", n]));
    for (const value of chosen) if (!counts.has(value)) counts.set(value, known.get(value) ?? 0);
    const all = [...counts].sort(([a], [b]) => Number(chosen.includes(b)) - Number(chosen.includes(a)));
    const isWide = wide.has(facet);
    const values = isWide ? all : all.slice(0, Math.max(FEW, chosen.length));
    const most = Math.max(1, ...counts.values());
    const more = isWide && looked ? looked.n - looked.values.length : all.length - values.length + first.more;
    const button = (key: string, label: string, says: string, act: () => void) =>
      el("button", {
        type: "button", class: "aa-button aa-calm aa-more", "data-key": `${facet}${key}`, "aria-label": `${says} of ${title}`, onclick: act,
      }, label);
    const { details, summary, values: drawn } = groupOf(facet, title);
    arrange(summary, [summary.firstChild as Node, ...(chosen.length ? [el("b", {}, ` ${chosen.length}`)] : [])]);
    const isOpened = Boolean(isOpen.get(facet)) || chosen.length > 0;
    if (details.open !== isOpened) details.open = isOpened;
    const gone = new Set(drawn.keys());
    const buttons = values.map(([value, n]) => {
      gone.delete(value);
      const one = drawn.get(value) ?? valueOf(facet, value);
      drawn.set(value, one);
      one.say(chosen.includes(value), n ? Math.max(1, (100 * n) / most) : 0, n);
      return one.button;
    });
    for (const value of gone) drawn.delete(value);
    arrange(details, [
      summary,
      isWide && first.more ? field(facet, title) : null,
      ...buttons,
      isWide && !values.length ? el("div", { class: "aa-empty" }, "none has it") : null,
      more > 0
        ? button("\n\n", `${count(more)} more`, `${count(more)} more`, () => {
          if (isWide) void look(facet, true);
          else {
            wide.add(facet);
            draw();
          }
        })
        : null,
      isWide && (looked || all.length > FEW) ? button("\n\n\n\n", "fewer", "Fewer", () => narrow(facet)) : null,
      chosen.length ? button("\n\n\n", "any", "Any", () => scope.narrow(given({ ...scope.filter, [facet]: [] }))) : null,
    ].filter((node) => node !== null));
    return details;
  }

  function groupOf(facet: Facet, title: string): Group {
    const known = groups.get(facet);
    if (known) return known;
    const summary = el("summary", { "data-key": `${facet}\n` }, title);
    const details = el("details", { class: "aa-facet" }, summary);
    details.addEventListener("toggle", () => isOpen.set(facet, details.open));
    const made: Group = { details, summary, values: new Map() };
    groups.set(facet, made);
    return made;
  }

  function valueOf(facet: Facet, value: string): Shown {
    const bar = el("i", { class: "aa-bar", "aria-hidden": "true" });
    const number = el("small", {});
    const button = el(
      "button",
      {
        type: "button", class: `aa-facet-value aa-${facet}-${/^\w+$/.test(value) ? value : "other"}`,
        title: plain(value), "data-key": `${facet}\n${plain(value)}`,
        onclick: () => scope.narrow(toggled(scope.filter, facet, value)),
      },
      bar,
      el("span", {}, ...(value ? shown(facet === "session" ? value.slice(0, 13) : value) : [el("i", {}, "(none)")])),
      number,
    );
    let said = "";
    return {
      button,
      say(isChosen, share, n) {
        const says = `${isChosen} ${share} ${n}`;
        if (says === said) return;
        said = says;
        button.setAttribute("aria-pressed", isChosen ? "true" : "false");
        bar.style.width = `${share}%`;
        number.textContent = count(n);
      },
    };
  }

  lifetime.onEnd(scope.hear((change) => {
    if (change === "filter") void refresh();
  }));
  void refresh();
  return {
    element,
    refresh: () => void refresh(),
    dispose: () => lifetime.end(),
  };
}
