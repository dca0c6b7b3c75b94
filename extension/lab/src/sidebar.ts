/** The sidebar: what waits, archives, and of the chosen one what goes on now and recent sessions. */

import { Widget } from "@lumino/widgets";
import type { Message } from "@lumino/messaging";

import { effect } from "@agentaudit/components/approvals/words.ts";
import { el, shown } from "@agentaudit/components/dom.ts";
import { plain } from "@agentaudit/components/text.ts";
import { count, counted, moment } from "@agentaudit/components/units.ts";

import { mark } from "./icons.ts";
import { keysOf, row } from "./rows.ts";
import type { Archive, Listed, Server } from "./server.ts";
import type { Watch } from "./watch.ts";

const PAGE = 50;
const SEARCH_AFTER_MS = 250;
const SHOWN_PENDING = 4;

export interface Does {
  openSession(archive: string, session: string, command?: number): void;
  openArchive(archive: string): void;
  openApprovals(): void;
  verify(archive: string): void;
  investigate(archive: string): void;
  report(archive: string): void;
}

/** Whether an archive was checked, and how that went, in a word. */
export function checkedWord(archive: Archive): { text: string; kind: string; title: string } {
  const { checked } = archive;
  if (!checked) return { text: "not checked", kind: "quiet", title: "nobody has verified it since this server began" };
  const title = `checked ${moment(checked.at).slice(0, 19)}, UTC${checked.deep ? ", deeply" : ""}`;
  if (checked.ok === true) return { text: "✔ verified", kind: "good", title };
  if (checked.ok === false) return { text: "✗ broken", kind: "bad", title };
  if (checked.is_consistent) return { text: "≈ consistent, no key", kind: "warn", title: `${title}, without a key from outside it` };
  return { text: "? cannot tell", kind: "warn", title };
}

export class Sidebar extends Widget {
  private readonly trouble = el("div", { class: "aal-trouble", role: "alert", hidden: true });
  private readonly archives = el("ul", { class: "aal-list", "aria-label": "Archives" });
  private readonly pending = el("ul", { class: "aal-list", "aria-label": "Pending approvals" });
  private readonly live = el("ul", { class: "aal-list", "aria-label": "Live sessions" });
  private readonly sessions = el("ul", { class: "aal-list", "aria-label": "Sessions" });
  private readonly pendingCount = el("span", { class: "aal-count" });
  private readonly liveCount = el("span", { class: "aal-count" });
  private readonly of = el("span", { class: "aal-of" });
  private readonly search = el("input", {
    class: "aal-search", type: "search", placeholder: "user, agent, target or text", spellcheck: "false",
    autocomplete: "off", "aria-label": "Search sessions by user, agent, target or text",
  });
  private readonly note = el("p", { class: "aal-note", role: "status" });
  private readonly more = el("button", { type: "button", class: "aal-more", hidden: true, onclick: () => void this.list(true) }, "older sessions");
  private readonly sections: Record<string, HTMLElement>;
  private rows: Listed[] = [];
  private shownOf = "";
  private asked = 0;
  private searching = 0;

  constructor(private readonly server: Server, private readonly watch: Watch, private readonly does: Does) {
    super();
    this.id = "agentaudit-sidebar";
    this.title.icon = mark;
    this.title.caption = "agentaudit";
    this.addClass("aal-sidebar");
    this.node.setAttribute("role", "region");
    this.node.setAttribute("aria-label", "agentaudit");
    const section = (name: string, title: string, aside: Node | null, ...body: Node[]) =>
      el("section", { class: `aal-section aal-${name}`, "aria-label": title },
        el("h3", {}, el("span", {}, title), aside, el("span", { class: "aal-grow" })), ...body);
    this.sections = {
      pending: section("pending", "Waiting for a decision", this.pendingCount, this.pending),
      archives: section("archives", "Archives", null, this.archives),
      live: section("now", "Live", this.liveCount, this.live),
      sessions: section("sessions", "Sessions", this.of, this.search, this.note, this.sessions, this.more),
    };
    this.node.append(this.trouble, el("div", { class: "aal-sections" }, ...Object.values(this.sections)));
    for (const list of [this.archives, this.pending]) keysOf(list);
    for (const list of [this.live, this.sessions]) keysOf(list, true);
    this.search.addEventListener("input", () => {
      window.clearTimeout(this.searching);
      this.searching = window.setTimeout(() => void this.list(), SEARCH_AFTER_MS);
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown") return;
      this.sessions.querySelector("button")?.focus();
      event.preventDefault();
    });
    watch.changed.connect(this.draw, this);
    this.draw();
  }

  override dispose(): void {
    window.clearTimeout(this.searching);
    this.watch.changed.disconnect(this.draw, this);
    super.dispose();
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    this.search.focus({ preventScroll: true });
  }

  private draw(): void {
    const { watch } = this;
    const { trouble } = watch;
    this.trouble.hidden = trouble === null;
    if (trouble) this.trouble.replaceChildren(...shown(trouble.message), ...(trouble.hint ? [el("div", {}, ...shown(trouble.hint))] : []));
    this.drawPending();
    this.drawArchives();
    const { archive } = watch;
    this.of.replaceChildren(...shown(archive ? archive.path : ""));
    this.liveCount.textContent = watch.live.length ? count(watch.live.length) : "";
    this.sections.live?.toggleAttribute("hidden", !watch.live.length);
    keeping(this.live, () => this.live.replaceChildren(...watch.live.map((one) => row(one, this.open))));
    this.sections.sessions?.toggleAttribute("hidden", !archive);
    // What somebody reads stays; a new archive, or the first page of an unsearched list, is fetched.
    if (archive && this.shownOf !== archive.id) void this.list();
    else if (archive && !this.search.value && this.rows.length <= PAGE) void this.list(false, true);
  }

