/** Elements without a framework. Recorded text enters a page by `shown` alone, as text nodes. */

import { tokens } from "./sql.ts";
import { visible } from "./text.ts";

const FOCUSABLE = new Set(["button", "input", "select", "summary", "textarea"]);
const SVG = "http://www.w3.org/2000/svg";

type Listener = (event: any) => void;
type Attribute = string | number | boolean | null | undefined | Listener;
export type Child = Node | string | null | undefined;

let isMarked = true;

/**
 * Make elements without the mark that `el` speaks of: for views in tabs of their own, where keys are
 * nobody else's, and where JupyterLab's own shortcuts are wanted, to open its palette for one.
 */
export function withoutMarks(): void {
  isMarked = false;
}

/**
 * Make an element. An attribute that is null or false is left out, `on…` takes a listener.
 *
 * Lab and Notebook take keys on the document, while capturing, for whatever has the focus inside a
 * cell, unless a mark is on that very element (lumino, CommandRegistry, `targetDistance`): without
 * it, two presses of d delete the cell. What can have the focus gets the mark.
 */
export function el<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Record<string, Attribute> = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    // By way of the object model: a page's policy may let no element bring a style as text.
    else if (name === "style") node.style.cssText = String(value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  if (isMarked && (FOCUSABLE.has(tag) || "tabindex" in attributes)) {
    node.setAttribute("data-lm-suppress-shortcuts", "true");
  }
  node.append(...children.filter((child): child is Node | string => child !== null && child !== undefined));
  return node;
}

/** Make `nodes` all that `box` holds, in their order. Those that are there stay where they can, and keep the focus. */
export function arrange(box: Element, nodes: readonly Node[]): void {
  const wanted = new Set(nodes);
  for (const node of [...box.childNodes]) if (!wanted.has(node)) node.remove();
  let at = box.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else box.insertBefore(node, at);
  }
}

/** Recorded text as nodes: the only way in which it enters the page. */
export function shown(text: string): Node[] {
  return visible(text).map((run) =>
    run.control
      ? el("span", { class: "aa-control", title: "a control character of the recorded text" }, run.text)
      : document.createTextNode(run.text),
  );
}

/** Recorded SQL as nodes, its words coloured. */
export function highlighted(sql: string): Node[] {
  return tokens(sql).flatMap(({ kind, text }) =>
    kind === "plain" ? shown(text) : [el("span", { class: `aa-sql-${kind}` }, ...shown(text))],
  );
}

/** A picture of one path in a square of 16 by 16, in the colour of the text around it. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}
