/** The views of a preview, and how the keyboard gets from one to another. */

export const TABS = ["hits", "candidates", "uncovered", "columns", "difference"] as const;
export type Tab = (typeof TABS)[number];

export const NAMES: Record<Tab, string> = {
  hits: "What is hidden",
  candidates: "Perhaps wrongly",
  uncovered: "Not covered",
  columns: "Columns",
  difference: "Difference",
};

export const isTab = (name: string): name is Tab => (TABS as readonly string[]).includes(name);

/** Return which tab a key leads to from `tab`, or null where it belongs to somebody else. */
export function tabAt(tab: Tab, key: string): Tab | null {
  if (key === "Home") return "hits";
  if (key === "End") return "difference";
  const by = key === "ArrowRight" ? 1 : key === "ArrowLeft" ? -1 : 0;
  return by ? (TABS[(TABS.indexOf(tab) + by + TABS.length) % TABS.length] ?? null) : null;
}