  private readonly open = (one: Listed): void => {
    const { archive } = this.watch;
    if (archive) this.does.openSession(archive.id, one.session_id);
  };

  private drawPending(): void {
    const { waiting } = this.watch;
    const requests = waiting.requests ?? [];
    this.sections.pending?.toggleAttribute("hidden", !waiting.has_control);
    this.pendingCount.textContent = waiting.count ? count(waiting.count) : "";
    this.pendingCount.classList.toggle("aal-urgent", Boolean(waiting.count));
    const items = requests.slice(0, SHOWN_PENDING).map((one) =>
      el("li", { class: "aal-item" },
        el("button", { type: "button", class: "aal-row aal-waits", onclick: () => this.does.openApprovals() },
          el("span", { class: "aal-row-top" }, el("b", { class: "aal-mono" }, ...shown(effect(one)))),
          el("span", { class: "aal-row-bottom" },
            el("span", { class: "aal-quiet" }, ...shown(`${String(one.shown.user ?? "")} → ${one.target}`))))));
    if (waiting.error) items.push(el("li", { class: "aal-note" }, ...shown(waiting.error), el("div", {}, ...shown(waiting.hint ?? ""))));
    else if (!requests.length) items.push(el("li", { class: "aal-note" }, "Nothing waits."));
    else items.push(el("li", { class: "aal-item" }, el("button", { type: "button", class: "aal-review", onclick: () => this.does.openApprovals() },
      `Review ${counted(waiting.count ?? 0, "request")}`)));
    keeping(this.pending, () => this.pending.replaceChildren(...items));
  }

  private drawArchives(): void {
    const { archives, archive, isCut } = this.watch;
    const items = archives.map((one) => {
      const checked = checkedWord(one);
      const act = (label: string, text: string, call: () => void) =>
        el("button", { type: "button", class: "aal-act", "aria-label": `${label} ${plain(one.path)}`, title: label, onclick: call }, text);
      return el("li", { class: `aal-archive${one === archive ? " aal-chosen" : ""}` },
        el("button", {
          type: "button", class: "aal-row", "aria-pressed": one === archive ? "true" : "false", "data-archive": one.id,
          ondblclick: () => this.does.openArchive(one.id), onclick: () => this.watch.choose(one.id),
        },
        el("span", { class: "aal-row-top" }, el("b", {}, ...shown(one.path))),
        el("span", { class: "aal-row-bottom" }, el("span", { class: `aal-${checked.kind}`, title: checked.title }, checked.text))),
        el("span", { class: "aal-acts" },
          act("Open the sessions of", "open", () => this.does.openArchive(one.id)),
          act("Verify", "verify", () => this.does.verify(one.id)),
          act("New investigation of", "investigate", () => this.does.investigate(one.id)),
          act("Export an evidence report of", "report", () => this.does.report(one.id))));
    });
    if (!items.length) items.push(el("li", { class: "aal-note" }, "No archive lies below this server's root. Settings can name others."));
    if (isCut) items.push(el("li", { class: "aal-note" }, "Not every folder was looked into."));
    keeping(this.archives, () => this.archives.replaceChildren(...items));
  }

  private async list(isMore = false, isQuiet = false): Promise<void> {
    const { archive } = this.watch;
    if (!archive) return;
    this.asked += 1;
    const mine = this.asked;
    if (!isQuiet) this.sessions.setAttribute("aria-busy", "true");
    const args: Record<string, unknown> = { text: this.search.value.trim(), limit: PAGE };
    const last = this.rows.at(-1);
    if (isMore && last) args.before = last.session_id;
    this.shownOf = archive.id;
    try {
      const { data } = await this.server.source(archive.id, "sessions").request<{ rows: Listed[] }>("list", args);
      if (mine !== this.asked || this.isDisposed) return;
      const rows = isMore ? [...this.rows, ...data.rows] : data.rows;
      const isSame = JSON.stringify(rows) === JSON.stringify(this.rows);
      this.rows = rows;
      if (!isSame || !isQuiet) keeping(this.sessions, () => this.sessions.replaceChildren(...rows.map((one) => row(one, this.open))));
      this.more.hidden = data.rows.length < PAGE;
      this.note.textContent = rows.length ? "" : this.search.value ? "Nothing matches." : "No session is recorded here yet.";
    } catch (error) {
      if (mine === this.asked) this.note.replaceChildren(...shown((error as Error).message));
    } finally {
      if (mine === this.asked) this.sessions.removeAttribute("aria-busy");
    }
  }
}

/** Draw a list anew, and leave the focus where it was in it. */
function keeping(list: HTMLElement, draw: () => void): void {
  const at = [...list.querySelectorAll("button")].indexOf(document.activeElement as HTMLButtonElement);
  draw();
  if (at >= 0) [...list.querySelectorAll("button")][at]?.focus({ preventScroll: true });
}
