/** What the kernel answers the replay's questions with (`ReplayQuestions` of widgets/replay.py). */

import type { ResultPage } from "../grid.ts";
import type { CommandClass, Status } from "./commands.ts";
import type { Frame } from "./film.ts";

/** Times are microseconds since 1970, UTC. */
export interface SessionFacts {
  id: string;
  user: string | null;
  agent: string | null;
  issuer: string | null;
  target: string | null;
  protocol: string;
  gateway: string;
  opened_at: number;
  /** null while it is live. */
  closed_at: number | null;
  close_reason: string | null;
  client_addr: string | null;
  client_app: string | null;
  bytes_in: number | null;
  bytes_out: number | null;
  masked: number | null;
}

/** A command as a line of the list shows it. */
export interface Summary {
  command_no: number;
  operation: string | null;
  text: string | null;
  error_code: string | null;
  rows: number | null;
  rows_label?: string;
}

/** A command, whole but for the end of a long statement and the rows that it returned. */
export interface CommandFacts {
  command_no: number;
  operation: string | null;
  cls: CommandClass;
  confidence: string;
  status: Status;
  decision: string;
  rule: string | null;
  risk: string[];
  resources: string[];
  started_at: number;
  /** null while it runs. */
  ended_at: number | null;
  duration_us: number | null;
  error_code: string | null;
  error_text: string | null;
  rows_returned: number | null;
  rows_affected: number | null;
  bytes_in: number | null;
  bytes_out: number | null;
  masked: number | null;
  txn_no: number | null;
  /** The server's letter: I, T or E. */
  txn_status: string | null;
  params: (string | null)[] | null;
  first_event_no: number;
  last_event_no: number;
  text: string;
  /** How many characters of the statement are left out. */
  text_more: number;
  /** What of it was not kept, in words. */
  cut: string | null;
  returns_rows: boolean;
  /** Whether it had a terminal, whose screen can be asked for. */
  has_terminal: boolean;
}

/** A terminal over time; the times of its frames are a buffer of int32 beside it, in milliseconds. */
export interface TerminalFacts {
  /** Its name, as the client told it: xterm-256color. */
  kind: string;
  /** As it was at first. */
  columns: number;
  rows: number;
  duration_ms: number;
  page_frames: number;
  /** What of it is not shown, in words. */
  left_out: string | null;
}

/** A row that stood on a screen, from when to when, in milliseconds from the command's beginning. */
export interface Seen {
  first_ms: number;
  last_ms: number;
  text: string;
}

export interface Whole {
  text: string;
  /** How many characters are left out all the same. */
  more: number;
}

export interface ReplayAnswers {
  open: { session: SessionFacts; total: number; events: number };
  /** With eight buffers beside it, see `sliceOf`. */
  index: { offset: number; count: number };
  page: { rows: Summary[] };
  /** With the numbers of the commands as a buffer of int32 beside it. */
  find: { count: number };
  command: CommandFacts;
  statement: Whole;
  result: ResultPage;
  cell: Whole;
  terminal: TerminalFacts;
  /** The first frame of a page is whole, each other what has changed. */
  frames: { frames: Frame[] };
  seen: { hits: Seen[]; is_cut: boolean };
}
