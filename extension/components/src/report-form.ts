/** What an evidence report is to be about, asked in a form. The server names and writes its files. */

import { el, shown } from "./dom.ts";
import type { Filter, Selected } from "./explorer/scope.ts";
import { counted } from "./units.ts";

export type Scope = "sessions" | "request" | "time" | "archive";

/** As the server takes it (src/agentaudit/jupyter/reporting.py): times in ISO 8601, UTC. */
export interface Wanted {
  scope: Scope;
  sessions: string[];
  request: string;
  since: string;
  until: string;
  user: string;
  agent: string;
  target: string;
  deep: boolean;
  pdf: boolean;
  disclose: string;
  folder: string;
}

export interface About extends Partial<Wanted> {
  /** Filters in force that a report cannot be about. */
  leftOut?: string[];
}

const TEXTS = ["user", "agent", "target"] as const;

/** A moment as text that loses nothing of it. */
export function iso(us: number): string {
  const micros = String(((us % 1_000) + 1_000) % 1_000).padStart(3, "0");
  const text = `${new Date(Math.floor(us / 1_000)).toISOString().slice(0, -1)}${micros}Z`;
  return text.replace(/\.000000Z$/, "Z");
}

/** What a report would be about for somebody who looks at this: a selection before a filter. */
export function aboutOf(filter: Filter, selected: Selected | null): About {
  const about: About = { leftOut: [] };
  const { since, until, session = [], ...others } = filter;
  if (since !== undefined) about.since = iso(since);
  if (until !== undefined) about.until = iso(until);
  for (const [name, value] of Object.entries(others)) {
    const text = TEXTS.find((each) => each === name);
    if (text && Array.isArray(value) && value.length === 1 && value[0]) about[text] = value[0];
    else about.leftOut?.push(name);
  }
  const sessions = selected ? [selected.session] : session;
  if (sessions.length) about.sessions = sessions;
  const isNarrowed = [about.since, about.until, ...TEXTS.map((name) => about[name])].some(Boolean);
  about.scope = sessions.length ? "sessions" : isNarrowed ? "time" : "archive";
  return about;
}

export interface ReportForm {
  value(): Wanted;
}

let instances = 0;

/** Draw the form into `root`; `trouble` is why the last answers would not do. */
export function mountReportForm(root: HTMLElement, about: About, trouble: { message: string; hint?: string } | null = null): ReportForm {
  const prefix = `aa-report-${(instances += 1)}`;
  const sessions = about.sessions ?? [];
  const field = (name: string, label: string, value: string, more: Record<string, string | number | boolean> = {}) => {
    const input = el("input", { type: "text", name, value, spellcheck: "false", autocomplete: "off", maxlength: 1_000, class: "aa-r-field", ...more });
    return { input, row: el("label", { class: "aa-r-row" }, el("span", {}, label), input) };
  };
  const when = { placeholder: "2026-11-22 or 2026-11-22T18:00Z" };
  const parts = {
    sessions: field("sessions", "Ids, with spaces between", sessions.join(" ")),
    request: field("request", "Id of the request", about.request ?? ""),
    since: field("since", "From, UTC", about.since ?? "", when),
    until: field("until", "Until, not included", about.until ?? "", when),
    user: field("user", "User", about.user ?? ""),
    agent: field("agent", "Agent", about.agent ?? ""),
    target: field("target", "Target", about.target ?? ""),
    folder: field("folder", "Folder", about.folder ?? "", { placeholder: "the server's root" }),
  };
  const leftOut = about.leftOut ?? [];
  const note = leftOut.length
    ? el("p", { class: "aa-r-note" }, "A report shows all of what it is about. Not a part of it: ", ...shown(leftOut.join(", ")), ".")
    : null;
  const groups: Record<Scope, { label: string; rows: (HTMLElement | null)[] }> = {
    sessions: { label: sessions.length > 1 ? `These ${counted(sessions.length, "session")}` : sessions.length ? "This session" : "Sessions", rows: [parts.sessions.row] },
    request: { label: "A request for approval or for access", rows: [parts.request.row] },
    time: {
      label: "A time, a user, an agent or a target",
      rows: [parts.since.row, parts.until.row, parts.user.row, parts.agent.row, parts.target.row, note],
    },
    archive: { label: "The whole archive", rows: [] },
  };
  const radios: HTMLInputElement[] = [];
  const bodies: [Scope, HTMLElement][] = [];
  const choices = (Object.keys(groups) as Scope[]).map((scope) => {
    const { label, rows } = groups[scope];
    const radio = el("input", {
      type: "radio", name: `${prefix}-scope`, value: scope, checked: scope === (about.scope ?? "archive"), onchange: () => follow(),
    });
    radios.push(radio);
    const body = el("div", { class: "aa-r-body" }, ...rows);
    bodies.push([scope, body]);
    return el("div", { class: "aa-r-choice" }, el("label", { class: "aa-r-radio" }, radio, label), body);
  });
  const check = (label: string, checked: boolean) => {
    const input = el("input", { type: "checkbox", checked });
    return { input, row: el("label", { class: "aa-r-radio" }, input, label) };
  };
  const deep = check("Recompute every leaf, root and table: takes longer", about.deep ?? false);
  const pdf = check("On paper too: PDF/A", about.pdf ?? false);
  const disclose = el("select", { class: "aa-r-field" },
    ...[["text", "what a person reads"], ["all", "everything that was recorded"], ["none", "nothing but hashes"]].map(([value, label]) =>
      el("option", { value: value ?? "", selected: value === (about.disclose ?? "text") }, label)));

  const chosen = (): Scope => (radios.find((each) => each.checked)?.value ?? "archive") as Scope;
  function follow(): void {
    const scope = chosen();
    for (const [name, body] of bodies) body.hidden = name !== scope;
  }
  follow();

  root.classList.add("aa-report-form");
  root.append(
    ...(trouble ? [el("div", { class: "aa-r-trouble", role: "alert" }, ...shown(trouble.message), trouble.hint ? el("div", {}, ...shown(trouble.hint)) : null)] : []),
    el("fieldset", { class: "aa-r-about" }, el("legend", {}, "What it is about"), ...choices),
    el("fieldset", {}, el("legend", {}, "How"), deep.row, pdf.row,
      el("label", { class: "aa-r-row" }, el("span", {}, "Proofs inside hand out"), disclose), parts.folder.row),
    el("p", { class: "aa-r-note" }, "The report holds what was recorded: treat it like the archive. Its files are readable by the server's user alone."),
  );

  return {
    value: () => ({
      scope: chosen(),
      sessions: parts.sessions.input.value.split(/[\s,]+/).filter(Boolean),
      request: parts.request.input.value.trim(),
      since: parts.since.input.value.trim(),
      until: parts.until.input.value.trim(),
      user: parts.user.input.value,
      agent: parts.agent.input.value,
      target: parts.target.input.value,
      deep: deep.input.checked,
      pdf: pdf.input.checked,
      disclose: disclose.value,
      folder: parts.folder.input.value.trim(),
    }),
  };
}
