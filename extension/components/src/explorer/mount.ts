/**
 * Sessions and commands of an archive: filters, time, a list, and what is behind a line of it.
 *
 * The kernel keeps the data; the browser holds what is in view. One scope is shared by all parts.
 */

import { slice } from "../arrow.ts";
import { partOf, type Source } from "../channel.ts";
import { el, shown } from "../dom.ts";
import { mount as mountReplay } from "../replay.ts";
import { measured } from "../measured.ts";
import { flat, plain } from "../text.ts";
import { count, counted, duration, moment } from "../units.ts";
import { Lifetime, notices } from "../view.ts";
import { PAGE, virtualList } from "../virtual-list.ts";
import { code } from "./code.ts";
import { facets } from "./facets.ts";
import { between, given, Scope, type Filter, type Selected, type Told } from "./scope.ts";
import { FLAGS, GRAVITY, mountTimeline, type Lanes, type TimelineView } from "./timeline.ts";

/** Two letters of one hand come closer than this; what a next one makes vain is dropped in the kernel, too. */
const TYPING_MS = 40;
const POLL_MS = 2_000;
const BUILDING_MS = 400;
const ROW_HEIGHT = 30;

interface Opened extends Told {
  archive: string;
  /** Null while nothing is known. */
  commands: number | null;
  sessions: number | null;
  first: number;
  last: number;
  /** Whether all questions are answered by the index; before that, counts of other facets wait. */
  ready: boolean;
  progress: number;
  scripted: boolean;
  /** What contradicts something, what may not be read, and why the archive cannot be read now. */
  warnings: string[];
  /** Changes when there is more to see. */
  stamp: string;
}

interface Command {
  id: number;
  t: number;
  session_id: string;
  command_no: number;
  user: string | null;
  agent: string | null;
  target: string | null;
  cls: number;
  operation: string | null;
  status: number;
  duration: number | null;
  rows_returned: number | null;
  rows_affected: number | null;
  flags: number;
  text: string | null;
}

interface SessionRow {
  session_id: string;
  opened: number;
  closed: number | null;
  user: string | null;
  agent: string | null;
  target: string | null;
  matching: number;
  commands: number | null;
  errors: number;
  denied: number;
  held: number;
  masked: number;
  large: number;
}

const STATUSES = ["ok", "error", "denied", "cancelled", "incomplete", ""];
const TABS = ["commands", "sessions"] as const;
type Tab = (typeof TABS)[number];

export interface ExplorerOptions {
  /** Leave out what is not wanted: the timeline, the facets, the list, the code. */
  parts?: readonly ("facets" | "timeline" | "list" | "code")[];
  lanes?: Lanes;
  onLanes?: (lanes: Lanes) => void;
}

export interface ExplorerView {
  readonly scope: Scope;
  /** Lay the timeline out in other lanes; whoever says so knows it already. */
  layOut(lanes: Lanes): void;
  dispose(): void;
}

let instances = 0;

