/** Tabs of the main area: a session, the sessions of an archive, what waits, a verification. */

import type { Message } from "@lumino/messaging";
import { Widget } from "@lumino/widgets";

import * as approvals from "@agentaudit/components/approvals.ts";
import type { Source } from "@agentaudit/components/channel.ts";
import { el, shown } from "@agentaudit/components/dom.ts";
import { mountExplorer, type ExplorerView as Mounted } from "@agentaudit/components/explorer/mount.ts";
import { mount as mountReplay } from "@agentaudit/components/replay.ts";
import { mountReportForm, type About, type ReportForm, type Wanted } from "@agentaudit/components/report-form.ts";
import { plain } from "@agentaudit/components/text.ts";
import { count, counted, moment } from "@agentaudit/components/units.ts";

import { focusOn, keysOf, tableRow } from "./rows.ts";
import type { Archive, Job, Listed, Made, Server, Totals } from "./server.ts";
import type { Watch } from "./watch.ts";

const TABLE_PAGE = 200;
const SEARCH_AFTER_MS = 250;

/** One session, replayed. */
export class SessionView extends Widget {
  private readonly mounted: ReturnType<typeof mountReplay>;

  constructor(server: Server, readonly archive: string, readonly session: string, public command: number) {
    super();
    this.addClass("aal-session");
    const source = server.source(archive, "replay", session);
    const listening: Source = {
      request: async <Data>(op: string, args?: Record<string, unknown>) => {
        const answer = await source.request<Data>(op, args);
        if (op === "open") this.nameBy((answer.data as { session: Record<string, unknown> }).session);
        return answer;
      },
    };
    this.mounted = mountReplay(this.node, listening, {
      commandNo: command,
      onSelect: (number: number) => {
        this.command = number;
      },
    });
  }

  goTo(command: number): void {
    this.mounted.goTo(command);
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    focusOn(this.node, ".aa-list");
  }

  /** Let the tab say whose session it is, bounded, and with control characters written out. */
  private nameBy(facts: Record<string, unknown>): void {
    const short = (value: unknown) => plain(String(value ?? "").slice(0, 24)) || "–";
    const { title } = this.parent ?? this;
    title.label = `${short(facts.user)} → ${short(facts.target)}`;
    title.caption = `${short(facts.user)} via ${short(facts.agent)}\n${moment(facts.opened_at as number)}\n${this.session}`;
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.mounted.dispose();
    super.dispose();
  }
}

/** The sessions of an archive, as a table that can be searched. */
export class ArchiveView extends Widget {
  private readonly body = el("tbody");
  private readonly facts = el("p", { class: "aal-facts" });
  private readonly warnings = el("div", { class: "aal-trouble", role: "alert", hidden: true });
  private readonly note = el("p", { class: "aal-note", role: "status" });
  private readonly search = el("input", {
    class: "aal-search", type: "search", placeholder: "user, agent, target or text", spellcheck: "false",
    "aria-label": "Search sessions by user, agent, target or text",
  });
  private readonly more = el("button", { type: "button", class: "aal-more", hidden: true, onclick: () => void this.list(true) }, "older sessions");
  private rows: Listed[] = [];
  private asked = 0;
  private searching = 0;

  constructor(private readonly server: Server, readonly archive: Archive, private readonly open: (session: string) => void) {
    super();
    this.addClass("aal-overview");
    const heads = ["opened, UTC", "lasted", "user", "agent", "target", "commands", "received", "", "risk"];
    const numeric = new Set(["lasted", "commands", "received"]);
    const table = el(
      "table", { class: "aal-table", "aria-label": "Sessions" },
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col", class: numeric.has(head) ? "aal-num" : null }, head || el("span", { class: "aal-hidden" }, "marks"))))),
      this.body,
    );
    this.node.append(
      el("header", { class: "aal-head" }, el("h2", {}, ...shown(archive.path)), this.facts, this.warnings, this.search),
      el("div", { class: "aal-scrolled", tabindex: 0, role: "group", "aria-label": "Sessions" }, table, this.note, this.more),
    );
    keysOf(this.body, true);
    this.search.addEventListener("input", () => {
      window.clearTimeout(this.searching);
      this.searching = window.setTimeout(() => void this.list(), SEARCH_AFTER_MS);
    });
    void this.tell();
    void this.list();
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    focusOn(this.node, ".aal-search");
  }

  override dispose(): void {
    window.clearTimeout(this.searching);
    super.dispose();
  }

