/**
 * One request, whole: at a glance who asks, where, for how many rows, what a yes covers and who may
 * say it; then all of its text; then what it would run in.
 *
 * An agent wrote the statements, and wants them to be approved. All that is drawn of a request, but
 * how long it waits, who decides and who has, comes from the document `shown`, whose digest is
 * computed here; members that this page does not know are drawn as JSON. What would push the end of
 * a statement off the screen, runs of empty lines and of spaces, is counted instead.
 */

import { digestOf } from "../digest.ts";
import { el, shown } from "../dom.ts";
import { tokens, type Token } from "../sql.ts";
import { plain } from "../text.ts";
import { count, counted } from "../units.ts";
import {
  asked, covers, effect, effectOf, list, object, pieces, rowsAtStake, statements, text, texts, who, type Request,
} from "./words.ts";

const MAX_COLOURED = 50_000;
const HOLD = new Set([
  "session", "command", "target", "protocol", "user", "issuer", "agent", "actor_chain", "client_addr",
  "client_app", "rule", "startup", "statements", "transaction", "reported", "settings",
]);
const STATEMENT = new Set([
  "operation", "class", "resources", "reads", "writes", "columns", "risk", "confidence", "decision", "rule",
  "estimate", "text", "params", "sha256",
]);
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

/** A request as it is drawn; `box` is null where it cannot be chosen. */
export interface Card {
  request: Request;
  node: HTMLElement;
  box: HTMLInputElement | null;
  left: HTMLElement;
  bar: HTMLElement;
  alike: HTMLButtonElement | null;
  /** What others have in common with it that ask for the very same; see `asked`. */
  said: string;
}

export interface Does {
  mayDecide: boolean;
  onChoose(request: Request, isChosen: boolean): void;
  onAlike(request: Request): void;
  onOpen: ((session: string, command: number) => void) | undefined;
}

type Row = [label: string, value: string];

/** Draw a request. */
export function drawCard(request: Request, does: Does): Card {
  const isSound = digestOf(request.shown) === request.digest;
  const canDecide = does.mayDecide && request.may_decide && isSound;
  const what = plain(effect(request));
  const box = canDecide
    ? el("input", {
        type: "checkbox", class: "aa-choose", "aria-label": `Choose ${what}`,
        onchange: (event: Event) => does.onChoose(request, (event.target as HTMLInputElement).checked),
      })
    : null;
  const alike = canDecide
    ? el("button", { type: "button", class: "aa-button aa-small", hidden: true, onclick: () => does.onAlike(request) })
    : null;
  const left = el("span", { class: "aa-left", role: "timer" });
  const bar = el("span", { class: "aa-left-bar", "aria-hidden": "true" }, el("i"));
  const { onOpen } = does;
  const isAccess = request.kind === "access";
  const node = el(
    "article",
    {
      class: `aa-card aa-kind-${isAccess ? "access" : "hold"}`, role: "listitem", tabindex: -1, "data-id": request.id,
      "aria-label": `${plain(who(request))}: ${what}`,
    },
    el("header", { class: "aa-card-head" },
      box, el("span", { class: "aa-card-effect" }, ...classes(request), el("b", { class: "aa-card-what" }, ...shown(effect(request)))),
      el("span", { class: "aa-grow" }), el("span", { class: "aa-left-box" }, left, bar)),
    isSound ? null : el("div", { class: "aa-trouble", role: "alert" },
      "Its digest is not that of what is shown of it. Decide nothing there, and ask who runs the gateway."),
    glance(request, canDecide),
    ...(isAccess ? access(request) : hold(request)),
    el("footer", { class: "aa-card-foot" },
      el("span", { class: "aa-ids" },
        el("code", { class: "aa-digest", title: "SHA-256 of what is shown, computed here" }, request.digest.slice(0, 16)),
        el("code", { class: "aa-digest", title: "id of the request" }, ...shown(request.id))),
      el("span", { class: "aa-grow" }), alike,
      onOpen && request.session_id
        ? el("button", { type: "button", class: "aa-button aa-small", onclick: () => onOpen(request.session_id as string, request.command_no) },
            "open session")
        : null),
  );
  return { node, box, left, bar, alike, request, said: asked(request) };
}

