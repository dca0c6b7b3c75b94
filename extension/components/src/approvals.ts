/**
 * What waits for a decision: each request whole, and yes or no with a reason, several at once.
 *
 * An agent wrote the statements, and wants them to be approved. All that is drawn of a request, but
 * how long it waits, comes from the document `shown`, whose digest is computed here and sent back;
 * members that this page does not know are drawn as JSON. What would push the end of a statement off
 * the screen, runs of empty lines and of spaces, is counted instead.
 */

import type { Source } from "./channel.ts";
import { digestOf } from "./digest.ts";
import { el, shown } from "./dom.ts";
import { tokens, type Token } from "./sql.ts";
import { plain } from "./text.ts";
import { count, counted, moment } from "./units.ts";

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
  expires_at: number;
  session_id: string | null;
  command_no: number;
  votes: { approver: { user: string }; verdict: string; reason: string }[];
  may_decide: boolean;
}

export interface Pending {
  now: number;
  count: number;
  requests: Request[];
}

interface Decided {
  id: string;
  state?: string;
  error?: string;
  hint?: string;
}

export interface Options {
  /** Opens the session that a statement waits in. */
  onOpen?: (session: string, command: number) => void;
  /** Hears after each decision. */
  onDecided?: () => void;
  /** Whether decisions can be made here at all. */
  mayDecide?: boolean;
}

export interface Approvals {
  refresh(): Promise<void>;
  dispose(): void;
}

const MAX_EMPTY_LINES = 3;
const MAX_SPACES = 60;
const MAX_COLOURED = 50_000;
const TICK_MS = 1_000;
const HOLD = new Set([
  "session", "command", "target", "protocol", "user", "issuer", "agent", "actor_chain", "client_addr",
  "client_app", "rule", "statements", "transaction", "reported", "settings",
]);
const STATEMENT = new Set(["text", "params", "sha256", "decision"]);
const ACCESS = new Set([
  "target", "user", "issuer", "agent", "actor_chain", "reason", "duration_s", "starts_at", "classes",
  "resources",
]);
const ALWAYS = new Set(["search_path", "session_authorization"]);
const USUAL: Record<string, string> = {
  standard_conforming_strings: "on",
  client_encoding: "UTF8",
  is_superuser: "off",
  default_transaction_read_only: "off",
  in_hot_standby: "off",
};
const CLASSES = new Set(["read", "write", "schema", "admin", "session"]);

const text = (value: unknown): string =>
  value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const texts = (value: unknown): string[] => list(value).map(text);
const object = (value: unknown): Record<string, unknown> =>
  value !== null && typeof value === "object" && !Array.isArray(value) ? (value as Record<string, unknown>) : {};

/** The statements of a hold, as objects. */
export const statements = (request: Request): Record<string, unknown>[] =>
  list(request.shown.statements).map(object);