  private async tell(): Promise<void> {
    try {
      const { data } = await this.server.source(this.archive.id, "sessions").request<Totals>("open");
      const when = data.first === null ? "" : ` · ${moment(data.first).slice(0, 16)} – ${moment(data.last).slice(0, 16)} UTC`;
      this.facts.textContent =
        `${counted(data.sessions, "session")}, ${count(data.live)} live · ${counted(data.commands, "command")} · ` +
        `${counted(data.users, "user")} · ${counted(data.targets, "target")}${when} · access ${data.access}`;
      const warnings = [...data.contradictions, ...data.unread.map((name) => `${name} may not be read, so what is live is missing`)];
      this.warnings.hidden = !warnings.length;
      this.warnings.replaceChildren(...warnings.map((text) => el("div", {}, ...shown(text))));
    } catch (error) {
      this.note.replaceChildren(...shown((error as Error).message));
    }
  }

  private async list(isMore = false): Promise<void> {
    this.asked += 1;
    const mine = this.asked;
    const args: Record<string, unknown> = { text: this.search.value.trim(), limit: TABLE_PAGE };
    const last = this.rows.at(-1);
    if (isMore && last) args.before = last.session_id;
    try {
      const { data } = await this.server.source(this.archive.id, "sessions").request<{ rows: Listed[] }>("list", args);
      if (mine !== this.asked || this.isDisposed) return;
      this.rows = isMore ? [...this.rows, ...data.rows] : data.rows;
      this.body.replaceChildren(...this.rows.map((one) => tableRow(one, ({ session_id }) => this.open(session_id))));
      this.more.hidden = data.rows.length < TABLE_PAGE;
      this.note.textContent = this.rows.length ? "" : "Nothing matches.";
    } catch (error) {
      if (mine === this.asked) this.note.replaceChildren(...shown((error as Error).message));
    }
  }
}

/** A name for this tab: what it has said to the server is its own. */
const pageId = () => Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 32).toString(16)).join("-");

/** All sessions and commands of an archive: filters, a timeline, lists, and what is behind a line. */
export class ExplorerView extends Widget {
  private readonly mounted: Mounted;

  constructor(server: Server, readonly archive: Archive) {
    super();
    this.addClass("aal-explorer");
    this.mounted = mountExplorer(this.node, server.source(archive.id, "explorer", "", pageId()));
  }

  /** The filter and the selection. */
  get scope(): Mounted["scope"] {
    return this.mounted.scope;
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    focusOn(this.node, ".aa-x-search");
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.mounted.dispose();
    super.dispose();
  }
}

/** What waits for a decision. */
export class ApprovalsView extends Widget {
  private readonly mounted: approvals.Approvals;

  constructor(server: Server, private readonly watch: Watch, onOpen: (session: string, command: number) => void) {
    super();
    this.addClass("aal-approvals");
    this.mounted = approvals.mount(this.node, server.approvals, {
      onOpen,
      onDecided: () => void watch.look(),
      mayDecide: watch.waiting.may_decide,
    });
    watch.changed.connect(this.refresh, this);
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    focusOn(this.node, ".aa-scrolled");
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.watch.changed.disconnect(this.refresh, this);
    this.mounted.dispose();
    super.dispose();
  }

  private refresh(): void {
    if (this.isVisible) void this.mounted.refresh();
  }
}

/** A dialog's body: what an evidence report is to be about. */
export class ReportBody extends Widget {
  private readonly form: ReportForm;

  constructor(about: About, trouble: { message: string; hint?: string } | null) {
    super();
    this.form = mountReportForm(this.node, about, trouble);
  }

  getValue(): Wanted {
    return this.form.value();
  }
}

export interface DoesWithFiles {
  open(path: string, kind: "html" | "pdf"): void;
  download(path: string): void;
}

/** Where an evidence report was written, and its verdict. */
export class ReportView extends Widget {
  constructor(archive: Archive, job: Job<Made>, made: Made, does: DoesWithFiles) {
    super();
    this.addClass("aal-verification");
    this.addClass("aal-report");
    const kind = made.ok === true ? "good" : made.ok === false ? "bad" : "warn";
    const sign = made.ok === true ? "✔" : made.ok === false ? "✗" : "?";
    const act = (label: string, path: string, call: () => void) =>
      el("button", { type: "button", class: "aal-act", "aria-label": `${label} ${path}`, onclick: call }, label);
    this.node.append(
      el("header", { class: "aal-head" }, el("h2", {}, ...shown(`Evidence report of ${archive.path}`)),
        el("p", { class: `aal-answer aal-${kind}`, role: "status" }, `${sign} ${made.verdict}`),
        el("p", { class: "aal-facts" }, ...shown(
          `${made.subject} · ${count(made.sessions)} of ${counted(made.sessions_asked, "session")} and ` +
          `${count(made.commands)} of ${counted(made.commands_asked, "command")} shown · ${counted(made.exceptions, "exception")} · ` +
          `${moment(job.ended_at).slice(0, 19)} UTC · access ${made.access}`))),
      el("div", { class: "aal-scrolled", tabindex: 0, role: "group", "aria-label": "The report's files" },
        el("h3", {}, "Written, for this server's user alone"),
        el("ul", { class: "aal-files" }, ...made.files.map(({ path, kind: form, sha256 }) =>
          el("li", {}, el("b", { class: "aal-path" }, ...shown(path)),
            act("Open", path, () => does.open(path, form)), act("Download", path, () => does.download(path)),
            el("div", {}, "SHA-256 ", el("code", {}, sha256))))),
        el("p", { class: "aal-note" }, "Hand the digest over by another way than the file. The report says how to check it without us."),
        ...(made.reasons.length ? [el("h3", {}, "Why this verdict"), el("ul", {}, ...made.reasons.map((text) => el("li", {}, ...shown(text))))] : []),
        el("p", { class: "aal-note" }, ...shown(made.keys.length
          ? `Held against ${made.keys.join(", ")}, from the server's configuration.`
          : "Held against no key from outside the archive: AgentauditApp.keys names those that the operator gave you."))),
    );
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    focusOn(this.node, ".aal-act");
  }
}

