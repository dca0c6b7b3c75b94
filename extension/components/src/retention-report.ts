/**
 * Shows what an archive keeps until when, what goes next, what is held and why, and what purges took.
 *
 * Nothing recorded is shown but ids and names. The chart is of the days to come: what becomes due
 * on which of them, now and, where settings were given, if they came into force.
 *
 * Above `mountRetentionReport` are pure functions; it draws into an element from any source.
 */

import { DAY_US } from "./axis.ts";
import { Closed, type Source } from "./channel.ts";
import { el, shown } from "./dom.ts";
import { copyable, day, fact, instant, tabbed, table } from "./panel.ts";
import { plain } from "./text.ts";
import { bytes, count, counted } from "./units.ts";

const HORIZONS = [7, 30, 90] as const;

export interface Due {
  sessions: number[];
  payloads: number[];
  bytes: number[];
}

export interface Keep {
  keep_us: number | null;
  payload_us: number | null;
  notice_us: number;
}

export interface After extends Keep {
  class: string;
  says: Keep;
  promised_until_us: number | null;
  first_us: number | null;
  due: Due;
}

export interface Target extends Keep {
  target: string;
  class: string;
  promised_until_us: number | null;
  sessions: number;
  bytes: number;
  without_payloads: number;
  held: number;
  waiting: number;
  first_us: number | null;
  due: Due;
  after: After | null;
}

interface Policy {
  digest: string;
  entry: number;
  since_us: number;
  ended_us: number | null;
  classes: (Keep & { name: string })[];
}

export interface Hold {
  hold: string;
  set_us: number;
  selector: Record<string, string | number>;
  actor: string;
  authority: string;
  reason: string;
  sessions: number | null;
  due: number;
}

interface Held {
  session: string;
  target: string;
  closed_us: number;
  holds: string[];
}

export interface Purge {
  purge: string;
  entry: number;
  at_us: number;
  what: string;
  basis: string;
  policy: string;
  decision: number | null;
  sessions: number;
  segments: number;
  list_sha256: string;
  done: number;
  rows: number;
  bytes: number;
  is_done: boolean;
}

interface File {
  sha256: string;
  bytes: number;
  rows: number;
}

interface Proof extends Purge {
  parts: {
    segment: string;
    entry: number;
    at_us: number;
    rows: number;
    root: string;
    residue: string;
    files: { table: string; before: File | null; after: File | null }[];
  }[];
  more: number;
  script: string;
}

export interface Log {
  gateway: string;
  problem: string;
  sealed: number;
  unsealed: number | null;
  people: boolean;
  targets: Target[];
  policies: Policy[];
  holds: Hold[];
  held: Held[];
  held_count: number;
  purges: Purge[];
  purge_count: number;
}

export interface Report {
  archive: string;
  at_us: number;
  settings: string;
  has_settings: boolean;
  changes: boolean;
  days: number;
  logs: Log[];
}

// --- without a page

/** A time to keep in words: "for ever", "30 days", "12 h". */
export function span(us: number | null): string {
  if (us === null) return "for ever";
  if (us >= DAY_US && us % DAY_US === 0) return counted(us / DAY_US, "day");
  return `${Number((us / 3_600_000_000).toPrecision(4))} h`;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, each) => total + each, 0);

/** Return how many are due by the end of so many days. */
export const within = (days: readonly number[], number: number): number => sum(days.slice(0, number + 1));

/** Add up what several targets have due. */
export function together(dues: readonly Due[]): Due {
  const add = (name: keyof Due) => {
    const length = Math.max(0, ...dues.map((each) => each[name].length));
    return Array.from({ length }, (_, at) => sum(dues.map((each) => each[name][at] ?? 0)));
  };
  return { sessions: add("sessions"), payloads: add("payloads"), bytes: add("bytes") };
}

/** "3 and 12 payloads", "3", "12 payloads", "none". */
export function dueSays(due: Due, days: number): string {
  const sessions = within(due.sessions, days);
  const payloads = within(due.payloads, days);
  if (!sessions) return payloads ? counted(payloads, "payload") : "none";
  return payloads ? `${count(sessions)} and ${counted(payloads, "payload")}` : count(sessions);
}

