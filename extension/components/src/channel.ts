/**
 * Questions by name, and their answers: one protocol over whatever carries messages.
 *
 * A question is `{v: 1, id, op, args}`; its answer is `{v: 1, id, ok: true, data}` with buffers
 * beside it, or `{v: 1, id, ok: false, error, hint?}`. Questions of one moment go together, as
 * `{v: 1, batch: [question, …]}`, and so do answers that are there together, each with how many
 * `buffers` are its own. What happens on the other side without a question is
 * `{v: 1, event, data}`. What carries them is a widget's messages
 * (`channel`), HTTP, or a page that has the answers in it. A browser
 * never says more than a name and parameters: no SQL, and no path.
 */

const ANSWER_TIMEOUT_MS = 60_000;
const MAX_BATCH = 32;

export interface Answer<Data = unknown> {
  data: Data;
  /** Arrow streams or plain little-endian values: what each is, the question's documentation says. */
  buffers: readonly DataView[];
}

/** Whatever answers questions. */
export interface Source {
  request<Data>(op: string, args?: Record<string, unknown>): Promise<Answer<Data>>;
  /** Hear of what nobody asked for, where the carrier can say it; returns what ends that. */
  listen?<Data>(event: string, hear: (data: Data) => void): () => void;
}

/** The other side could not answer; `hint` says what to do about it, where that is known. */
export class Refused extends Error {
  readonly hint: string;

  constructor(message: string, hint = "") {
    super(message);
    this.hint = hint;
  }
}

/** The channel was closed while the question was under way: nobody is left to be told. */
export class Closed extends Error {
  constructor() {
    super("closed");
  }
}

export interface Channel extends Source {
  receive(message: unknown, buffers?: readonly DataView[]): void;
  close(): void;
}

interface Waiting {
  resolve(answer: Answer<never>): void;
  reject(error: Error): void;
  timer: unknown;
}

interface Timers {
  setTimeout(callback: () => void, ms: number): unknown;
  clearTimeout(timer: never): void;
}

// Of the page and not of a channel: two views of one widget hear each other's answers.
let last = 0;

/**
 * Turn a pair of one-way channels into questions with answers.
 *
 * `send` takes a message; `receive` takes those that come back. An answer that does not come within
 * `timeout` milliseconds fails, instead of leaving a spinner for ever.
 */
export function channel(
  send: (message: unknown) => void,
  { timeout = ANSWER_TIMEOUT_MS, timers = globalThis as unknown as Timers } = {},
): Channel {
  const waiting = new Map<number, Waiting>();
  const listeners = new Map<string, Set<(data: never) => void>>();

  // What carries a message costs more than most answers do.
  const posted: unknown[] = [];
  const post = (question: unknown): void => {
    posted.push(question);
    if (posted.length === 1) queueMicrotask(flush);
    else if (posted.length === MAX_BATCH) flush();
  };
  const flush = (): void => {
    const batch = posted.splice(0);
    if (batch.length) send(batch.length === 1 ? batch[0] : { v: 1, batch });
  };

  const settle = (id: number): Waiting | undefined => {
    const asked = waiting.get(id);
    waiting.delete(id);
    if (asked) timers.clearTimeout(asked.timer as never);
    return asked;
  };

  return {
    request<Data>(op: string, args: Record<string, unknown> = {}): Promise<Answer<Data>> {
      last += 1;
      const id = last;
      return new Promise((resolve, reject) => {
        const timer = timers.setTimeout(() => {
          settle(id)?.reject(new Error("the kernel did not answer; is it running, or busy?"));
        }, timeout);
        waiting.set(id, { resolve: resolve as Waiting["resolve"], reject, timer });
        post({ v: 1, id, op, args });
      });
    },
    listen<Data>(event: string, hear: (data: Data) => void): () => void {
      const heard = listeners.get(event) ?? new Set();
      listeners.set(event, heard.add(hear));
      return () => heard.delete(hear);
    },
    receive(message, buffers = []) {
      const answer = message as Partial<{
        v: number; id: number; ok: boolean; data: never; error: string; hint: string; event: string;
        batch: { buffers?: number }[];
      }> | null;
      if (answer?.v !== 1) return;
      if (answer.batch) {
        let at = 0;
        for (const each of answer.batch) this.receive(each, buffers.slice(at, (at += each.buffers ?? 0)));
        return;
      }
      if (answer.event !== undefined) {
        for (const hear of listeners.get(answer.event) ?? []) hear(answer.data as never);
        return;
      }
      if (answer.id === undefined) return;
      const asked = settle(answer.id);
      if (!asked) return;
      if (answer.ok) asked.resolve({ data: answer.data as never, buffers });
      else asked.reject(new Refused(answer.error || "the kernel could not answer", answer.hint));
    },
    close() {
      posted.length = 0;
      for (const id of [...waiting.keys()]) settle(id)?.reject(new Closed());
    },
  };
}

/** Questions to a part of what a source knows: each is asked as `op` of the whole, with `args`. */
export function partOf(source: Source, op: string, args: Record<string, unknown>): Source {
  return {
    request: (asked, given = {}) => source.request(op, { ...args, op: asked, args: given }),
  };
}

/** Return the typed values of a buffer. It may lie at any offset, so it is copied. */
export function values<T>(type: new (buffer: ArrayBuffer) => T, view: DataView | undefined): T {
  if (!view) return new type(new ArrayBuffer(0));
  return new type(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) as ArrayBuffer);
}
