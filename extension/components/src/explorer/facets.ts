/** Facets of a filter: the values there are, how many commands each has under all else, and a click. */

import { Closed, type Source } from "../channel.ts";
import { el, shown } from "../dom.ts";
import { measured } from "../measured.ts";
import { plain } from "../text.ts";
import { count } from "../units.ts";
import { given, toggled, type Facet, type Scope } from "./scope.ts";

const TITLES: [Facet, string][] = [
  ["flags", "Marked"], ["cls", "Class"], ["status", "Status"], ["decision", "Decision"], ["user", "User"], ["agent", "Agent"],
  ["target", "Target"], ["table", "Table"], ["risk", "Risk"], ["operation", "Operation"], ["protocol", "Protocol"],
  ["session", "Session"],
];
const FEW = 7;

/** Nothing is told before the kernel has read the archive. */
interface Told {
  facets?: Record<Facet, { values: [string | null, number][]; more: number }>;
}

export interface FacetsView {
  readonly element: HTMLElement;
  refresh(): void;
  dispose(): void;
}

export function facets(source: Source, scope: Scope, complain: (error: unknown) => void): FacetsView {
  const body = el("div", { class: "aa-facets-body" });
  const element = el("nav", { class: "aa-facets", "aria-label": "Filters" }, body);
  const wide = new Set<Facet>();
  const isOpen = new Map<Facet, boolean>(TITLES.map(([facet], i) => [facet, i < 8]));
  let asked = 0;

  async function refresh(): Promise<void> {
    asked += 1;
    const mine = asked;
    const began = performance.now();
    element.setAttribute("aria-busy", "true");
    try {
      const { data } = await source.request<Told>("facets", { filter: scope.filter });
      if (mine !== asked) return;
      draw(data);
      measured("facets", began);
    } catch (error) {
      if (!(error instanceof Closed)) complain(error);
    } finally {
      if (mine === asked) element.removeAttribute("aria-busy");
    }
  }

  function draw(told: Told): void {
    // Whoever steps through by keyboard stays where they are.
    const active = (element.getRootNode() as Document | ShadowRoot).activeElement;
    const held = active && body.contains(active) ? active.getAttribute("data-key") : null;
    body.replaceChildren(...TITLES.map(([facet, title]) => group(facet, title, told)).filter((node) => node !== null));
    if (held) body.querySelector<HTMLElement>(`[data-key="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  }

  function group(facet: Facet, title: string, told: Told): HTMLElement | null {
    const found = told.facets?.[facet];
    const chosen = scope.filter[facet] ?? [];
    if (!found || (!found.values.length && !chosen.length)) return null;
    const counts = new Map(found.values.map(([value, n]) => [value ?? "", n]));
    // What is chosen stays in sight, even where nothing has it.
    for (const value of chosen) if (!counts.has(value)) counts.set(value, 0);
    const all = [...counts].sort(([a], [b]) => Number(chosen.includes(b)) - Number(chosen.includes(a)));
    const values = wide.has(facet) ? all : all.slice(0, Math.max(FEW, chosen.length));
    const most = Math.max(1, ...counts.values());
    const details = el(
      "details", { class: "aa-facet", open: isOpen.get(facet) || chosen.length > 0 },
      el("summary", { "data-key": `${facet}\n` }, title, chosen.length ? el("b", {}, ` ${chosen.length}`) : null),
      ...values.map(([value, n]) =>
        el(
          "button",
          {
            type: "button", class: `aa-facet-value aa-${facet}-${/^\w+$/.test(value) ? value : "other"}`,
            "aria-pressed": chosen.includes(value) ? "true" : "false", title: plain(value), "data-key": `${facet}\n${plain(value)}`,
            onclick: () => scope.narrow(toggled(scope.filter, facet, value)),
          },
          el("i", { class: "aa-bar", style: `width:${n ? Math.max(1, (100 * n) / most) : 0}%`, "aria-hidden": "true" }),
          el("span", {}, ...(value ? shown(facet === "session" ? value.slice(0, 13) : value) : [el("i", {}, "(none)")])),
          el("small", {}, count(n)),
        )),
      all.length > values.length || found.more
        ? el("button", {
          type: "button", class: "aa-button aa-calm aa-more", disabled: all.length <= values.length, "data-key": `${facet}\n\n`,
          onclick: () => { wide.add(facet); draw(told); },
        }, `${count(all.length - values.length + found.more)} more`)
        : wide.has(facet) && all.length > FEW
          ? el("button", {
            type: "button", class: "aa-button aa-calm aa-more", "data-key": `${facet}\n\n`,
            onclick: () => { wide.delete(facet); draw(told); },
          }, "fewer")
          : null,
      chosen.length
        ? el("button", {
          type: "button", class: "aa-button aa-calm aa-more", "data-key": `${facet}\n\n\n`,
          onclick: () => scope.narrow(given({ ...scope.filter, [facet]: [] })),
        }, "any")
        : null,
    );
    details.addEventListener("toggle", () => isOpen.set(facet, details.open));
    return details;
  }

  const unhear = scope.hear((change) => {
    if (change === "filter") void refresh();
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
