/**
 * What waits for a decision: each request whole, and yes or no with a reason, several at once.
 *
 * What is decided on is what was drawn: the digest of the document on the screen is computed here and
 * sent back. What somebody reads does not jump: a request is drawn once, a new one comes below the
 * others, and one that is over becomes a line of what has ended.
 */

import { drawCard, type Card } from "./approvals/card.ts";
import { countdown, effect, isAlone, kindOf, who, type Request, type Vote } from "./approvals/words.ts";
import { Closed, type Source } from "./channel.ts";
import { digestOf } from "./digest.ts";
import { el, shown } from "./dom.ts";
import { plain } from "./text.ts";
import { count, counted } from "./units.ts";
import { messageOf } from "./view.ts";

export interface Pending {
  now: number;
  count: number;
  requests: Request[];
}

interface Decided {
  id: string;
  state?: string;
  error?: string;
  hint?: string;
}

interface Outcome {
  state: string;
  votes: Vote[];
}

export interface Options {
  /** Opens the session that a statement waits in. */
  onOpen?: (session: string, command: number) => void;
  /** Hears after each decision. */
  onDecided?: () => void;
  /** Whether decisions can be made here at all. */
  mayDecide?: boolean;
  /** Looks by itself so often; not at all where it is 0 and `refresh` is called instead. */
  everySeconds?: number;
}

export interface Approvals {
  refresh(): Promise<void>;
  dispose(): void;
}

const TICK_MS = 1_000;
const SOON_S = 60;
const HIDDEN_FACTOR = 4;
/** As the kernel and the server have it. */
const MAX_AT_ONCE = 50;
const MAX_REASON = 1_000;
const MAX_ENDED = 8;
const STATES = new Set(["approved", "denied", "expired", "cancelled"]);

