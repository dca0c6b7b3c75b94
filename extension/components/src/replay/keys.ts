/** What keys mean in a replay, and to whom they belong. */

const KEYS = {
  ArrowRight: "next", ArrowDown: "next", j: "next",
  ArrowLeft: "previous", ArrowUp: "previous", k: "previous",
  PageDown: "forward", PageUp: "back", Home: "first", End: "last",
  " ": "toggle", n: "nextNotable", "]": "nextNotable", p: "previousNotable", "[": "previousNotable",
  "/": "filter", g: "jump", "+": "faster", "=": "faster", "-": "slower", "?": "help", Escape: "leave",
} as const;
export type Action = (typeof KEYS)[keyof typeof KEYS];

/** As they are written in the help, with what they do. */
export const HELP: readonly (readonly [string, string])[] = [
  ["← → ↑ ↓ j k", "previous, next command"], ["PgUp PgDn", "ten back, ten on"],
  ["Home End", "first, last"], ["[ ]  p n", "previous, next write, change or error"],
  ["space", "play, pause"], ["+ -", "faster, slower"], ["/", "filter"],
  ["g", "jump to a number"], ["Esc", "leave a field, close this"],
];

/** What has the focus: where one types, what space presses, what scrolls by itself, or else. */
export type Focus = "field" | "button" | "grid" | "";

export function focusOf(target: Element): Focus {
  if (target.matches("input:not([type=checkbox]), select, textarea")) return "field";
  if (target.matches("button, summary, input")) return "button";
  return target.closest(".aa-grid, .aa-scroll") ? "grid" : "";
}

type Key = Pick<KeyboardEvent, "key"> & Partial<Pick<KeyboardEvent, "ctrlKey" | "metaKey" | "altKey">>;

/** Return what a key asks for, or null where it belongs to what has the focus. */
export function action(event: Key, focus: Focus): Action | null {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const asked: Action | null = Object.hasOwn(KEYS, event.key) ? KEYS[event.key as keyof typeof KEYS] : null;
  if (asked === "leave") return asked;
  if (focus === "field") return null;
  if (focus === "button" && event.key === " ") return null;
  const scrolls = asked !== null && ["next", "previous", "forward", "back", "first", "last"].includes(asked);
  if (focus === "grid" && scrolls && event.key.length > 1) return null;
  return asked;
}
