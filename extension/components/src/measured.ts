/**
 * Note how long something took from when it was wanted until it was drawn.
 *
 * It is a measure of the browser's own (w3.org/TR/user-timing), so that a profiler shows it and a
 * benchmark can observe it. Only the last of a name is kept.
 */
export function measured(what: string, start: number): void {
  const name = `agentaudit ${what}`;
  performance.clearMeasures(name);
  performance.measure(name, { start });
}
