/** How recorded text is shown: as data, with what a browser would obey written out. */

export interface Run {
  text: string;
  /** Whether the text is the escape that stands for a character of the record. */
  control: boolean;
}

// Controls but tab and line feed, what has no width or turns the direction, tags, lone surrogates.
const OBEYED =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

/** Split text into runs of what is shown as it is and of what is written out. */
export function visible(text: string): Run[] {
  const runs: Run[] = [];
  let from = 0;
  for (const match of text.matchAll(OBEYED)) {
    if (match.index > from) runs.push({ text: text.slice(from, match.index), control: false });
    runs.push({ text: written(match[0].codePointAt(0) ?? 0), control: true });
    from = match.index + match[0].length;
  }
  if (from < text.length) runs.push({ text: text.slice(from), control: false });
  return runs;
}

/** Recorded text for an attribute: a tooltip obeys bidirectional controls as the page does. */
export const plain = (text: string): string => visible(text).map((run) => run.text).join("");

function written(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}
