/**
 * How recorded text is shown: as data, with what a browser would obey written out.
 *
 * As `analysis/printable.py` does it: `tests/vectors/shown.json` holds both to one table.
 */

export interface Run {
  text: string;
  /** Whether the text is the escape that stands for a character of the record. */
  control: boolean;
}

// Controls, what has no width or turns the direction, tags, lone surrogates.
const OBEYED =
  "\\0-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e" +
  "\\u2060-\\u206f\\u2800\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb\\ud800-\\udfff" +
  "\\u{16fe4}\\u{1bca0}-\\u{1bca3}\\u{1d159}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}";
const IN_LINES = new RegExp(`(?![\\n\\t])[${OBEYED}]`, "gu");
const IN_ONE_LINE = new RegExp(`[${OBEYED}]`, "gu");
const NAMED: Readonly<Record<number, string>> = { 0x09: "\\t", 0x0a: "\\n", 0x0d: "\\r" };

/** Split text into runs of what is shown as it is and of what is written out; lines stay lines. */
export const visible = (text: string): Run[] => split(text, IN_LINES);

function split(text: string, obeyed: RegExp): Run[] {
  const runs: Run[] = [];
  let from = 0;
  for (const match of text.matchAll(obeyed)) {
    if (match.index > from) runs.push({ text: text.slice(from, match.index), control: false });
    runs.push({ text: written(match[0].codePointAt(0) ?? 0), control: true });
    from = match.index + match[0].length;
  }
  if (from < text.length) runs.push({ text: text.slice(from), control: false });
  return runs;
}

/**
 * Recorded text in one line for an attribute or a title: a tooltip obeys bidirectional controls as
 * the page does. Ends of lines and tabs are written out too.
 */
export const plain = (text: string): string => split(text, IN_ONE_LINE).map((run) => run.text).join("");

/** Runs of blanks, tabs and ends of lines as one blank; nothing goes that is there without being seen. */
export const flat = (text: string): string => text.replace(/(?:\r\n|[ \t\n])+/g, " ").replace(/^ | $/g, "");

function written(code: number): string {
  const named = NAMED[code];
  if (named) return named;
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}
