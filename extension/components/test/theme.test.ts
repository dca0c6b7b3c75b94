import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const [light = "", dark = "", preferred = ""] = readFileSync(new URL("../style/_theme.css", import.meta.url), "utf8").split(/\n\s*\}\n/);

/** Colours by name; of those that JupyterLab has, the fallback. */
function colours(block: string): Map<string, string> {
  const found = block.matchAll(/--aa-([a-z-]+): (?:var\([^,]+, )?(#[0-9a-f]{6})/g);
  return new Map([...found].map(([, name = "", colour = ""]) => [name, colour]));
}

/** Relative luminance, w3.org/TR/WCAG22/#dfn-relative-luminance. */
function luminance(colour: string): number {
  const [r = 0, g = 0, b = 0] = [1, 3, 5].map((at) => {
    const part = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const INKS = [
  "good", "warn", "bad", "read", "write", "schema", "admin", "session", "unknown", "keyword", "string", "literal", "comment",
  "gone", "made", "doubt", "open", "cyan",
];
// JupyterLab's own papers, variables.css of its themes: --jp-layout-color1 and 2.
const PAPERS = { light: ["#ffffff", "#eeeeee"], dark: ["#212121", "#424242"] };

for (const [name, block] of [["light", light], ["dark", dark]] as const) {
  test(`what is ${name} can be read on every paper`, () => {
    const all = colours(block);
    const papers = [...["paper", "sunk", "selected"].map((paper) => all.get(paper) ?? ""), ...PAPERS[name]];
    const faint = INKS.flatMap((ink) =>
      [...papers, ...(all.has(`${ink}-paper`) ? [all.get(`${ink}-paper`) ?? ""] : [])]
        .map((paper) => ({ ink, paper, contrast: contrast(all.get(ink) ?? "", paper) }))
        .filter((found) => !(found.contrast >= 4.5)),
    );
    assert.deepEqual(faint, []);
  });
}

test("what is dark because a reader prefers it is as dark as in a dark theme", () => {
  assert.ok(colours(dark).size > 25);
  assert.deepEqual([...colours(preferred)], [...colours(dark)]);
});

test("a colour that has a light form has a dark one", () => {
  assert.deepEqual([...colours(light).keys()].sort(), [...colours(dark).keys()].sort());
});
