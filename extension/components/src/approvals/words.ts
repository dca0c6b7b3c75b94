/** What a request for a decision is about, in words; all of it is recorded text, and data. */

import { digestOf } from "../digest.ts";
import { count, moment } from "../units.ts";

/** A request as the control API tells it; times are µs since 1970. */
export interface Request {
  id: string;
  kind: string;
  state: string;
  target: string;
  class: string;
  shown: Record<string, unknown>;
  digest: string;
  approvers: string[];
  approvals: number;
  requested_at: number;
  expires_at: number;
  session_id: string | null;
  command_no: number;
  votes: Vote[];
  may_decide: boolean;
}

export interface Vote {
  approver: { user: string };
  verdict: string;
  reason: string;
}

/** A piece of a statement: what is shown as it is, or what is counted instead of being shown. */
export interface Piece {
  text: string;
  counted: boolean;
}

const MAX_EMPTY_LINES = 3;
const MAX_SPACES = 60;

export const text = (value: unknown): string =>
  value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
export const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
export const texts = (value: unknown): string[] => list(value).map(text);
export const object = (value: unknown): Record<string, unknown> =>
  value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Record<string, unknown>) : {};

/** The statements of a hold, as objects. */
export const statements = (request: Request): Record<string, unknown>[] =>
  list(request.shown.statements).map(object);

/** What one statement does: its operation, and on what. */
export const effectOf = (statement: Record<string, unknown>): string =>
  [text(statement.operation) || "(no operation)", texts(statement.resources).join(", ")].filter(Boolean).join(" ");

/** What a request is about, in a line of recorded text. */
export function effect(request: Request): string {
  if (request.kind === "access") {
    return `access to ${text(request.shown.target)} for ${span(request.shown.duration_s)}`;
  }
  return statements(request).map(effectOf).join("; ");
}

/** Who asks, and through what. */
export const who = ({ shown }: Request): string =>
  `${text(shown.user)}${shown.agent ? ` via ${text(shown.agent)}` : ""}`;

/** What a yes would let happen, and what it would not. */
export function covers(request: Request): string {
  const { shown } = request;
  if (request.kind !== "access") return "this one run, as it is shown; the same again is asked again";
  const starts = typeof shown.starts_at === "number" && shown.starts_at > 0 ? moment(shown.starts_at) : "now";
  return `all of that from ${starts} on, for ${span(shown.duration_s)}, unless a rule says otherwise`;
}

/** How many rows a statement is about, where somebody was asked. */
export function rowsAtStake(statement: Record<string, unknown>): string {
  const estimate = object(statement.estimate);
  if (!Object.keys(estimate).length) return "";
  const rows = (value: unknown) => (typeof value === "number" ? `about ${count(value)}` : text(value));
  const known = estimate.rows === null || estimate.rows === undefined
    ? `not known${estimate.why ? `, ${text(estimate.why)}` : ""}` : rows(estimate.rows);
  const sizes = Object.entries(object(estimate.tables)).filter(([, size]) => size !== null);
  return sizes.length ? `${known} (${sizes.map(([table, size]) => `${table} has ${rows(size)}`).join(", ")})` : known;
}

/** Seconds as words: "90 s", "5 min", "2 h". */
export function span(seconds: unknown): string {
  if (typeof seconds !== "number") return text(seconds) || "an unknown time";
  for (const [unit, name] of [[86_400, "d"], [3_600, "h"], [60, "min"]] as const) {
    if (seconds >= 2 * unit || (seconds >= unit && seconds % unit === 0)) return `${Math.floor(seconds / unit)} ${name}`;
  }
  return `${Math.floor(seconds)} s`;
}

/** Seconds as a clock that runs down: "0:09", "4:59", and from an hour on as words. */
export function countdown(seconds: number): string {
  if (seconds >= 3_600) return span(seconds);
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds) % 60).padStart(2, "0")}`;
}

/** What two requests have in common that may be decided together. */
export const kindOf = (request: Request): string => JSON.stringify([request.kind, request.target, request.class]);

/** Whether a request can only be decided by itself: a query of several statements. */
export const isAlone = (request: Request): boolean => request.kind === "hold" && !request.class;

/**
 * The digest of what a hold asks for and would run in, the same for two only where a reader of one
 * has read the other: all that is shown, but from where it came. "" where nothing may be like it.
 */
export function asked(request: Request): string {
  if (request.kind !== "hold" || isAlone(request)) return "";
  const said = statements(request);
  // Of what is too long to be shown, nobody can have read that it is the same.
  if (!said.length || said.some((one) => list(one.sha256).length && !Array.isArray(one.params))) return "";
  const transaction = without(object(request.shown.transaction), "number");
  const rest = without(request.shown, "session", "command", "client_addr", "client_app", "statements", "transaction");
  return digestOf([kindOf(request), rest, transaction, said.map((one) => without(one, "estimate"))]);
}

const without = (of: Record<string, unknown>, ...names: string[]): Record<string, unknown> =>
  Object.fromEntries(Object.entries(of).filter(([name]) => !names.includes(name)));

/** Split a statement so that nothing invisible takes up room: runs of it are counted. */
export function pieces(statement: string): Piece[] {
  const found: Piece[] = [];
  const blank = new RegExp(`\\n(?:[^\\S\\r\\n]*\\n){${MAX_EMPTY_LINES + 1},}|[^\\S\\r\\n]{${MAX_SPACES},}`, "g");
  let from = 0;
  for (const match of statement.matchAll(blank)) {
    if (match.index > from) found.push({ text: statement.slice(from, match.index), counted: false });
    const lines = match[0].split("\n").length - 2;
    found.push(lines > 0
      ? { text: `\n(${count(lines)} lines without a word)\n`, counted: true }
      : { text: `(${count(match[0].length)} spaces)`, counted: true });
    from = match.index + match[0].length;
  }
  if (from < statement.length) found.push({ text: statement.slice(from), counted: false });
  return found;
}