/** Draw what waits at `source` (`pending`, `outcome`, `decide`) into `root`. */
export function mount(root: HTMLElement, source: Source, options: Options = {}): Approvals {
  const { onOpen, onDecided = () => {}, mayDecide = true, everySeconds = 0 } = options;
  const cards = new Map<string, Card>();
  const chosen = new Set<string>();
  const warned = new Set<string>();
  let skew = 0; // µs that the gateway's side is ahead of this clock
  let seenAt = 0; // ms since 1970, of the last answer
  let isLost = false;
  let closed = false;
  let deciding = false;
  let looking: Promise<void> | null = null;
  let later: ReturnType<typeof setTimeout> | undefined;

  const lost = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const told = el("div", { class: "aa-told", role: "status", "aria-live": "polite" });
  const news = el("div", { class: "aa-hidden", role: "log", "aria-live": "polite", "aria-label": "News" });
  const heading = el("h2", { class: "aa-approvals-title" }, "Waiting for a decision");
  const live = el("span", { class: "aa-badge aa-live", hidden: true }, "live");
  const nothing = el(
    "div", { class: "aa-nothing", hidden: true }, el("b", {}, "Nothing waits."),
    el("span", {}, "Statements that a rule holds, and requests for access, appear here as they come."),
  );
  const cardList = el("div", { class: "aa-cards", role: "list" });
  const endedList = el("ul", { class: "aa-ended-list" });
  const ended = el("section", { class: "aa-ended", "aria-label": "Ended", hidden: true }, el("h3", {}, "Ended"), endedList);
  const scrolled = el(
    "div", { class: "aa-scrolled", tabindex: 0, role: "group", "aria-label": "Requests", onkeydown: onKey },
    nothing, cardList, ended,
  );
  const reason = el("textarea", {
    class: "aa-reason", rows: 2, required: true, maxlength: MAX_REASON, "aria-label": "Reason, required",
    placeholder: "Why? It is kept in the record, and the agent is told.",
    oninput: follow,
    onkeydown: (event: KeyboardEvent) => {
      if (event.key === "Escape") scrolled.focus();
    },
  });
  const approve = el("button", { type: "button", class: "aa-decide aa-approve", onclick: () => decide("approve") }, "Approve");
  const deny = el("button", { type: "button", class: "aa-decide aa-deny", onclick: () => decide("deny") }, "Deny");
  const what = el("span", { class: "aa-chosen" });
  const bar = el(
    "form", { class: "aa-decision", "aria-label": "Decision", hidden: true, onsubmit: (event: Event) => event.preventDefault() },
    what, reason, el("div", { class: "aa-buttons" }, deny, approve),
  );
  const frame = el(
    "section", { class: "aa-view aa-frame aa-approvals", "aria-label": "Pending approvals" },
    el("header", { class: "aa-approvals-head" }, heading, told, el("span", { class: "aa-grow" }), live), news,
    lost, scrolled, trouble, bar,
  );
  root.append(frame);
  const ticking = setInterval(tick, TICK_MS);

  // -- what is said

  function complain(error: unknown): void {
    const hint = (error as { hint?: string }).hint;
    trouble.replaceChildren(...shown(messageOf(error)), ...(hint ? [el("div", { class: "aa-hint" }, ...shown(hint))] : []));
    trouble.hidden = false;
  }

  function tell(sentence: string, isWarning = false): void {
    told.textContent = plain(sentence);
    told.classList.toggle("aa-is-warn", isWarning);
  }

  function say(sentence: string): void {
    news.append(el("p", {}, ...shown(sentence)));
    while (news.childElementCount > 5) news.firstElementChild?.remove();
  }

  function lose(error: unknown): void {
    if (error instanceof Closed) return;
    const { hint } = error as { hint?: string };
    const since = seenAt && cards.size ? `What is shown is of ${new Date(seenAt).toISOString().slice(11, 19)}Z; nothing can be decided meanwhile.` : "";
    const lines = [messageOf(error), hint ?? "", since].filter(Boolean);
    // An alert that is drawn anew is read out anew.
    if (isLost && lost.dataset.said === lines.join("\n")) return;
    isLost = true;
    lost.dataset.said = lines.join("\n");
    lost.replaceChildren(...lines.map((line, i) => el("div", { class: i ? "aa-hint" : null }, ...shown(line))));
    lost.hidden = false;
    frame.classList.add("aa-is-lost");
    live.hidden = true;
    follow();
  }

  function found(): void {
    seenAt = Date.now();
    live.hidden = !everySeconds;
    if (!isLost) return;
    isLost = false;
    lost.hidden = true;
    lost.replaceChildren();
    frame.classList.remove("aa-is-lost");
    say("The gateway answers again.");
  }

  // -- looking

  function refresh(): Promise<void> {
    looking ??= look().finally(() => {
      looking = null;
      clearTimeout(later);
      if (!closed && everySeconds) {
        later = setTimeout(() => void refresh(), everySeconds * 1_000 * (document.hidden ? HIDDEN_FACTOR : 1));
      }
    });
    return looking;
  }

  /** Look now, and not at what a look that is under way has seen. */
  async function lookAgain(): Promise<void> {
    await looking;
    await refresh();
  }

  async function look(): Promise<void> {
    let data: Pending;
    try {
      ({ data } = await source.request<Pending>("pending"));
    } catch (error) {
      if (!closed) lose(error);
      return;
    }
    if (closed) return;
    const isFirst = seenAt === 0;
    found();
    skew = data.now - Date.now() * 1_000;
    const there = new Set(data.requests.map((one) => one.id));
    const gone = [...cards.values()].filter((card) => !there.has(card.request.id));
    const fresh: Request[] = [];
    for (const request of data.requests) {
      const before = cards.get(request.id);
      // Drawn once: what somebody reads must not jump. Only votes can change of what waits.
      if (before && before.request.digest === request.digest && before.request.votes.length === request.votes.length) continue;
      if (!before) fresh.push(request);
      // What was chosen is what was read: another document under the same id has to be read again.
      if (before && before.request.digest !== request.digest && chosen.delete(request.id)) {
        tell("a request that was chosen has changed, and is chosen no more", true);
      }
      const card = drawCard(request, { mayDecide, onChoose: choose, onAlike: chooseAlike, onOpen });
      if (!before) cardList.append(card.node);
      else {
        const hadFocus = before.node.contains(focused());
        before.node.replaceWith(card.node);
        if (hadFocus) card.node.focus({ preventScroll: true });
      }
      cards.set(request.id, card);
    }
    for (const card of gone) remove(card);
    tellOf(fresh, isFirst);
    nothing.hidden = cards.size > 0;
    cardList.hidden = bar.hidden = cards.size === 0;
    const mine = data.requests.filter((one) => one.may_decide).length;
    heading.textContent = cards.size ? `${counted(data.count, "request")} waiting for a decision` : "Waiting for a decision";
    if (data.count > cards.size) heading.textContent += `, the first ${count(cards.size)} shown`;
    else if (cards.size && mine < cards.size) heading.textContent += `, ${count(mine)} for you`;
    tick();
    follow();
    await tellEnds(gone.slice(-MAX_ENDED).map((card) => card.request));
  }

  const focused = () => (frame.getRootNode() as Document | ShadowRoot).activeElement;

  function tellOf(fresh: Request[], isFirst: boolean): void {
    if (!fresh.length) return;
    if (isFirst || fresh.length > 3) {
      say(`${counted(fresh.length, isFirst ? "request waits" : "new request waits", isFirst ? "requests wait" : "new requests wait")} for a decision.`);
      return;
    }
    for (const request of fresh) {
      say(`New: ${effect(request)}, asked by ${who(request)}, on ${request.target}; ${countdown(secondsLeft(request))} left.`);
    }
  }

  function remove(card: Card): void {
    const { id } = card.request;
    if (card.node.contains(focused())) {
      const neighbour = (card.node.nextElementSibling ?? card.node.previousElementSibling) as HTMLElement | null;
      (neighbour ?? scrolled).focus({ preventScroll: true });
    }
    card.node.remove();
    cards.delete(id);
    warned.delete(id);
    if (chosen.delete(id) && !deciding) tell("a request that was chosen waits no more", true);
  }

  /** Say of requests that wait no more what became of them. */
  async function tellEnds(gone: Request[]): Promise<void> {
    for (const request of gone) {
      let outcome: Outcome = { state: "", votes: [] };
      try {
        ({ data: outcome } = await source.request<Outcome>("outcome", { request: request.id }));
      } catch {
        // That it waits no more is known all the same.
      }
      if (closed) return;
      if (outcome.state === "pending") continue; // of very many, a page gets those that end first
      const state = STATES.has(outcome.state) ? outcome.state : "";
      const by = outcome.votes.map((vote) => `${vote.approver.user}: ${vote.reason}`).join("; ");
      endedList.prepend(el(
        "li", { class: "aa-ended-one" },
        el("span", { class: `aa-badge aa-end-${state || "unknown"}` }, state || "waits no more"),
        el("b", { class: "aa-card-what" }, ...shown(effect(request))),
        el("span", { class: "aa-quiet" }, ...shown(`${who(request)} on ${request.target}`)),
        by ? el("q", {}, ...shown(by)) : null,
      ));
      while (endedList.childElementCount > MAX_ENDED) endedList.lastElementChild?.remove();
      ended.hidden = false;
      say(`${state || "Waits no more"}: ${effect(request)}, asked by ${who(request)}.`);
    }
  }

  // -- time

  const secondsLeft = (request: Request) =>
    Math.max(0, Math.floor((request.expires_at - (Date.now() * 1_000 + skew)) / 1_000_000));

  function tick(): void {
    let hasEnded = false;
    for (const { left, bar: fill, request, node, box } of cards.values()) {
      const seconds = secondsLeft(request);
      left.textContent = seconds > 0 ? `${countdown(seconds)} left` : "time is over";
      const whole = (request.expires_at - request.requested_at) / 1_000_000;
      (fill.firstElementChild as HTMLElement).style.width = `${whole > 0 ? Math.min(100, (100 * seconds) / whole) : 0}%`;
      node.classList.toggle("aa-soon", seconds < SOON_S);
      if (box && seconds > 0 && seconds < SOON_S && !warned.has(request.id)) {
        warned.add(request.id);
        say(`Less than a minute left: ${effect(request)}, asked by ${who(request)}.`);
      }
      if (seconds > 0 || node.classList.contains("aa-is-over")) continue;
      node.classList.add("aa-is-over");
      hasEnded = true;
      if (chosen.delete(request.id)) tell("the time of a request that was chosen is over", true);
    }
    if (hasEnded) follow();
  }

  // -- choosing

  function choose(request: Request, isChosen: boolean): void {
    trouble.hidden = true;
    tell("");
    if (isChosen) chosen.add(request.id);
    else chosen.delete(request.id);
    follow();
  }

  const first = () => [...chosen].map((id) => cards.get(id)?.request).find((one) => one !== undefined);

  /** Return why a request cannot be chosen now, or "". */
  function obstacle({ request, node }: Card): string {
    const one = first();
    if (node.classList.contains("aa-is-over")) return "its time is over";
    if (!one || one.id === request.id || chosen.has(request.id)) return "";
    if (kindOf(one) !== kindOf(request)) return "several at once must be of one kind, class and target";
    if (isAlone(one) || isAlone(request)) return "a query of several statements is decided by itself";
    return chosen.size >= MAX_AT_ONCE ? `at most ${MAX_AT_ONCE} at once` : "";
  }

  /** The others of which the very same is shown, and that can be chosen. */
  function alikeTo(request: Request): Card[] {
    const said = cards.get(request.id)?.said;
    return said ? [...cards.values()].filter((card) => card.said === said && card.box && card.request.id !== request.id && !card.node.classList.contains("aa-is-over")) : [];
  }

  function chooseAlike(request: Request): void {
    const isOff = chosen.has(request.id) ? false : kindOf(first() ?? request) !== kindOf(request);
    if (isOff) chosen.clear();
    for (const id of [request.id, ...alikeTo(request).map((card) => card.request.id)]) {
      if (chosen.size < MAX_AT_ONCE) chosen.add(id);
    }
    trouble.hidden = true;
    follow();
  }

  function follow(): void {
    for (const card of cards.values()) {
      const { box, request, node, alike } = card;
      if (!box) continue;
      const why = obstacle(card);
      box.disabled = deciding || why !== "";
      box.title = why;
      box.checked = chosen.has(request.id);
      node.classList.toggle("aa-is-chosen", box.checked);
      if (!alike) continue;
      const same = node.classList.contains("aa-is-over") ? [] : alikeTo(request);
      alike.hidden = same.length === 0 || same.every((one) => chosen.has(one.request.id));
      alike.disabled = deciding;
      alike.textContent = `choose all ${count(same.length + 1)} that ask for the very same`;
    }
    const one = first();
    const isReady = chosen.size > 0 && reason.value.trim() !== "" && !deciding && mayDecide && !isLost;
    approve.disabled = deny.disabled = !isReady;
    const line = !mayDecide ? "Nothing is decided here."
      : isLost ? "Nothing can be decided now."
      : deciding ? "Asking the gateway …"
      : chosen.size === 0 ? "Choose what you have read."
      : one && chosen.size === 1 ? `1 request: ${effect(one).slice(0, 80)}`
      : `${chosen.size} requests, one decision`;
    what.replaceChildren(...shown(line));
    approve.textContent = chosen.size > 1 ? `Approve ${chosen.size}` : "Approve";
    deny.textContent = chosen.size > 1 ? `Deny ${chosen.size}` : "Deny";
  }

  /** Between requests by arrows or j and k; x or Space chooses, r goes to the reason. */
  function onKey(event: KeyboardEvent): void {
    const at = event.target as HTMLElement;
    const nodes = [...cards.values()].map((card) => card.node).filter((node) => node.isConnected);
    const isPlain = at === scrolled || nodes.includes(at) || at.classList.contains("aa-choose");
    if (!isPlain || event.ctrlKey || event.altKey || event.metaKey) return;
    const inOrder = [...cardList.children] as HTMLElement[];
    const now = inOrder.findIndex((node) => node.contains(at));
    const to: Record<string, number> = {
      ArrowDown: now + 1, j: now + 1, ArrowUp: now - 1, k: now - 1, Home: 0, End: inOrder.length - 1,
    };
    const goal = to[event.key];
    if (goal !== undefined) {
      const node = inOrder[Math.min(Math.max(goal, 0), inOrder.length - 1)];
      node?.focus({ preventScroll: true });
      node?.scrollIntoView({ block: "nearest" });
    } else if (event.key === "r" && !bar.hidden) reason.focus();
    else if ((event.key === "x" || event.key === " ") && nodes.includes(at)) {
      [...cards.values()].find((card) => card.node === at)?.box?.click();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // -- deciding

  async function decide(verdict: "approve" | "deny"): Promise<void> {
    const requests = [...chosen].flatMap((id) => {
      const card = cards.get(id);
      return card?.box ? [{ id, digest: digestOf(card.request.shown) }] : [];
    });
    deciding = true;
    trouble.hidden = true;
    tell("");
    follow();
    try {
      const { data } = await source.request<{ decided: Decided[] }>("decide", {
        verdict, reason: reason.value.trim(), requests,
      });
      if (closed) return;
      const failed = data.decided.filter((one) => one.error);
      const words = data.decided.filter((one) => one.state).map((one) =>
        one.state === "pending" ? "counted, it waits for others yet" : one.state);
      tell(words.length ? `${count(words.length)}: ${[...new Set(words)].join(", ")}` : "");
      if (failed.length) complain(Object.assign(new Error([...new Set(failed.map((one) => one.error))].join("; ")), { hint: failed[0]?.hint }));
      else reason.value = "";
      for (const one of data.decided) if (one.state) chosen.delete(one.id);
      await lookAgain();
      onDecided();
    } catch (error) {
      if (closed || error instanceof Closed) return;
      complain(error);
      // It may have been done all the same, or what waits may be another text by now.
      await lookAgain();
    } finally {
      deciding = false;
      if (!closed) follow();
    }
    // A button that cannot be pressed any more is no place for whoever goes by keyboard.
    const at = focused();
    if (!closed && (at === approve || at === deny || at === document.body)) scrolled.focus({ preventScroll: true });
  }

  follow();
  void refresh();
  return {
    refresh,
    dispose() {
      closed = true;
      clearInterval(ticking);
      clearTimeout(later);
      frame.remove();
    },
  };
}