/** What a request is about, in a line of recorded text. */
export function effect(request: Request): string {
  if (request.kind === "access") {
    return `access to ${text(request.shown.target)} for ${span(request.shown.duration_s)}`;
  }
  return statements(request)
    .map((one) => [text(one.operation) || "(no operation)", texts(one.resources).join(", ")].filter(Boolean).join(" "))
    .join("; ");
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

/** A piece of a statement: what is shown as it is, or what is counted instead of being shown. */
export interface Piece {
  text: string;
  counted: boolean;
}

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

/** Draw what waits at `source` (`pending`, `decide`) into `root`. */
export function mount(root: HTMLElement, source: Source, options: Options = {}): Approvals {
  const { onOpen, onDecided = () => {}, mayDecide = true } = options;
  const cards = new Map<string, { node: HTMLElement; box: HTMLInputElement | null; left: HTMLElement; request: Request }>();
  const chosen = new Set<string>();
  let skew = 0; // µs that the gateway's side is ahead of this clock
  let closed = false;
  let deciding = false;

  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const told = el("div", { class: "aa-told", role: "status", "aria-live": "polite" });
  const heading = el("h2", { class: "aa-approvals-title" }, "Waiting for a decision");
  const nothing = el(
    "div", { class: "aa-nothing" }, el("b", {}, "Nothing waits."),
    el("span", {}, "Statements that a rule holds, and requests for access, appear here as they come."),
  );
  const cardList = el("div", { class: "aa-cards", role: "list" });
  const reason = el("textarea", {
    class: "aa-reason", rows: 2, required: true, maxlength: 2000, "aria-label": "Reason, required",
    placeholder: "Why? It is kept in the record, and the agent is told.",
  });
  const approve = el("button", { type: "button", class: "aa-decide aa-approve", onclick: () => decide("approve") }, "Approve");
  const deny = el("button", { type: "button", class: "aa-decide aa-deny", onclick: () => decide("deny") }, "Deny");
  const what = el("span", { class: "aa-chosen" });
  const bar = el(
    "form", { class: "aa-decision", "aria-label": "Decision", onsubmit: (event: Event) => event.preventDefault() },
    what, reason, el("div", { class: "aa-buttons" }, deny, approve),
  );
  const frame = el(
    "section", { class: "aa-approvals", "aria-label": "Pending approvals" },
    el("header", { class: "aa-approvals-head" }, heading, told), trouble,
    el("div", { class: "aa-scrolled", tabindex: 0, role: "group", "aria-label": "Requests" }, nothing, cardList), bar,
  );
  root.append(frame);
  reason.addEventListener("input", follow);
  const ticking = setInterval(tick, TICK_MS);

  function complain(error: unknown): void {
    const { message, hint } = error as { message: string; hint?: string };
    trouble.replaceChildren(...shown(message), ...(hint ? [el("div", { class: "aa-hint" }, ...shown(hint))] : []));
    trouble.hidden = false;
  }

  async function refresh(): Promise<void> {
    let data: Pending;
    try {
      ({ data } = await source.request<Pending>("pending"));
    } catch (error) {
      if (!closed) complain(error);
      return;
    }
    if (closed) return;
    trouble.hidden = true;
    skew = data.now - Date.now() * 1_000;
    const there = new Set(data.requests.map((one) => one.id));
    for (const [id, card] of cards) {
      if (there.has(id)) continue;
      card.node.remove();
      cards.delete(id);
      chosen.delete(id);
    }
    for (const request of data.requests) {
      const before = cards.get(request.id);
      // Drawn once: what somebody reads must not jump. Only votes can change of what waits.
      if (before && before.request.digest === request.digest && before.request.votes.length === request.votes.length) continue;
      // What was chosen is what was read: another document under the same id has to be read again.
      if (before && before.request.digest !== request.digest && chosen.delete(request.id)) {
        told.textContent = "a request that was chosen has changed, and is chosen no more";
      }
      const card = drawCard(request);
      if (before) before.node.replaceWith(card.node);
      else cardList.append(card.node);
      cards.set(request.id, card);
    }
    nothing.hidden = cards.size > 0;
    cardList.hidden = bar.hidden = cards.size === 0;
    const more = data.count - cards.size;
    heading.textContent = cards.size ? `${counted(data.count, "request")} waiting for a decision` : "Waiting for a decision";
    if (more > 0) heading.textContent += `, the first ${count(cards.size)} shown`;
    tick();
    follow();
  }

  function tick(): void {
    for (const { left, request, node } of cards.values()) {
      const seconds = Math.floor((request.expires_at - (Date.now() * 1_000 + skew)) / 1_000_000);
      left.textContent = seconds > 0 ? `${span(seconds)} left` : "time is over";
      node.classList.toggle("aa-soon", seconds < 60);
    }
  }

  const kindOf = (request: Request) => JSON.stringify([request.kind, request.target, request.class]);
  const isAlone = (request: Request) => request.kind === "hold" && !request.class;

  function follow(): void {
    const first = [...chosen].map((id) => cards.get(id)?.request).find((one) => one !== undefined);
    for (const { box, request, node } of cards.values()) {
      if (!box) continue;
      const fits = !first || first.id === request.id ||
        (kindOf(first) === kindOf(request) && !isAlone(first) && !isAlone(request));
      box.disabled = deciding || (!fits && !chosen.has(request.id));
      box.title = fits ? "" : "several at once must be of one kind, class and target";
      box.checked = chosen.has(request.id);
      node.classList.toggle("aa-is-chosen", box.checked);
    }
    const isReady = chosen.size > 0 && reason.value.trim() !== "" && !deciding && mayDecide;
    approve.disabled = deny.disabled = !isReady;
    what.textContent = !mayDecide ? "Nothing is decided on this server."
      : chosen.size === 0 ? "Choose what you have read."
      : first && chosen.size === 1 ? `1 request: ${effect(first).slice(0, 80)}`
      : `${chosen.size} requests, one decision`;
    what.replaceChildren(...shown(what.textContent ?? ""));
    approve.textContent = chosen.size > 1 ? `Approve ${chosen.size}` : "Approve";
    deny.textContent = chosen.size > 1 ? `Deny ${chosen.size}` : "Deny";
  }

  async function decide(verdict: "approve" | "deny"): Promise<void> {
    const requests = [...chosen].flatMap((id) => {
      const card = cards.get(id);
      return card?.box ? [{ id, digest: digestOf(card.request.shown) }] : [];
    });
    deciding = true;
    follow();
    try {
      const { data } = await source.request<{ decided: Decided[] }>("decide", {
        verdict, reason: reason.value.trim(), requests,
      });
      const failed = data.decided.filter((one) => one.error);
      const words = data.decided.filter((one) => one.state).map((one) =>
        one.state === "pending" ? "counted, it waits for others yet" : one.state);
      told.textContent = words.length ? plain(`${count(words.length)}: ${[...new Set(words)].join(", ")}`) : "";
      if (failed.length) complain({ message: failed.map((one) => one.error).join("; "), hint: failed[0]?.hint ?? "" });
      else reason.value = "";
      chosen.clear();
      const problem = failed.length ? [...trouble.childNodes] : null;
      await refresh();
      if (problem) {
        trouble.replaceChildren(...problem);
        trouble.hidden = false;
      }
      onDecided();
    } catch (error) {
      if (!closed) complain(error);
    } finally {
      deciding = false;
      if (!closed) follow();
    }
  }

  // -- one request

  function drawCard(request: Request) {
    const isSound = digestOf(request.shown) === request.digest;
    const canDecide = mayDecide && request.may_decide && isSound;
    const box = canDecide
      ? el("input", {
          type: "checkbox", class: "aa-choose", "aria-label": plain(`Choose ${effect(request)}`),
          onchange: (event: Event) => {
            if ((event.target as HTMLInputElement).checked) chosen.add(request.id);
            else chosen.delete(request.id);
            follow();
          },
        })
      : null;
    const left = el("span", { class: "aa-left" });
    const parts = request.kind === "access" ? access(request) : hold(request);
    const node = el(
      "article", { class: `aa-card aa-kind-${request.kind === "access" ? "access" : "hold"}`, role: "listitem", "data-id": request.id },
      el(
        "header", { class: "aa-card-head" }, box,
        el("span", { class: "aa-card-effect" }, ...badges(request), el("span", { class: "aa-card-what" }, ...shown(effect(request)))),
        el("span", { class: "aa-grow" }), left,
      ),
      isSound ? null : el("div", { class: "aa-trouble", role: "alert" },
        "Its digest is not that of what is shown of it. Decide nothing there, and ask who runs the gateway."),
      ...parts,
      el("footer", { class: "aa-card-foot" },
        el("code", { class: "aa-digest", title: "SHA-256 of what is shown, computed here" }, request.digest.slice(0, 16)),
        el("code", { class: "aa-digest" }, ...shown(request.id)),
        el("span", { class: "aa-grow" }),
        decidable(request, canDecide),
        onOpen && request.session_id
          ? el("button", { type: "button", class: "aa-button aa-text", onclick: () => onOpen(request.session_id as string, request.command_no) }, "open session")
          : null),
    );
    return { node, box, left, request };
  }

  function badges(request: Request): HTMLElement[] {
    const made: HTMLElement[] = [];
    const kinds = request.kind === "access" ? ["access"] : [...new Set(statements(request).map((one) => text(one.class) || "unknown"))];
    for (const kind of kinds) {
      made.push(el("span", { class: `aa-badge aa-strong aa-class-${CLASSES.has(kind) ? kind : "unknown"}` }, ...shown(kind)));
    }
    const risks = new Set(statements(request).flatMap((one) => texts(one.risk)));
    for (const risk of risks) made.push(el("span", { class: "aa-badge aa-risk", title: "risk" }, ...shown(risk)));
    return made;
  }

  function decidable(request: Request, canDecide: boolean): HTMLElement {
    const approved = request.votes.filter((vote) => vote.verdict === "approve").length;
    const needed = request.approvals > 1 ? `${approved} of ${request.approvals} approvals; ` : "";
    const who = canDecide ? "you may decide" : request.may_decide ? "not here" : `not you: somebody else in ${request.approvers.join(", ") || "nobody"}`;
    return el("span", { class: "aa-quiet" }, ...shown(needed + who));
  }

  function facts(rows: [string, string][]): HTMLElement {
    return el("dl", { class: "aa-card-facts" }, ...rows.filter(([, value]) => value).flatMap(([label, value]) =>
      [el("dt", {}, ...shown(label)), el("dd", {}, ...shown(value))]));
  }

  function people(of: Record<string, unknown>): [string, string][] {
    const chain = texts(of.actor_chain);
    return [
      ["who", `${text(of.user)}${of.agent ? ` via ${text(of.agent)}` : ""}`],
      ["says", text(of.issuer)],
      ["chain", chain.length > 1 || (chain.length === 1 && chain[0] !== of.user) ? chain.join(" < ") : ""],
    ];
  }

  function votes(request: Request): [string, string][] {
    return request.votes.map((vote) => ["decided", `${text(vote.approver.user)}: ${vote.verdict}, ${vote.reason}`]);
  }

  function others(of: Record<string, unknown>, known: ReadonlySet<string>): [string, string][] {
    return Object.keys(of).filter((name) => !known.has(name)).sort().map((name) => [`also ${name}`, JSON.stringify(of[name])]);
  }

  function access(request: Request): HTMLElement[] {
    const of = request.shown;
    return [facts([
      ...people(of),
      ["classes", texts(of.classes).join(", ") || "all"],
      ["tables", texts(of.resources).join(", ") || "all"],
      ["from", typeof of.starts_at === "number" && of.starts_at > 0 ? moment(of.starts_at) : "now on"],
      ["reason", text(of.reason)], ...others(of, ACCESS), ...votes(request),
    ])];
  }

  function hold(request: Request): HTMLElement[] {
    const of = request.shown;
    const all = statements(request);
    const transaction = object(of.transaction);
    const before = list(transaction.before).map(object);
    const isOpen = transaction.status === "T" || transaction.status === "E";
    const reported = Object.entries(object(of.reported)).filter(([name, value]) =>
      ALWAYS.has(name) || (name in USUAL && value !== USUAL[name]));
    const rows: [string, string][] = [
      ...all.map((one, i): [string, string] => [all.length > 1 ? `rows, ${i + 1}` : "rows at stake", rowsAtStake(one)]),
      ["rule", text(of.rule)], ...people(of),
      ["at", [text(of.target), of.protocol ? `(${text(of.protocol)})` : "", of.client_addr ? `from ${text(of.client_addr)}` : "",
        of.client_app ? `by ${text(of.client_app)}` : ""].filter(Boolean).join(" ")],
      ["session", `${text(of.session)}, command ${text(of.command)}`],
      ["transaction", isOpen ? `open${transaction.status === "E" ? " and failed" : ""}; before this: ${before.length || "nothing"}` : "none is open"],
      ...before.map((one): [string, string] => ["", `${one.status && one.status !== "ok" ? `${text(one.status)}: ` : ""}${text(one.text)}`]),
      ...texts(of.settings).map((one): [string, string] => ["has set", one]),
      ...reported.map(([name, value]): [string, string] => ["setting", `${name} = ${text(value)}`]),
      ...others(of, HOLD), ...votes(request),
    ];
    return [
      ...all.flatMap((one, i) => statementParts(one, all.length > 1 ? `${i + 1} of ${all.length}${one.decision === "hold" ? ", held" : ""}` : "")),
      facts(rows),
    ];
  }

  function statementParts(one: Record<string, unknown>, which: string): HTMLElement[] {
    const parts = [whole(text(one.text), which || "Statement", true)];
    const more = others(one, STATEMENT);
    if (more.length) parts.push(facts(more));
    if (one.params === null || one.params === undefined) {
      const hashes = texts(one.sha256);
      if (hashes.length) parts.push(el("p", { class: "aa-quiet" }, "parameters too long to be shown; SHA-256: ", ...shown(hashes.join(", "))));
      return parts;
    }
    list(one.params).forEach((value, i) => {
      parts.push(value === null
        ? el("div", { class: "aa-parameter" }, el("span", { class: "aa-quiet" }, `$${i + 1}`), el("i", {}, "NULL"))
        : whole(text(value), `$${i + 1}`, false));
    });
    return parts;
  }

  function whole(of: string, label: string, isSql: boolean): HTMLElement {
    const lines = of.split("\n").length;
    const size = `${counted(of.length, "character")}${lines > 1 ? ` in ${count(lines)} lines` : ""}`;
    // Coloured as a whole and cut afterwards: a part of it may look like another thing than it is.
    const coloured: Token[] = isSql && of.length < MAX_COLOURED ? tokens(of) : [{ kind: "plain", text: of }];
    const drawn = coloured.flatMap(({ kind, text: part }) => pieces(part).flatMap((piece): Node[] =>
      piece.counted ? [el("span", { class: "aa-counted" }, piece.text)]
        : kind === "plain" ? shown(piece.text) : [el("span", { class: `aa-sql-${kind}` }, ...shown(piece.text))]));
    const box = el("pre", { class: "aa-whole", tabindex: 0, "aria-label": `${label}, ${size}` }, el("code", {}, ...drawn));
    return el("figure", { class: "aa-text-box" },
      el("figcaption", { class: "aa-quiet" }, ...shown(label === "Statement" ? size : `${label} · ${size}`)), box);
  }

  follow();
  bar.hidden = true;
  void refresh();
  return {
    refresh,
    dispose() {
      closed = true;
      clearInterval(ticking);
      frame.remove();
    },
  };
}