/** What a verification found: the answer, the first broken link, what is exposed. */
export class VerificationView extends Widget {
  constructor(archive: Archive, job: Job) {
    super();
    this.addClass("aal-verification");
    this.node.append(...verification(archive, job));
  }
}

function verification(archive: Archive, job: Job): HTMLElement[] {
  const { result } = job;
  const title = el("h2", {}, ...shown(archive.path));
  if (!result) {
    return [el("header", { class: "aal-head" }, title,
      el("p", { class: "aal-answer aal-bad" }, ...shown(job.state === "stopped" ? "stopped" : job.error || "no answer")),
      job.hint ? el("p", { class: "aal-note" }, ...shown(job.hint)) : el("span"))];
  }
  const answer = result.ok === true ? "✔ Consistent and signed" : result.ok === false ? "✗ Do not rely on this archive"
    : result.is_consistent ? "≈ Consistent with itself" : "? Could not tell";
  const kind = result.ok === true ? "good" : result.ok === false ? "bad" : "warn";
  const key = result.keys.length
    ? `key ${result.keys.join(", ")}, from the server's configuration`
    : `no key from outside was given${result.is_key_beside ? "; the one that lies beside the archive came with it, and whoever could rewrite it may have changed the key too" : ""}`;
  const [first, ...others] = result.findings;
  const finding = (one: NonNullable<typeof first>) => el("li", { class: "aal-finding" },
    el("b", {}, ...shown(one.place)), el("span", {}, ": ", ...shown(one.seen), one.expected ? ", " : "", ...shown(one.expected), one.expected ? " expected" : ""),
    el("code", {}, ...shown(one.check)));
  const lines = (head: string, each: string[]) => each.length
    ? [el("h3", {}, head), el("ul", {}, ...each.map((text) => el("li", {}, ...shown(text))))] : [];
  return [
    el("header", { class: "aal-head" }, title,
      el("p", { class: `aal-answer aal-${kind}`, role: "status" }, answer),
      el("p", { class: "aal-facts" }, ...shown(
        `${result.deep ? "deep" : "fast"} check, ${moment(job.ended_at).slice(0, 19)} UTC: ${counted(result.gateways, "gateway")}, ${counted(result.segments, "segment")}, ` +
        `${counted(result.events, "event")}, ${counted(result.sessions, "session")}, ${counted(result.live_events, "live event")}; ${key}`))),
    el("div", { class: "aal-scrolled", tabindex: 0, role: "group", "aria-label": "What was found" },
      ...(first ? [el("h3", { class: "aal-bad" }, "First broken link"), el("ul", { class: "aal-findings" }, finding(first))] : []),
      ...(others.length ? [el("h3", {}, `${count(result.findings_count - 1)} more`), el("ul", { class: "aal-findings" }, ...others.map(finding))] : []),
      ...lines("Exposed", result.exposure.map((one) => one.entries === 0 ? `${one.gateway}: nothing since the ${one.anchor}` :
        `${one.gateway}: ${counted(one.entries, "log entry", "log entries")} with ${counted(one.events, "event")}, ` +
        (one.since_size ? `since the ${one.anchor}` : "all of it: nothing outside the archive was given or is remembered"))),
      ...lines("Anchors", result.anchors.map((one) => `${one.gateway}: ${one.kind} at ${counted(one.size, "log entry", "log entries")}${one.by.length ? `, by ${one.by.join(", ")}` : ""}`)),
      ...lines("Unknown signers", result.unknown_signers),
      ...lines("Notes", [...result.scripted_clocks.map((name) => `${name} recorded with a scripted clock: its times are made up`), ...result.notes]),
      ...lines("Not read", result.unread)),
  ];
}