function classes(request: Request): HTMLElement[] {
  const kinds = request.kind === "access" ? ["access"] : [...new Set(statements(request).map((one) => text(one.class) || "unknown"))];
  return kinds.map((kind) =>
    el("span", { class: `aa-badge aa-strong aa-class-${CLASSES.has(kind) ? kind : "unknown"}` }, ...shown(kind)));
}

/** What is read before anything else. */
function glance(request: Request, canDecide: boolean): HTMLElement {
  const of = request.shown;
  const all = statements(request);
  const fact = (label: string, values: string[], isWide = false) =>
    el("div", { class: `aa-glance-fact${isWide ? " aa-is-wide" : ""}` }, el("dt", {}, label),
      ...values.map((value) => el("dd", {}, ...shown(value))));
  const approved = request.votes.filter((vote) => vote.verdict === "approve").length;
  const groups = request.approvers.join(", ") || "nobody";
  const risks = [...new Set(all.flatMap((one) => texts(one.risk)))];
  return el(
    "dl", { class: "aa-glance" },
    fact("who asks", [who(request)]),
    fact("target", [[text(of.target), of.protocol ? `(${text(of.protocol)})` : ""].filter(Boolean).join(" ")]),
    request.kind === "access"
      ? fact("classes and tables", [`${texts(of.classes).join(", ") || "all"}; ${texts(of.resources).join(", ") || "all tables"}`])
      : fact("rows at stake", all.map((one, i) => `${all.length > 1 ? `${i + 1}: ` : ""}${rowsAtStake(one) || "not estimated"}`)),
    fact("a yes covers", [covers(request)], true),
    fact("may decide", [
      canDecide ? `you, or somebody else in ${groups}` : request.may_decide ? `somebody else in ${groups}, and you elsewhere`
        : `not you: somebody else in ${groups}`,
      ...(request.approvals > 1 ? [`${approved} of ${request.approvals} approvals so far`] : []),
    ]),
    risks.length
      ? el("div", { class: "aa-glance-fact aa-is-risk" }, el("dt", {}, "risk"),
          el("dd", {}, ...risks.map((risk) => el("span", { class: "aa-badge aa-risk" }, ...shown(risk)))))
      : null,
  );
}

function facts(rows: Row[]): HTMLElement | null {
  const said = rows.filter(([, value]) => value);
  if (!said.length) return null;
  return el("dl", { class: "aa-card-facts" }, ...said.flatMap(([label, value]) =>
    [el("dt", {}, ...shown(label)), el("dd", {}, ...shown(value))]));
}

const drawn = (nodes: (HTMLElement | null)[]): HTMLElement[] => nodes.filter((node) => node !== null);

function people(of: Record<string, unknown>): Row[] {
  const chain = texts(of.actor_chain).join(" < ");
  // Of one person, or of one who acts through an agent, it says what stands above.
  const isKnown = [text(of.user), `${text(of.user)} < ${text(of.agent)}`].includes(chain);
  return [["issuer", text(of.issuer)], ["chain", isKnown ? "" : chain]];
}

const votes = (request: Request): Row[] =>
  request.votes.map((vote) => ["decided", `${text(vote.approver.user)}: ${text(vote.verdict)}, ${text(vote.reason)}`]);

const others = (of: Record<string, unknown>, known: ReadonlySet<string>): Row[] =>
  Object.keys(of).filter((name) => !known.has(name)).sort().map((name) => [`also ${name}`, JSON.stringify(of[name])]);

function access(request: Request): HTMLElement[] {
  const of = request.shown;
  return drawn([facts([
    ["reason", text(of.reason)],
    ...people(of), ...others(of, ACCESS), ...votes(request),
  ])]);
}

