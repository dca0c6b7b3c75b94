/** The text of rules while it is edited: where an error is, and how a rule is added. */

/** Return the line, from 1, that an error of the kernel names, or 0. */
export function lineOf(error: string): number {
  const found = /\bline (\d+)/.exec(error);
  return found ? Number(found[1]) : 0;
}

/** Return where line `number` of `text` begins and ends; beyond the last one, where that does. */
export function lineRange(text: string, number: number): [number, number] {
  let start = 0;
  for (let line = 1; line < number; line += 1) {
    const end = text.indexOf("\n", start);
    if (end < 0) break;
    start = end + 1;
  }
  const end = text.indexOf("\n", start);
  return [start, end < 0 ? text.length : end];
}

/** Return the rules with one more behind them, an empty line between. */
export function appended(rules: string, rule: string): string {
  const before = rules.trimEnd();
  return before ? `${before}\n\n${rule}` : rule;
}
