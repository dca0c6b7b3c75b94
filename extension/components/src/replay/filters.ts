/** What narrows a session down: a text, classes and statuses. */

import { values } from "../channel.ts";
import { el } from "../dom.ts";
import { count } from "../units.ts";
import type { Ask, Lifetime } from "../view.ts";
import type { ReplayAnswers } from "./answers.ts";
import { CLASSES, STATUSES, tally, type Filter, type Index } from "./commands.ts";

const TYPING_MS = 200;

export interface Filters {
  readonly search: HTMLInputElement;
  readonly chips: HTMLElement;
  readonly filter: Filter;
  /** Draw the chips anew, with how many commands of the session each stands for. */
  draw(index: Index): void;
  clear(): void;
}

/** `onChange` hears of every other filter, `onFound` when the kernel has searched for a text. */
export function filters(options: {
  ask: Ask<ReplayAnswers>;
  lifetime: Lifetime;
  onChange: () => void;
  onFound: () => void;
  complain: (error: unknown) => void;
}): Filters {
  const { ask, lifetime } = options;
  const filter: Filter = { classes: new Set(), statuses: new Set(), found: null };
  const search = el("input", {
    class: "aa-field aa-search", type: "search", placeholder: "filter by text", spellcheck: "false",
    autocomplete: "off", "aria-label": "Filter commands by text", title: "Filter (/)",
  });
  const chips = el("div", { class: "aa-chips", role: "group", "aria-label": "Filter by class and status" });
  let searches = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;

  function chip<Name extends string>(chosen: Set<Name>, name: Name, number: number, kind: string): HTMLElement {
    return el(
      "button",
      {
        type: "button", class: `aa-chip aa-${kind}-${name}`, "aria-pressed": chosen.has(name) ? "true" : "false",
        onclick: () => {
          if (!chosen.delete(name)) chosen.add(name);
          options.onChange();
          chips.querySelector<HTMLElement>(`.aa-${kind}-${name}`)?.focus();
        },
      },
      el("i", { class: "aa-dot", "aria-hidden": "true" }), name, el("b", {}, count(number)),
    );
  }

  async function find(): Promise<void> {
    const text = search.value.trim();
    searches += 1;
    const mine = searches;
    try {
      const found = text ? new Set(values(Int32Array, (await ask("find", { text })).buffers[0])) : null;
      if (mine !== searches || lifetime.isOver) return; // a newer text overtook this one
      filter.found = found;
      options.onChange();
      options.onFound();
    } catch (error) {
      options.complain(error);
    }
  }

  lifetime.listen(search, "input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => void find(), TYPING_MS);
  });
  lifetime.onEnd(() => clearTimeout(timer));

  return {
    search,
    chips,
    filter,
    draw(index) {
      const totals = tally(index);
      chips.replaceChildren(
        ...CLASSES.filter((name) => totals.classes[name]).map((name) => chip(filter.classes, name, totals.classes[name], "class")),
        ...STATUSES.filter((name) => name !== "ok" && totals.statuses[name]).map((name) =>
          chip(filter.statuses, name, totals.statuses[name], "status")),
      );
    },
    clear() {
      filter.classes.clear();
      filter.statuses.clear();
      filter.found = null;
      search.value = "";
    },
  };
}