function hold(request: Request): HTMLElement[] {
  const of = request.shown;
  const all = statements(request);
  const transaction = object(of.transaction);
  const before = list(transaction.before).map(object);
  const isOpen = transaction.status === "T" || transaction.status === "E";
  const reported = Object.entries(object(of.reported)).filter(([name, value]) =>
    ALWAYS.has(name) || (name in USUAL && value !== USUAL[name]));
  const startup = Object.entries(object(of.startup)).filter(([name, value]) => name !== "application_name" || value !== of.client_app);
  return drawn([
    ...all.flatMap((one, i) => statementParts(one, text(of.rule), i, all.length)),
    facts([
      ["rule", text(of.rule)],
      ["transaction", isOpen ? `open${transaction.status === "E" ? " and failed" : ""}; before this: ${before.length || "nothing"}` : "none is open"],
      ...before.map((one): Row => ["", `${one.status && one.status !== "ok" ? `${text(one.status)}: ` : ""}${text(one.text)}`]),
      ...texts(of.settings).map((one): Row => ["has set", one]),
      ...reported.map(([name, value]): Row => ["setting", `${name} = ${text(value)}`]),
      ...startup.map(([name, value]): Row => ["began with", `${name} = ${text(value)}`]),
      ["session", [`${text(of.session)}, command ${text(of.command)}`, of.client_app ? `by ${text(of.client_app)}` : "",
        of.client_addr ? `from ${text(of.client_addr)}` : ""].filter(Boolean).join(" ")],
      ...people(of), ...others(of, HOLD), ...votes(request),
    ]),
  ]);
}

function statementParts(one: Record<string, unknown>, rule: string, i: number, of: number): HTMLElement[] {
  const resources = texts(one.resources).join(", ");
  const which = of > 1 ? `${i + 1} of ${of}: ${effectOf(one)}${one.decision === "hold" ? ", held" : ""}` : "";
  // What its operation and tables have said already is not said again.
  const unless = (value: unknown) => (texts(value).join(", ") === resources ? "" : texts(value).join(", "));
  const parts = drawn([
    whole(text(one.text), which || "Statement", true),
    facts([
      ["writes", unless(one.writes)], ["reads", unless(one.reads)], ["columns", texts(one.columns).join(", ")],
      ["risk", of > 1 ? texts(one.risk).join(", ") : ""],
      ["class", of > 1 ? text(one.class) : ""],
      ["certainty", one.confidence === "certain" ? "" : `${text(one.confidence) || "not known"}: its grammar alone does not say what it does`],
      ["decision", one.decision === "hold" ? "" : text(one.decision)],
      ["its rule", text(one.rule) === rule ? "" : text(one.rule)],
      ...others(one, STATEMENT),
    ]),
  ]);
  if (one.params === null || one.params === undefined) {
    const hashes = texts(one.sha256);
    if (hashes.length) {
      parts.push(el("p", { class: "aa-quiet aa-hashes" }, "parameters too long to be shown; SHA-256: ", ...shown(hashes.join(", "))));
    }
    return parts;
  }
  list(one.params).forEach((value, at) => {
    parts.push(value === null
      ? el("div", { class: "aa-parameter" }, el("span", { class: "aa-quiet" }, `$${at + 1}`), el("i", {}, "NULL"))
      : whole(text(value), `$${at + 1}`, false));
  });
  return parts;
}

function whole(of: string, label: string, isSql: boolean): HTMLElement {
  const lines = of.split("\n").length;
  const size = `${counted(of.length, "character")}${lines > 1 ? ` in ${count(lines)} lines` : ""}`;
  // Coloured as a whole and cut afterwards: a part of it may look like another thing than it is.
  const coloured: Token[] = isSql && of.length < MAX_COLOURED ? tokens(of) : [{ kind: "plain", text: of }];
  const nodes = coloured.flatMap(({ kind, text: part }) => pieces(part).flatMap((piece): Node[] =>
    piece.counted ? [el("span", { class: "aa-counted" }, piece.text)]
      : kind === "plain" ? shown(piece.text) : [el("span", { class: `aa-sql-${kind}` }, ...shown(piece.text))]));
  const box = el(
    "pre", { class: "aa-whole", tabindex: 0, role: "region", "aria-label": `${plain(label)}, ${size}` }, el("code", {}, ...nodes));
  return el("figure", { class: "aa-text-box" },
    el("figcaption", { class: "aa-quiet" }, ...shown(label === "Statement" ? size : `${label} · ${size}`)), box);
}
