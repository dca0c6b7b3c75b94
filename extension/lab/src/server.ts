/** The server extension's routes (src/agentaudit/jupyter/routes.py), as Jupyter's pages ask them. */

import { URLExt } from "@jupyterlab/coreutils";
import { ServerConnection } from "@jupyterlab/services";

import type { Pending } from "@agentaudit/components/approvals.ts";
import { Refused, type Answer, type Source } from "@agentaudit/components/channel.ts";
import { unframe } from "@agentaudit/components/frame.ts";
import type { Wanted } from "@agentaudit/components/report-form.ts";

const ANSWER_TIMEOUT_MS = 60_000;

export interface Archive {
  id: string;
  name: string;
  path: string;
  is_below_root: boolean;
  key: string | null;
  checked: { ok: boolean | null; is_consistent: boolean; at: number; job: string; deep: boolean } | null;
}

export interface Finding {
  check: string;
  place: string;
  seen: string;
  expected: string;
}

export interface Result {
  ok: boolean | null;
  deep: boolean;
  keys: string[];
  is_key_beside: boolean;
  /** Nothing contradicts anything, and no key from outside says whose it is. */
  is_consistent: boolean;
  findings: Finding[];
  findings_count: number;
  exposure: { gateway: string; anchor: string; since_size: number; entries: number; events: number }[];
  anchors: { gateway: string; kind: string; size: number; at_s: number | null; by: string[] }[];
  unknown_signers: string[];
  unread: string[];
  notes: string[];
  scripted_clocks: string[];
  gateways: number;
  segments: number;
  events: number;
  sessions: number;
  commands: number;
  live_events: number;
}

/** Where a report was written, and what it says. */
export interface Made {
  ok: boolean | null;
  verdict: string;
  reasons: string[];
  subject: string;
  files: { path: string; kind: "html" | "pdf"; sha256: string }[];
  keys: string[];
  access: string;
  sessions: number;
  sessions_asked: number;
  commands: number;
  commands_asked: number;
  exceptions: number;
}

/** What takes long: a verification, or with another result a report. */
export interface Job<Told = Result> {
  id: string;
  archive: string;
  state: "waiting" | "running" | "done" | "failed" | "stopped";
  step: string;
  done: number;
  total: number;
  result: Told | null;
  error: string;
  hint: string;
  ended_at: number;
}

export interface Waiting extends Partial<Pending> {
  has_control: boolean;
  may_decide: boolean;
  mine?: number;
  error?: string;
  hint?: string;
}

/** A session as lists show it; times are µs since 1970. */
export interface Listed {
  session_id: string;
  user: string;
  agent: string;
  target: string;
  protocol: string;
  opened_at: number;
  closed_at: number | null;
  close_reason: string | null;
  commands: number;
  changes: number;
  errors: number;
  denied: number;
  held: number;
  masked: number | null;
  bytes_out: number | null;
  risk: string[];
}

export interface Totals {
  name: string;
  access: string;
  contradictions: string[];
  unread: string[];
  sessions: number;
  live: number;
  commands: number;
  users: number;
  targets: number;
  first: number | null;
  last: number | null;
}

export class Server {
  private asked = 0;

  constructor(private readonly settings: ServerConnection.ISettings) {}

  archives(): Promise<{ archives: Archive[]; is_cut: boolean }> {
    return this.json("GET", "archives");
  }

  /** The archive in a folder below the root, as the file browser names it. */
  archiveAt(path: string): Promise<Archive> {
    return this.json("POST", "archives", { path });
  }

  verify(archive: string, deep: boolean): Promise<Job> {
    return this.json("POST", "verify", { archive, deep });
  }

  report(archive: string, wanted: Wanted): Promise<Job<Made>> {
    return this.json("POST", "report", { archive, ...wanted });
  }

  job<Told>(kind: "verify" | "report", id: string): Promise<Job<Told>> {
    return this.json("GET", `${kind}/${id}`);
  }

  stop(kind: "verify" | "report", id: string): Promise<unknown> {
    return this.json("DELETE", `${kind}/${id}`);
  }

  waiting(): Promise<Waiting> {
    return this.json("GET", "approvals");
  }

  investigate(asked: { archive: string; folder: string; session?: string; command?: number }): Promise<{ path: string }> {
    return this.json("POST", "investigation", asked);
  }

  /** What answers a component's page about an archive, or about a session of it. */
  source(archive: string, component: string, session = "", page = ""): Source {
    const where = ["questions", archive, component, session].filter(Boolean).join("/");
    return this.questions(page ? `${where}?page=${page}` : where);
  }

  /** What answers about pending approvals, and decides. */
  get approvals(): Source {
    return this.questions("approvals");
  }

  private questions(where: string): Source {
    return {
      request: async <Data>(op: string, args: Record<string, unknown> = {}): Promise<Answer<Data>> => {
        this.asked += 1;
        const response = await this.send("POST", where, { v: 1, id: this.asked, op, args });
        const { answer, buffers } = unframe(await response.arrayBuffer());
        const told = answer as { ok: boolean; data: Data; error?: string; hint?: string };
        if (!told.ok) throw new Refused(told.error || "the server could not answer", told.hint);
        return { data: told.data, buffers };
      },
    };
  }

  private async json<Told>(method: string, where: string, body?: unknown): Promise<Told> {
    return (await (await this.send(method, where, body)).json()) as Told;
  }

  private async send(method: string, where: string, body?: unknown): Promise<Response> {
    const stopped = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
    const init: RequestInit = { method, signal: stopped };
    if (body !== undefined) init.body = JSON.stringify(body);
    let response: Response;
    try {
      const address = URLExt.join(this.settings.baseUrl, "agentaudit", where);
      response = await ServerConnection.makeRequest(address, init, this.settings);
    } catch {
      throw new Error(stopped.aborted ? "the server did not answer in time" : "the server cannot be reached");
    }
    if (response.ok) return response;
    const told = (await response.json().catch(() => ({}))) as { message?: string; hint?: string };
    if (response.status === 404 && where === "archives" && method === "GET") {
      throw new Refused("the server has no agentaudit extension", "jupyter server extension enable agentaudit.jupyter");
    }
    const said = told.message || `the server answered ${response.status}`;
    // What was not heard may be said again; what was refused may not.
    throw response.status < 500 ? new Refused(said, told.hint) : Object.assign(new Error(said), { hint: told.hint ?? "" });
  }
}