export function mountExplorer(root: HTMLElement, source: Source, options: ExplorerOptions = {}): ExplorerView {
  const prefix = `aa-explorer-${(instances += 1)}`;
  const parts = new Set(options.parts ?? ["facets", "timeline", "list", "code"]);
  const lifetime = new Lifetime();
  const lines = notices();
  let opened: Opened | null = null;
  let timeline: TimelineView | null = null;
  let tab: Tab = "commands";
  let newest = true;
  let replay: { goTo(command: number): void; dispose(): void } | null = null;
  let replaying = "";
  let listTotal = 0;
  let lanes = options.lanes ?? "none";

  // -- asking

  /** What went wrong stays until the same question is answered: others say nothing of it. */
  let failed = "";
  const complain = (error: unknown, op = "") => {
    if (lifetime.isOver) return;
    failed = op;
    lines.complain(error);
  };
  const ask = async <Data>(op: string, args: Record<string, unknown>) => {
    try {
      const answer = await source.request<Data>(op, args);
      if (failed === op) lines.calm();
      return answer;
    } catch (error) {
      if (op !== "look") complain(error, op); // one that a newer look has ended is no failure
      throw error;
    }
  };
  const ignore = () => {}; // `ask` has complained
  const asking: Source = { ...source, request: (op, args = {}) => ask(op, args) };
  const scope = new Scope(asking);
  lifetime.onEnd(() => scope.close());

  // -- skeleton

  const title = el("div", { class: "aa-x-title" });
  const search = el("input", {
    class: "aa-field aa-x-search", type: "search", placeholder: "part of a statement", spellcheck: "false",
    autocomplete: "off", "aria-label": "Part of a statement", title: "Part of a statement (/)", maxlength: 1_000,
  });
  const chips = el("div", { class: "aa-x-chips", role: "group", "aria-label": "Filters in force" });
  const timelineBox = el("section", { class: "aa-timeline-box", "aria-label": "Timeline" });
  const tabs = el("div", { class: "aa-x-tabs", role: "tablist", "aria-label": "What is listed" });
  const order = el("button", {
    type: "button", class: "aa-button aa-calm", title: "Turn the order (o)",
    onclick: () => { newest = !newest; order.textContent = newest ? "newest first" : "oldest first"; void relist(); },
  }, "newest first");
  const fresh = el("button", {
    type: "button", class: "aa-button aa-calm", hidden: true, title: "List what was recorded meanwhile",
    onclick: () => void relist(),
  }, "more was recorded");
  const listBox = el("div", { class: "aa-x-list-box", role: "tabpanel", id: `${prefix}-list`, "aria-label": "List" });
  const drawer = el("section", { class: "aa-x-drawer", hidden: true, "aria-label": "Session" });
  const warnings = el("div", { class: "aa-x-warnings", role: "status", hidden: true });
  const side = parts.has("facets") ? facets(asking, scope, ignore) : null;
  const saidBox = el("details", { class: "aa-code-box", open: !parts.has("list") }, el("summary", {}, "as Python and SQL"));
  const said = parts.has("code") ? code(asking, scope, ignore, () => saidBox.open) : null;
  if (said) {
    saidBox.append(said.element);
    lifetime.listen(saidBox, "toggle", () => said.refresh());
  }
  const frame = el(
    "div", { class: `aa-view aa-frame aa-explorer${parts.has("list") ? "" : " aa-x-part"}`, role: "region", "aria-label": "Explorer of an archive" },
    el("header", { class: "aa-x-head" }, title, search), chips, lines.trouble, warnings,
    parts.has("timeline") ? timelineBox : null,
    el(
      "div", { class: "aa-x-body", hidden: !side && !parts.has("list") },
      side?.element,
      parts.has("list")
        ? el("div", { class: "aa-x-main" },
          el("div", { class: "aa-x-list-top" }, tabs, el("span", { class: "aa-grow" }), fresh, order), listBox, drawer)
        : null,
    ),
    said ? saidBox : null, lines.status,
  );
  root.append(frame);

  // -- lists

  const commands = virtualList<Command>({
    label: "Commands", rowHeight: ROW_HEIGHT, complain: ignore,
    async fetch(offset, limit) {
      const { buffers } = await ask("rows", { filter: scope.filter, newest, offset, limit });
      return objects<Command>(buffers[0]);
    },
    draw: drawCommand,
    onActive: (row) => scope.select({ session: row.session_id, command: row.command_no }),
    onOpen: (row) => openSession({ session: row.session_id, command: row.command_no }),
  });
  const sessions = virtualList<SessionRow>({
    label: "Sessions", rowHeight: ROW_HEIGHT, complain: ignore,
    async fetch(offset, limit) {
      const { buffers } = await ask("sessions", { filter: scope.filter, newest, offset, limit });
      return objects<SessionRow>(buffers[0]);
    },
    draw: drawSession,
    onActive: () => {},
    onOpen: (row) => openSession({ session: row.session_id, command: 0 }),
  });
  lifetime.onEnd(() => commands.dispose());
  lifetime.onEnd(() => sessions.dispose());

  function drawCommand(row: Command): Node[] {
    const flags = FLAGS.filter(({ bit }) => row.flags & bit).map(({ name }) => name);
    const status = STATUSES[row.status] ?? "";
    const cls = GRAVITY[row.cls] || "unknown";
    const rows = row.rows_returned ?? row.rows_affected;
    const isOk = status === "ok";
    return [
      el("span", { class: "aa-c-time" }, moment(row.t)),
      el("span", { class: "aa-c-who", title: plain(`${row.user ?? ""} via ${row.agent ?? ""}`) },
        ...shown(row.user ?? "–"), row.agent ? el("small", {}, ...shown(row.agent)) : null),
      el("span", { class: "aa-c-target" }, ...shown(row.target ?? "–")),
      el("span", { class: `aa-badge aa-class-${cls}` }, ...shown(row.operation || cls)),
      el("span", { class: `aa-c-status aa-status-${status}` }, isOk ? "" : status),
      el("span", { class: "aa-c-text" }, ...shown(flat(row.text ?? ""))),
      el("span", { class: "aa-c-flags" }, ...flags.filter((name) => name !== "error" || isOk).map((name) => el("i", { class: `aa-flag aa-flag-${name}` }, name))),
      el("span", { class: "aa-c-number" }, rows === null ? "" : counted(rows, "row")),
      el("span", { class: "aa-c-number" }, duration(row.duration)),
    ];
  }

  function drawSession(row: SessionRow): Node[] {
    const marks = [["error", row.errors], ["denied", row.denied], ["held", row.held], ["large", row.large], ["masked", row.masked]] as const;
    return [
      el("span", { class: "aa-c-time" }, moment(row.opened)),
      el("span", { class: "aa-c-who" }, ...shown(row.user ?? "–"), row.agent ? el("small", {}, ...shown(row.agent)) : null),
      el("span", { class: "aa-c-target" }, ...shown(row.target ?? "–")),
      el("code", { class: "aa-c-id" }, row.session_id.slice(0, 13)),
      el("span", { class: "aa-c-text" }, row.commands === null || row.matching === row.commands
        ? counted(row.matching, "command") : `${count(row.matching)} of ${counted(row.commands, "command")}`),
      el("span", { class: "aa-c-flags" }, ...marks.filter(([, n]) => n).map(([name, n]) => el("i", { class: `aa-flag aa-flag-${name}` }, `${count(n)} ${name}`))),
      el("span", { class: "aa-c-number" }, row.closed === null ? el("span", { class: "aa-badge aa-live" }, "live") : duration(row.closed - row.opened)),
    ];
  }

  const tabButtons = TABS.map((name) => {
    const number = el("b", {});
    const node = el("button", {
      type: "button", class: "aa-x-tab", role: "tab", "aria-controls": `${prefix}-list`,
      onclick: () => turnTo(name),
      onkeydown: (event: KeyboardEvent) => {
        if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
        turnTo(name === "commands" ? "sessions" : "commands");
        tabButtons.find((one) => one.name === tab)?.node.focus();
      },
    }, name === "commands" ? "Commands" : "Sessions", number);
    return { name, node, number };
  });
  tabs.append(...tabButtons.map(({ node }) => node));

  function drawTabs(): void {
    for (const { name, node, number } of tabButtons) {
      node.setAttribute("aria-selected", name === tab ? "true" : "false");
      node.tabIndex = name === tab ? 0 : -1;
      number.textContent = name === tab ? ` ${count(listTotal)}` : "";
    }
    const { element } = tab === "commands" ? commands : sessions;
    if (listBox.firstChild !== element) listBox.replaceChildren(element);
  }

  function turnTo(name: Tab): void {
    tab = name;
    drawTabs();
    void relist();
  }

  let listing = 0;
  /** The state of the archive that the list is of: places in it are those of no other. */
  let listed = "";
  async function relist(): Promise<void> {
    listing += 1;
    const mine = listing;
    const began = performance.now();
    try {
      const { filter } = scope;
      const counting = () => ask<{ n: number | null }>("count", { filter });
      const listingOf = (op: string) => ask<{ n: number | null }>(op, { filter, newest, offset: 0, limit: PAGE });
      const isOfCommands = tab === "commands";
      const [told, page] = !parts.has("list")
        ? [await counting(), null]
        : isOfCommands
          ? await listingOf("rows").then((answer) => [answer, answer])
          : await Promise.all([counting(), listingOf("sessions")]);
      if (mine !== listing || lifetime.isOver) return;
      if (page) {
        listTotal = page.data.n ?? 0;
        listed = opened?.stamp ?? "";
        // Before all else: it reads sizes, and what is written by then would be laid out for that.
        if (isOfCommands) commands.reset(listTotal, objects<Command>(page.buffers[0]));
        else sessions.reset(listTotal, objects<SessionRow>(page.buffers[0]));
        fresh.hidden = true;
        drawTabs();
      }
      drawTitle(told.data.n);
      if (told.data.n !== null) lines.say(`${counted(told.data.n, "command")} match`);
      if (page) measured("rows", began);
    } catch (error) {
      ignore();
    }
  }

  // -- heading

  function drawTitle(total: number | null = null): void {
    if (!opened) return;
    warnings.hidden = !opened.warnings.length;
    warnings.replaceChildren(...opened.warnings.map((text) => el("div", {}, ...shown(text))));
    const all = opened.commands ?? 0;
    const isAll = total === null || total === all;
    title.replaceChildren(
      el("b", {}, ...shown(opened.archive)),
      el("span", {}, isAll ? counted(all, "command") : `${count(total)} of ${counted(all, "command")}`),
      opened.sessions === null ? "" : el("span", {}, counted(opened.sessions, "session")),
      opened.scripted ? el("span", { class: "aa-badge aa-warn", title: "times were set by a script, not by a clock" }, "scripted clock") : "",
      opened.ready ? "" : el("span", { class: "aa-badge" }, `reading the archive, ${Math.round(opened.progress * 100)} %`),
    );
  }

  function drawChips(): void {
    const chip = (label: string, take: () => void) =>
      el("button", { type: "button", class: "aa-chip", title: "take this filter away", onclick: take }, ...shown(label), " ×");
    const { filter } = scope;
    const found: HTMLElement[] = [];
    for (const [facet, chosen] of Object.entries(filter)) {
      if (!Array.isArray(chosen)) continue;
      for (const value of chosen) {
        found.push(chip(`${facet}: ${value || "(none)"}`, () =>
          scope.narrow(given({ ...scope.filter, [facet]: chosen.filter((each) => each !== value) }))));
      }
    }
    if (filter.text) found.push(chip(`text: ${filter.text}`, () => { search.value = ""; const { text: _, ...rest } = scope.filter; scope.narrow(rest as Filter); }));
    if (filter.since !== undefined || filter.until !== undefined) {
      found.push(chip(`${filter.since ? moment(filter.since).slice(0, 19) : "…"} – ${filter.until ? moment(filter.until).slice(0, 19) : "…"}`, () => scope.narrow(between(scope.filter))));
    }
    if (found.length > 1) found.push(el("button", { type: "button", class: "aa-button aa-calm", onclick: () => { search.value = ""; scope.narrow({}); } }, "clear all"));
    // Its line is there always: what was clicked would move, and all below be laid out anew.
    if (found.length) chips.replaceChildren(...found);
    else chips.replaceChildren("no filter");
  }

  // -- a session, opened

  function openSession(chosen: Selected): void {
    if (replaying === chosen.session) replay?.goTo(chosen.command);
    else {
      replay?.dispose();
      drawer.replaceChildren(el("div", { class: "aa-x-drawer-top" },
        el("button", { type: "button", class: "aa-button aa-calm", title: "Back (Esc)", onclick: closeSession }, "← back to the list")));
      drawer.hidden = false;
      frame.classList.add("aa-x-opened");
      replaying = chosen.session;
      replay = mountReplay(drawer, partOf(source, "replay", { session: chosen.session }), {
        commandNo: chosen.command,
        onSelect: (command: number) => scope.select({ session: chosen.session, command }),
      });
      drawer.querySelector<HTMLElement>("[role=listbox]")?.focus({ preventScroll: true });
      lines.say(`session ${chosen.session} is open; Escape goes back`);
    }
  }

  function closeSession(): void {
    replay?.dispose();
    replay = null;
    replaying = "";
    drawer.hidden = true;
    frame.classList.remove("aa-x-opened");
    (tab === "commands" ? commands : sessions).element.focus({ preventScroll: true });
    void followList();
  }

  // -- life

  let typing: ReturnType<typeof setTimeout> | undefined;
  lifetime.onEnd(() => clearTimeout(typing));
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => scope.narrow(given({ ...scope.filter, text: search.value })), TYPING_MS);
  });
  // While capturing: a replay has a meaning of its own for Escape, once there is nothing to close in it.
  frame.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("[role=dialog]")) return;
    const isTyping = target.matches("input, select, textarea");
    if (event.key === "Escape" && replaying && !isTyping && drawer.querySelector<HTMLElement>(".aa-help")?.hidden) closeSession();
    else if (event.key === "Escape" && target === search) commands.element.focus({ preventScroll: true });
    else if (isTyping || replaying) return;
    else if (event.key === "/") search.focus();
    else if (event.key === "o") order.click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  lifetime.onEnd(scope.hear((change) => {
    if (change === "selected") {
      void followList();
      return;
    }
    void relist();
    // Behind what is asked, which is sent at the end of this turn: the kernel works meanwhile.
    queueMicrotask(() => {
      if (search.value !== (scope.filter.text ?? "")) search.value = scope.filter.text ?? "";
      drawChips();
    });
  }));

  /** Show in the list what another view selected. */
  async function followList(): Promise<void> {
    const { selected } = scope;
    if (!selected || !parts.has("list")) return;
    if (replaying) {
      if (replaying === selected.session) replay?.goTo(selected.command);
      return;
    }
    if (tab !== "commands") return;
    const active = commands.row(commands.active());
    if (active && active.session_id === selected.session && active.command_no === selected.command) return;
    try {
      const { data } = await ask<{ place: number | null }>("place", { filter: scope.filter, newest, ...selected });
      if (lifetime.isOver || scope.selected !== selected || listed !== opened?.stamp) return;
      const row = data.place === null ? undefined : commands.row(data.place);
      const isOther = row && (row.session_id !== selected.session || row.command_no !== selected.command);
      if (isOther) fresh.hidden = false; // the list is of before: its places are others
      else if (data.place !== null) commands.reveal(data.place);
    } catch (error) {
      ignore();
    }
  }

  async function begin(): Promise<void> {
    const began = performance.now();
    const { data } = await ask<Opened>("open", {});
    if (lifetime.isOver) return;
    opened = data;
    scope.take(data);
    search.value = scope.filter.text ?? "";
    drawTitle();
    drawChips();
    drawTabs();
    if (parts.has("timeline")) {
      timeline = mountTimeline(timelineBox, asking, scope, data, {
        complain: (error) => complain(error, "look"),
        lanes,
        ...(options.onLanes ? { onLanes: options.onLanes } : {}),
      });
    }
    void relist();
    measured("open", began);
    watch();
  }

  /** Look whether there is more: often while the archive is read, now and then while it grows. */
  let watching: ReturnType<typeof setTimeout> | undefined;
  lifetime.onEnd(() => clearTimeout(watching));
  function watch(): void {
    if (!opened) return;
    watching = setTimeout(async () => {
      if (lifetime.isOver) return;
      try {
        if (frame.isConnected && !document.hidden) {
          const { data } = await ask<Opened>("open", {});
          const isNew = opened?.stamp !== data.stamp;
          const wasReady = opened?.ready;
          opened = data;
          scope.take(data);
          if (isNew) {
            side?.refresh();
            timeline?.refresh(data);
            // Whoever reads a list is not thrown back to its top by what is recorded meanwhile.
            if (wasReady && data.ready) fresh.hidden = false;
            else void relist();
            drawTitle();
          } else if (!data.ready) drawTitle();
        }
      } catch (error) {
        ignore();
      }
      watch();
    }, opened.ready ? POLL_MS : BUILDING_MS);
  }

  begin().catch(ignore);

  return {
    scope,
    layOut(next) {
      lanes = next;
      timeline?.layOut(next);
    },
    dispose() {
      lifetime.end();
      replay?.dispose();
      timeline?.dispose();
      side?.dispose();
      said?.dispose();
      frame.remove();
    },
  };
}

/** Turn an Arrow stream into a list of its rows, for the few that a list shows. */
function objects<Row>(view: DataView | undefined): Row[] {
  const columns = slice<Record<string, unknown>>(view);
  const names = Object.keys(columns).filter((name) => name !== "length");
  return Array.from({ length: columns.length }, (_, i) =>
    Object.fromEntries(names.map((name) => [name, columns[name]?.[i]])) as Row);
}
