/** What views have in common: a life, two lines that speak, typed questions, and a look that changes. */

import { Closed, type Answer, type Source } from "./channel.ts";
import { el, shown } from "./dom.ts";

/** What a view began and must end: listeners, observers, timers. */
export class Lifetime {
  #isOver = false;
  readonly #endings: (() => void)[] = [];

  get isOver(): boolean {
    return this.#isOver;
  }

  onEnd(ending: () => void): void {
    this.#endings.push(ending);
  }

  /** Listen for as long as the view lives. */
  listen<Type extends keyof HTMLElementEventMap>(
    target: HTMLElement,
    type: Type,
    listener: (event: HTMLElementEventMap[Type]) => void,
    options?: AddEventListenerOptions,
  ): void {
    target.addEventListener(type, listener, options);
    this.onEnd(() => target.removeEventListener(type, listener, options));
  }

  end(): void {
    this.#isOver = true;
    for (const ending of this.#endings.splice(0)) ending();
  }
}

/** Two lines of a view: trouble that is seen, and news that a screen reader says. */
export interface Notices {
  readonly trouble: HTMLElement;
  readonly status: HTMLElement;
  say(text: string): void;
  /** Show what went wrong; that a view was closed meanwhile is nothing to complain of. */
  complain(error: unknown): void;
  calm(): void;
}

export function notices(): Notices {
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const status = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  return {
    trouble,
    status,
    say: (text) => {
      status.textContent = text;
    },
    complain: (error) => {
      if (error instanceof Closed) return;
      trouble.replaceChildren(...shown(messageOf(error)));
      trouble.hidden = false;
    },
    calm: () => {
      trouble.hidden = true;
    },
  };
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Questions of one component: `Answers` says which data each is answered with. */
export type Ask<Answers> = <Op extends keyof Answers & string>(
  op: Op,
  args?: Record<string, unknown>,
) => Promise<Answer<Answers[Op]>>;

/** Ask `source`; an answer, whatever it says, ends the trouble that was shown. */
export function asking<Answers>(source: Source, lines: Notices): Ask<Answers> {
  return async (op, args = {}) => {
    const answer = await source.request<Answers[typeof op]>(op, args);
    lines.calm();
    return answer;
  };
}

/** A box that says which keys do what. */
export interface KeyHelp {
  readonly element: HTMLElement;
  readonly isOpen: boolean;
  toggle(): void;
  /** Close it; who had the focus before has it again, unless it was taken elsewhere meanwhile. */
  close(): void;
}

/** Make the help of a view's keys: once open it has the focus, keeps it, and gives it back. */
export function keyHelp(rows: readonly (readonly [string, string])[]): KeyHelp {
  let before: HTMLElement | null = null;
  const focused = () => (element.getRootNode() as Document | ShadowRoot).activeElement;
  const close = () => {
    const isHeld = focused() === element;
    element.hidden = true;
    if (isHeld) before?.focus({ preventScroll: true });
  };
  const element = el(
    "div",
    {
      class: "aa-help", role: "dialog", "aria-modal": "true", "aria-label": "Keys", tabindex: -1, hidden: true,
      onkeydown: (event: KeyboardEvent) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return; // it may be copied
        if (event.key === "Escape" || event.key === "?") close();
        // Nothing in it can have the focus, so Tab would lead out; no key means what it means behind it.
        event.preventDefault();
        event.stopPropagation();
      },
    },
    el("h4", {}, "Keys"),
    el("dl", {}, ...rows.flatMap(([keys, does]) => [el("dt", {}, keys), el("dd", {}, does)])),
  );
  return {
    element,
    get isOpen() {
      return !element.hidden;
    },
    close,
    toggle: () => {
      if (!element.hidden) return close();
      before = focused() as HTMLElement | null;
      element.hidden = false;
      element.focus({ preventScroll: true });
    },
  };
}

/** Keep `value`, and of all that is kept the last `limit`. */
export function remember<Key, Value>(kept: Map<Key, Value>, key: Key, value: Value, limit: number): void {
  kept.delete(key);
  kept.set(key, value);
  for (const oldest of kept.keys()) {
    if (kept.size <= limit) break;
    kept.delete(oldest);
  }
}

/**
 * Call `redraw` when one of `elements` has another size, or the page another theme; returns what
 * ends that. What is drawn on a canvas must be drawn again then.
 *
 * Lab and Notebook change theme by an attribute of the body. Lab hides everything for that moment:
 * two frames later it is back, or the sizes tell when it is.
 */
export function onAnotherLook(elements: readonly Element[], redraw: () => void): () => void {
  const soon = () => requestAnimationFrame(() => requestAnimationFrame(redraw));
  const sizes = new ResizeObserver(() => requestAnimationFrame(redraw));
  for (const element of elements) sizes.observe(element);
  const themes = new MutationObserver(soon);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", soon);
  return () => {
    sizes.disconnect();
    themes.disconnect();
    scheme.removeEventListener("change", soon);
  };
}

/**
 * Replace what `box` holds. Whoever turns pages by keyboard must not be thrown out with the old
 * buttons: the one with the same label has the focus then, or `otherwise`.
 */
export function replaceKeepingFocus(box: HTMLElement, otherwise: () => HTMLElement | null, ...nodes: (Node | string)[]): void {
  const root = box.getRootNode() as Document | ShadowRoot;
  const held = box.contains(root.activeElement) ? (root.activeElement?.getAttribute("aria-label") ?? null) : null;
  box.replaceChildren(...nodes);
  if (!held) return;
  const again = [...box.querySelectorAll<HTMLElement>("[aria-label]")].find((node) => node.getAttribute("aria-label") === held);
  const isUsable = again && !(again instanceof HTMLButtonElement && again.disabled);
  (isUsable ? again : otherwise())?.focus({ preventScroll: true });
}
