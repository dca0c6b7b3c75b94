/** The heading of a replay: whose session it was, and what it came to. */

import { el, shown } from "../dom.ts";
import { bytes, count, counted, duration, moment } from "../units.ts";
import type { SessionFacts } from "./answers.ts";
import { startOf, STATUSES, tally, tookOf, type Index } from "./commands.ts";

export function heading(session: SessionFacts, index: Index): HTMLElement[] {
  const totals = tally(index);
  const problems = STATUSES.filter((name) => name !== "ok" && totals.statuses[name]);
  const last = index.length - 1;
  const soFar = last < 0 ? 0 : Math.max(0, startOf(index, last) + tookOf(index, last));
  const lasted = session.closed_at === null ? soFar : session.closed_at - session.opened_at;
  const ended = session.close_reason && session.close_reason !== "client" ? session.close_reason : null;
  const fact = (label: string, value: string, title: string | null = null) =>
    el("div", { class: "aa-fact", title }, el("dt", {}, label), el("dd", {}, ...shown(value)));
  return [
    el(
      "div", { class: "aa-title" },
      el("span", { class: "aa-who" }, ...shown(session.user || "unknown user")),
      session.agent ? el("span", { class: "aa-via" }, "via ", el("b", {}, ...shown(session.agent))) : null,
      el("span", { class: "aa-arrow", "aria-hidden": "true" }, "→"),
      el("span", { class: "aa-target" }, ...shown(session.target || "–")),
      el("span", { class: "aa-badge" }, ...shown(session.protocol)),
      session.closed_at === null ? el("span", { class: "aa-badge aa-live" }, "live") : null,
      ended
        ? el("span", { class: "aa-badge aa-warn", title: "why the session ended" }, ...shown(`ended: ${ended.replaceAll("_", " ")}`))
        : null,
      el("span", { class: "aa-grow" }),
      el("code", { class: "aa-id", title: "session id" }, session.id),
    ),
    el(
      "dl", { class: "aa-facts" },
      fact("opened", moment(session.opened_at), "UTC"),
      fact("lasted", duration(lasted)),
      fact("commands", count(index.length)),
      fact("changes", count(totals.changed) + (totals.undone ? `, ${count(totals.undone)} undone` : ""),
        "writes, schema changes and administration; undone: rolled back, or never committed"),
      el("div", { class: problems.length ? "aa-fact aa-bad" : "aa-fact" },
        el("dt", {}, "not ok"),
        el("dd", {}, problems.map((name) => {
          const number = totals.statuses[name];
          return name === "error" ? counted(number, "error") : `${count(number)} ${name}`;
        }).join(", ") || "0")),
      fact("sent", bytes(session.bytes_in), "bytes from the client"),
      fact("received", bytes(session.bytes_out), "bytes from the target"),
      session.masked ? fact("masked", count(session.masked), "values hidden by masking rules") : null,
      session.client_app ? fact("client", session.client_app, "as the client calls itself") : null,
      session.client_addr ? fact("from", session.client_addr) : null,
      fact("gateway", session.gateway),
    ),
  ];
}