/** Say what a legal hold selects; a user is an HMAC, because the log keeps nobody's name. */
export function selected(selector: Hold["selector"]): string {
  return Object.entries(selector)
    .map(([name, value]) => {
      if (name === "since" || name === "until") return `${name} ${instant(Number(value))}`;
      if (name === "user") return `user HMAC ${String(value).slice(0, 16)}…`;
      return `${name} ${value}`;
    })
    .join(", ");
}

const shorter = (one: number | null, other: number | null): boolean => (one ?? Infinity) < (other ?? Infinity);

/** Say in a sentence what settings would change for a target; empty where that is nothing. */
export function changeSays(target: Target, days: number): string {
  const after = target.after;
  if (!after) return "";
  const now = within(target.due.sessions, days) + within(target.due.payloads, days);
  const then = within(after.due.sessions, days) + within(after.due.payloads, days);
  const isSame = after.keep_us === target.keep_us && after.payload_us === target.payload_us && after.says.keep_us === target.keep_us &&
    after.says.payload_us === target.payload_us;
  if (isSame && now === then) return "";
  const kept = after.says.keep_us === target.keep_us ? `kept ${span(after.says.keep_us)} as before` : `kept ${span(after.says.keep_us)} instead of ${span(target.keep_us)}`;
  const payloads = after.says.payload_us === target.payload_us ? "" : `, payloads ${span(after.says.payload_us)} instead of ${span(target.payload_us)}`;
  const due = now === then ? `${count(now)} due within ${days} days either way` : `${count(then)} due within ${days} days instead of ${count(now)}`;
  const isShorter = shorter(after.says.keep_us, target.keep_us) || shorter(after.says.payload_us, target.payload_us);
  const notice = after.promised_until_us !== null && isShorter ? `; what was promised before holds until ${day(after.promised_until_us)}` : "";
  return `${kept}${payloads}: ${due}${notice}`;
}

// --- drawing

const SVG = "http://www.w3.org/2000/svg";

function svg(tag: string, attributes: Record<string, string | number>, ...children: Node[]): SVGElement {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** Draw what becomes due day by day; [0], what is due already, stands by itself at the left. */
export function chart(due: Due, from: number, label: string, most: number): SVGElement {
  const [width, height, base, left] = [900, 150, 122, 44];
  const days = due.sessions.length - 1;
  const step = (width - left - 8) / (days + 2);
  const scale = (number: number) => (number ? Math.max(2, ((base - 12) * number) / Math.max(most, 1)) : 0);
  const x = (at: number) => left + (at === 0 ? 0 : (at + 1) * step);
  const bars = due.sessions.flatMap((sessions, at) => {
    const payloads = due.payloads[at] ?? 0;
    if (!sessions && !payloads) return [];
    const wide = at === 0 ? step * 1.5 : Math.max(step - 1.5, 2);
    const title = svg("title", {});
    const when = at === 0 ? "due now" : `on ${day(from + at * DAY_US)}`;
    title.textContent = `${when}: ${counted(sessions, "session")}, payloads of ${count(payloads)}`;
    const group = svg("g", {}, title);
    const tall = scale(sessions);
    if (sessions) group.append(svg("rect", { class: "aa-bar-sessions", x: x(at), y: base - tall, width: wide, height: tall }));
    if (payloads) {
      const above = scale(payloads);
      group.append(svg("rect", { class: "aa-bar-payloads", x: x(at), y: base - tall - above, width: wide, height: above }));
    }
    return [group];
  });
  const text = (at: number, y: number, words: string, anchor = "middle") => {
    const node = svg("text", { x: at, y, "text-anchor": anchor });
    node.textContent = words;
    return node;
  };
  const marks = HORIZONS.filter((each) => each <= days).flatMap((each) => {
    const at = x(each) + step;
    return [svg("line", { class: "aa-horizon", x1: at, x2: at, y1: 6, y2: base }), text(Math.min(at, width - 44), base + 14, `${each} days`), text(Math.min(at, width - 44), base + 26, day(from + each * DAY_US))];
  });
  return svg(
    "svg", { class: "aa-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("line", { class: "aa-base", x1: left, x2: width - 8, y1: base, y2: base }),
    text(left - 6, base, "0", "end"), text(left - 6, 16, count(most), "end"), text(left + step * 0.75, base + 14, "now"),
    ...marks, ...bars,
  );
}

/** Draw the retention that `source` tells of into `root`. */
export function mountRetentionReport(root: HTMLElement, source: Source): { dispose(): void } {
  let closed = false;
  let report: Report | null = null;
  const only = { gateway: "", target: "" }; // the target that the chart is about; none is all

  const announce = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const title = el("div", { class: "aa-title" });
  const again = el("button", { type: "button", class: "aa-button", onclick: () => void open(true) }, "Look again");
  const figures = el("dl", { class: "aa-figures" });
  const targets = el("div", { class: "aa-targets" });
  const tabs = tabbed(
    "Parts of the report",
    { next: "What goes next", held: "Held", purged: "Purged", policies: "Policies", change: "With the settings given" },
    drawTab,
  );
  const frame = el(
    "div", { class: "aa-view aa-frame aa-panelled aa-retention", role: "region", "aria-label": "Retention report" },
    trouble, el("header", { class: "aa-head" }, title, again), figures, targets, tabs.bar, tabs.panel, announce,
  );
  root.append(frame);

  const complain = (error: unknown): void => {
    if (closed || error instanceof Closed) return;
    trouble.replaceChildren(...shown(error instanceof Error ? error.message : "the kernel could not answer"));
    trouble.hidden = false;
  };

  async function open(isAgain: boolean): Promise<void> {
    again.disabled = true;
    try {
      const { data } = await source.request<Report>("open", { again: isAgain });
      if (closed) return;
      trouble.hidden = true;
      report = data;
      draw();
      if (isAgain) announce.textContent = "looked again";
    } catch (error) {
      complain(error);
    } finally {
      again.disabled = false;
    }
  }

  const all = (): { log: Log; target: Target }[] => report?.logs.flatMap((log) => log.targets.map((target) => ({ log, target }))) ?? [];
  const chosen = () => all().filter(({ log, target }) => !only.gateway || (log.gateway === only.gateway && target.target === only.target));
  const named = (target: Target): string => target.target || "(no target)";

  function draw(): void {
    if (!report) return;
    const told = report;
    const total = together(all().map(({ target }) => target.due));
    title.replaceChildren(
      el("h3", { class: "aa-name" }, "Retention"), el("span", { class: "aa-quiet" }, "of ", ...shown(told.archive), `, as of ${instant(told.at_us)}`),
    );
    const figure = (value: string, label: string, kind = "") => el("div", { class: `aa-figure ${kind}` }, el("dt", {}, label), el("dd", {}, value));
    const held = sum(told.logs.map((each) => each.held_count));
    const now = within(total.sessions, 0) + within(total.payloads, 0);
    figures.replaceChildren(
      figure(count(sum(told.logs.map((each) => each.sealed))), "sessions kept"),
      figure(`about ${bytes(sum(all().map(({ target }) => target.bytes)))}`, "of files"),
      figure(count(now), "due now", now ? "aa-is-warn" : ""),
      ...HORIZONS.map((days) => figure(count(within(total.sessions, days) + within(total.payloads, days)), `due within ${days} days`)),
      figure(count(held), "held", held ? "aa-is-held" : ""),
      figure(count(sum(told.logs.map((each) => each.purge_count))), "purges done or begun"),
    );
    targets.replaceChildren(...told.logs.flatMap(logTable));
    if (!told.logs.length) targets.replaceChildren(el("p", { class: "aa-empty" }, "No gateway has a log here."));
    tabs.count("held", sum(told.logs.map((each) => each.holds.length)));
    tabs.count("purged", sum(told.logs.map((each) => each.purge_count)));
    tabs.show(tabs.current);
  }

  function logTable(log: Log): Node[] {
    const rows = log.targets.map((target) => {
      const isChosen = only.gateway === log.gateway && only.target === target.target;
      const pick = el(
        "button", { type: "button", class: "aa-pick", "aria-pressed": String(isChosen), title: "the chart shows this target alone" },
        ...shown(named(target)),
      );
      pick.addEventListener("click", () => {
        const isOff = only.gateway === log.gateway && only.target === target.target;
        Object.assign(only, isOff ? { gateway: "", target: "" } : { gateway: log.gateway, target: target.target });
        draw();
        tabs.show("next");
        [...targets.querySelectorAll<HTMLButtonElement>(".aa-pick")].find((each) => each.dataset["key"] === pick.dataset["key"])?.focus();
      });
      pick.dataset["key"] = `${log.gateway}/${target.target}`;
      const promise = target.promised_until_us === null ? "" : `, longer until ${day(target.promised_until_us)}`;
      return [
        pick, el("span", { class: target.class ? "aa-class" : "aa-quiet" }, ...shown(target.class || "no class")),
        el("span", {}, span(target.keep_us), el("small", { class: "aa-quiet" }, promise)), span(target.payload_us), span(target.notice_us),
        count(target.sessions), `about ${bytes(target.bytes)}`,
        target.held ? el("b", { class: "aa-held-count" }, count(target.held)) : "0",
        dueSays(target.due, 0), ...HORIZONS.map((days) => dueSays(target.due, days)),
      ];
    });
    const headings = ["target", "class", "kept", "payloads", "notice", "#sessions", "#size", "#held", "#due now", "#in 7 days", "#in 30 days", "#in 90 days"];
    return [
      el(
        "div", { class: "aa-log-top" }, el("h4", {}, ...shown(log.gateway)),
        el("span", { class: "aa-quiet" }, log.unsealed ? `${counted(log.unsealed, "session")} open or not sealed yet, which nothing purges` : ""),
      ),
      ...(log.problem ? [el("p", { class: "aa-problem" }, "Not all of it can be told: ", ...shown(log.problem))] : []),
      log.targets.length ? table(`What ${plain(log.gateway)} keeps`, headings, rows) : el("p", { class: "aa-empty" }, "No session is sealed yet."),
    ];
  }

  // -- tabs

  function drawTab(name: string, panel: HTMLElement): void {
    if (!report) return;
    const told = report;
    const parts = { next: goesNext, held: heldNow, purged, policies, change }[name];
    panel.append(...(parts?.(told) ?? []));
  }

  function legend(): HTMLElement {
    return el(
      "p", { class: "aa-legend" }, el("i", { class: "aa-key-sessions" }), "whole sessions ", el("i", { class: "aa-key-payloads" }), "payloads alone: statements stay",
    );
  }

  function goesNext(told: Report): Node[] {
    const rows = chosen();
    const due = together(rows.map(({ target }) => target.due));
    const then = told.has_settings && told.changes ? together(rows.flatMap(({ target }) => (target.after ? [target.after.due] : []))) : null;
    const tallest = (each: Due) => Math.max(0, ...each.sessions.map((number, at) => number + (each.payloads[at] ?? 0)));
    const most = Math.max(tallest(due), then ? tallest(then) : 0, 1);
    const about = only.gateway ? `target ${only.target || "(no target)"} of ${only.gateway}` : "all targets";
    const label = (each: Due) => plain(`Due by day, ${about}: ${HORIZONS.map((days) => `${dueSays(each, days)} within ${days} days`).join(", ")}`);
    const nexts = rows.map(({ target }) => target.first_us).filter((each): each is number => each !== null);
    const first = nexts.length ? Math.min(...nexts) : null;
    const waiting = sum(rows.map(({ target }) => target.waiting));
    return [
      el("p", {}, el("b", {}, ...shown(about)), ": ", first === null ? "nothing is ever due." : first <= told.at_us ? "something is due now: agentaudit retention plan says what, and retention apply purges it." : `the next is due on ${day(first)}.`),
      ...(waiting ? [el("p", {}, `${counted(waiting, "session")} due now waits: a segment is rewritten once a day.`)] : []),
      legend(),
      chart(due, told.at_us, label(due), most),
      ...(then ? [el("h5", {}, "The same with the settings given"), chart(then, told.at_us, label(then), most)] : []),
      el("p", { class: "aa-note" }, "A session's day is the first on which every policy that still has a say lets it go. What is held is in no bar: it stays until the hold is released. Nothing goes by itself but where the gateway applies retention."),
    ];
  }

  function heldNow(told: Report): Node[] {
    const holds = told.logs.flatMap((log) => log.holds.map((hold) => ({ log, hold })));
    if (!holds.length) return [el("p", { class: "aa-empty" }, "No legal hold is in force.")];
    const sessions = told.logs.flatMap((log) => log.held.map((each) => ({ log, each })));
    const unknown = holds.some(({ hold }) => hold.sessions === null);
    const more = sum(told.logs.map((log) => log.held_count)) - sessions.length;
    return [
      ...holds.map(({ log, hold }) =>
        el(
          "article", { class: "aa-hold", "aria-label": plain(`Legal hold ${hold.hold}`) },
          el("div", { class: "aa-hold-top" }, el("b", {}, ...shown(hold.reason || "no reason can be read")),
            el("span", { class: "aa-grow" }), el("span", { class: "aa-badge aa-running" }, hold.sessions === null ? "on a user" : `${counted(hold.sessions, "session")} now`)),
          el("dl", { class: "aa-facts" },
            fact("Holds", ...shown(selected(hold.selector))), fact("Set", instant(hold.set_us)), fact("By", ...shown(hold.actor || "?")),
            fact("Authority", ...shown(hold.authority || "?")), fact("Gateway", ...shown(log.gateway)), fact("Due but for it", count(hold.due)),
            fact("Hold", el("code", {}, ...shown(hold.hold)))),
        )),
      ...(unknown ? [el("p", { class: "aa-note" }, "A hold on a user names nobody in the log: with settings whose people key can be read, its sessions are counted.")] : []),
      ...(sessions.length
        ? [el("h5", {}, "Sessions held"), table("Sessions held", ["session", "target", "closed", "by"], sessions.map(({ each }) => [
            el("code", {}, ...shown(each.session)), el("span", {}, ...shown(each.target)), instant(each.closed_us),
            el("code", {}, ...shown(each.holds.map((hold) => hold.slice(0, 13)).join(", ")))]))]
        : []),
      ...(more > 0 ? [el("p", { class: "aa-note" }, `and ${count(more)} more`)] : []),
    ];
  }

  function purged(told: Report): Node[] {
    const purges = told.logs.flatMap((log) => log.purges.map((purge) => ({ log, purge })));
    if (!purges.length) return [el("p", { class: "aa-empty" }, "Nothing was ever purged.")];
    const left = sum(told.logs.map((log) => log.purge_count)) - purges.length;
    return [
      el("p", {}, "What went is told by name for ever: by a list whose digest stands in the signed log. The roots of its segments are those of before, because the hashes of what went stand in for it."),
      ...purges.map(({ log, purge }) => purgeCard(log, purge)),
      ...(left > 0 ? [el("p", { class: "aa-note" }, `and ${counted(left, "purge")} before these`)] : []),
    ];
  }

  function purgeCard(log: Log, purge: Purge): HTMLElement {
    const proof = el("div", {});
    const button = el("button", { type: "button", class: "aa-button aa-small", "aria-expanded": "false", "aria-label": plain(`Its proof: purge ${purge.purge}`) }, "Its proof");
    button.addEventListener("click", () => {
      source.request<Proof>("purge", { gateway: log.gateway, purge: purge.purge }).then(({ data }) => {
        if (closed) return;
        button.setAttribute("aria-expanded", "true");
        button.disabled = true;
        proof.replaceChildren(...proofOf(data));
      }, complain);
    });
    const by = purge.basis === "policy" ? `policy ${purge.policy.slice(0, 12)}…` : `decision in event ${purge.decision ?? "?"} of the control session`;
    return el(
      "article", { class: `aa-purge ${purge.is_done ? "" : "aa-unfinished"}`, "aria-label": plain(`Purge ${purge.purge}`) },
      el("div", { class: "aa-hold-top" },
        el("b", {}, `${purge.what === "sessions" ? "Sessions" : "Payloads of sessions"}: ${count(purge.sessions)}`),
        el("span", { class: "aa-quiet" }, instant(purge.at_us)), el("span", { class: "aa-grow" }),
        el("span", { class: `aa-badge ${purge.is_done ? "" : "aa-warn"}` }, purge.is_done ? "done" : `${count(purge.done)} of ${counted(purge.segments, "segment")} done`), button),
      el("dl", { class: "aa-facts" },
        fact("By", ...shown(by)), fact("Rows", count(purge.rows)), fact("Segments", count(purge.segments)), fact("Files smaller by", bytes(purge.bytes)),
        fact("Gateway", ...shown(log.gateway)), fact("Log entry", count(purge.entry)),
        fact("SHA-256 of its list", el("code", { class: "aa-digest" }, ...shown(purge.list_sha256)))),
      proof,
    );
  }

  function proofOf(proof: Proof): Node[] {
    const digest = (file: File | null) => (file ? el("span", {}, el("code", { class: "aa-digest", title: file.sha256 }, `${file.sha256.slice(0, 16)}…`), ` ${bytes(file.bytes)}, ${counted(file.rows, "row")}`) : el("i", { class: "aa-quiet" }, "none"));
    return [
      ...proof.parts.map((part) =>
        el("section", { class: "aa-part", "aria-label": plain(`Segment ${part.segment}`) },
          el("dl", { class: "aa-facts" },
            fact("Segment", el("code", {}, ...shown(part.segment))), fact("Log entry", count(part.entry)), fact("Rows", count(part.rows)),
            fact("Root, before and after", el("code", { class: "aa-digest" }, ...shown(part.root || "?"))),
            ...(part.residue ? [fact("Hashes that stand in", el("code", { class: "aa-digest" }, ...shown(part.residue)))] : [])),
          table("Files before and after", ["table", "before: SHA-256, size", "after"], part.files.map((file) => [
            el("code", {}, ...shown(file.table)), digest(file.before), digest(file.after)])))),
      ...(proof.more ? [el("p", { class: "aa-note" }, `and ${counted(proof.more, "segment")} more`)] : []),
      el("p", {}, "To check: the list is the one that the log names, and every row of the archive is there or on a list."),
      copyable(proof.script, "commands that check the purge"),
    ];
  }

  function policies(told: Report): Node[] {
    return told.logs.flatMap((log) => [
      el("h5", {}, ...shown(log.gateway)),
      log.policies.length
        ? table(`Policies of ${plain(log.gateway)}`, ["since", "until", "policy", "#log entry", "keeps"], [...log.policies].reverse().map((policy) => [
            policy.since_us ? instant(policy.since_us) : "the beginning", policy.ended_us === null ? el("b", {}, "in force") : instant(policy.ended_us),
            el("code", { title: policy.digest }, ...shown(policy.digest ? `${policy.digest.slice(0, 16)}…` : "none")), policy.entry < 0 ? "–" : count(policy.entry),
            el("span", {}, ...(policy.classes.length ? policy.classes.map((each) => el("div", {}, el("b", {}, ...shown(each.name)), ` ${span(each.keep_us)}, payloads ${span(each.payload_us)}, notice ${span(each.notice_us)}`)) : ["everything for ever"])),
          ]))
        : el("p", { class: "aa-empty" }, "None was ever in force: everything is kept for ever."),
    ]);
  }

  function change(told: Report): Node[] {
    if (!told.has_settings) {
      return [el("p", { class: "aa-empty" }, "No settings were given: RetentionReport(case, \"agentaudit.toml\") shows what they would change.")];
    }
    const from = told.settings ? ` of ${told.settings}` : "";
    if (!told.changes) return [el("p", { class: "aa-empty" }, ...shown(`The settings${from} would change nothing within ${told.days} days.`))];
    const rows = all().flatMap(({ log, target }) => (target.after ? [{ log, target, after: target.after }] : []));
    return [
      el("p", {}, ...shown(`Had the settings${from} come into force at ${instant(told.at_us)}:`)),
      table("What would change", ["gateway", "target", "kept", "would be", "payloads", "would be", "#due in 90 days", "#would be", "first due", "would be"], rows.map(({ log, target, after }) => [
        el("code", {}, ...shown(log.gateway)), el("code", {}, ...shown(named(target))),
        span(target.keep_us), changed(span(after.says.keep_us), span(target.keep_us)),
        span(target.payload_us), changed(span(after.says.payload_us), span(target.payload_us)),
        dueSays(target.due, 90), changed(dueSays(after.due, 90), dueSays(target.due, 90)),
        target.first_us === null ? "never" : day(target.first_us),
        changed(after.first_us === null ? "never" : day(after.first_us), target.first_us === null ? "never" : day(target.first_us)),
      ])),
      el("ul", { class: "aa-lines" }, ...rows.map(({ target }) => ({ target, says: changeSays(target, told.days) })).filter(({ says }) => says)
        .map(({ target, says }) => el("li", {}, el("b", {}, ...shown(named(target))), ": ", says, "."))),
      el("p", { class: "aa-note" }, "A shorter policy purges nothing that the one before it promised to keep until that one's notice is over."),
    ];
  }

  const changed = (then: string, now: string): Node => el("span", { class: then === now ? "aa-quiet" : "aa-changed" }, then);

  void open(false);
  return {
    dispose() {
      closed = true;
      frame.remove();
    },
  };
}
