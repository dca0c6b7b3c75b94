// @ts-nocheck
/**
 * Steps through a recorded session: what was asked, what came back, in its own time.
 *
 * The kernel keeps the data. The browser holds one small index of the session (numbers, no
 * content) and asks for slices by name: a page of the list, one command, fifty rows of a result.
 *
 * Above `mount` are pure functions; `mount` draws into an element from any source.
 */

import { el, highlighted, icon, shown } from "./dom.ts";
import { bytes, count, counted, duration, elapsed, moment } from "./units.ts";

export const CLASSES = ["read", "write", "schema", "admin", "session", "unknown"];
export const STATUSES = ["ok", "error", "denied", "cancelled", "incomplete"];
export const FATES = ["", "committed", "rolled back", "not committed", "open"];
export const SPEEDS = [0.5, 1, 2, 4, 8, 16, 64];
export const IDLE_LIMIT_US = 2_000_000;
const ROW_HEIGHT = 46;
const PAGE_ROWS = 50;
const LIST_PAGE = 60;
const LIVE_POLL_MS = 2_000;
const INDEX_SLICE = 50_000;

// --- the index: a few numbers a command, so that every jump is local -----------------------------

/** An empty index of the session; `extend` adds slices to it. */
export function emptyIndex() {
  return {
    length: 0,
    number: new Int32Array(0),
    start: new Float64Array(0),
    duration: new Float64Array(0),
    txn: new Int32Array(0),
    cls: new Uint8Array(0),
    status: new Uint8Array(0),
    txnStatus: new Uint8Array(0),
    fate: new Uint8Array(0),
  };
}

/** Return the index with a slice of the kernel's typed buffers appended (see replay.py, `index`). */
export function extend(index, slice) {
  const joined = { length: index.length + slice.number.length };
  for (const column of Object.keys(index)) {
    if (column === "length") continue;
    const whole = new index[column].constructor(joined.length);
    whole.set(index[column]);
    whole.set(slice[column], index.length);
    joined[column] = whole;
  }
  return joined;
}

/** Turn the buffers of an answer into typed arrays. They may lie at any offset, so they are copied. */
export function slice(buffers) {
  const small = Uint8Array;
  const types = [Int32Array, Float64Array, Float64Array, Int32Array, small, small, small, small];
  const columns = ["number", "start", "duration", "txn", "cls", "status", "txnStatus", "fate"];
  return Object.fromEntries(
    columns.map((column, i) => {
      const view = buffers[i];
      const copy = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
      return [column, new types[i](copy)];
    }),
  );
}

/** Return the first `length` commands of the index. */
export function truncate(index, length) {
  const kept = { length };
  for (const column of Object.keys(index)) {
    if (column !== "length") kept[column] = index[column].slice(0, length);
  }
  return kept;
}

/** Return how many first commands can change no more: all before one that runs or may be undone. */
export function settled(index) {
  for (let i = 0; i < index.length; i += 1) {
    if (STATUSES[index.status[i]] === "incomplete" || FATES[index.fate[i]] === "open") return i;
  }
  return index.length;
}

/** Return the positions that pass the filter; `found` is a Set of command numbers, or null. */
export function select(index, { classes, statuses, found }) {
  const positions = [];
  for (let i = 0; i < index.length; i += 1) {
    if (classes.size && !classes.has(CLASSES[index.cls[i]])) continue;
    if (statuses.size && !statuses.has(STATUSES[index.status[i]])) continue;
    if (found && !found.has(index.number[i])) continue;
    positions.push(i);
  }
  return positions;
}

/** Say whether a command changed something: a write, a schema change, administration that went well. */
export function changes(index, position) {
  const cls = CLASSES[index.cls[position]];
  return STATUSES[index.status[position]] === "ok" && ["write", "schema", "admin"].includes(cls);
}

/** Say whether a change did not last: its transaction was rolled back, or never committed. */
export function undone(index, position) {
  return changes(index, position) && ["rolled back", "not committed"].includes(FATES[index.fate[position]]);
}

/** Count commands by class and by status, and the changes that lasted and that did not. */
export function tally(index) {
  const classes = Object.fromEntries(CLASSES.map((name) => [name, 0]));
  const statuses = Object.fromEntries(STATUSES.map((name) => [name, 0]));
  let changed = 0;
  let lost = 0;
  for (let i = 0; i < index.length; i += 1) {
    classes[CLASSES[index.cls[i]]] += 1;
    statuses[STATUSES[index.status[i]]] += 1;
    if (changes(index, i)) changed += 1;
    if (undone(index, i)) lost += 1;
  }
  return { classes, statuses, changed, undone: lost };
}

/** Say whether a responder wants to stop here: not ok, or more than reading. */
export function notable(index, position) {
  const cls = CLASSES[index.cls[position]];
  return STATUSES[index.status[position]] !== "ok" || (cls !== "read" && cls !== "session");
}

/** Return the place in `view` of the next notable command from `place`, or -1. */
export function nextNotable(index, view, place, direction) {
  for (let i = place + direction; i >= 0 && i < view.length; i += direction) {
    if (notable(index, view[i])) return i;
  }
  return -1;
}

/** Return transactions of several commands as `{from, to, txn, fate}` over places in `view`. */
export function transactions(index, view) {
  const spans = [];
  let open = null;
  view.forEach((position, place) => {
    const txn = index.txn[position];
    if (open && open.txn === txn) open.to = place;
    else {
      open = txn >= 0 ? { from: place, to: place, txn, fate: FATES[index.fate[position]] } : null;
      if (open) spans.push(open);
    }
  });
  // A statement outside BEGIN … COMMIT is a transaction of its own and needs no bracket.
  return spans.filter((span) => span.to > span.from);
}

// --- the clock: session time with its idle stretches shortened -----------------------------------

/**
 * Lay the commands of `view` on a playing time.
 *
 * Returns `{at, end, idle, total}`, microseconds of playing time: when each begins and ends, how
 * much idle time was left out before each, and when all is over. Commands that overlap (pipelined)
 * keep their order.
 */
export function buildClock(index, view, idleLimit) {
  const at = new Float64Array(view.length);
  const end = new Float64Array(view.length);
  const idle = new Float64Array(view.length);
  let playing = 0; // playing time of `real`
  let real = 0; // latest end in session time so far
  view.forEach((position, place) => {
    const start = index.start[position];
    const took = Number.isNaN(index.duration[position]) ? 0 : Math.max(0, index.duration[position]);
    const gap = start - real;
    if (gap > idleLimit) {
      idle[place] = gap - idleLimit;
      playing += idleLimit;
    } else playing += Math.max(gap, 0);
    const overlap = Math.max(0, -gap);
    at[place] = Math.max(place ? at[place - 1] : 0, playing - overlap);
    end[place] = Math.max(at[place] + took, at[place]);
    real = Math.max(real, start + took);
    playing = Math.max(playing, end[place]);
  });
  return { at, end, idle, total: playing };
}

/** Return the last place that has begun at `time`, -1 before the first. */
export function locate(clock, time) {
  let low = 0;
  let high = clock.at.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (clock.at[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

const RANK = { unknown: 3, admin: 4, schema: 4, write: 3, read: 1, session: 0 };

/**
 * Put the commands of `view` on `width` pixels of the clock.
 *
 * One bar per pixel column at most: `{x, width, cls, trouble, n}`. Where several share a column,
 * the gravest class shows and any trouble shows, so that nothing grave hides behind the harmless.
 */
export function bars(index, view, clock, width) {
  const scale = clock.total > 0 ? (width - 3) / clock.total : 0;
  const columns = new Map();
  view.forEach((position, place) => {
    const x = Math.round(clock.at[place] * scale);
    const wide = Math.max(3, Math.round((clock.end[place] - clock.at[place]) * scale));
    const cls = CLASSES[index.cls[position]];
    const trouble = STATUSES[index.status[position]] !== "ok";
    const bar = columns.get(x);
    if (!bar) columns.set(x, { x, width: wide, cls, trouble, n: 1 });
    else {
      if (RANK[cls] > RANK[bar.cls]) bar.cls = cls;
      bar.trouble ||= trouble;
      bar.width = Math.max(bar.width, wide);
      bar.n += 1;
    }
  });
  return [...columns.values()];
}

// --- keys -----------------------------------------------------------------------------------------

const KEYS = {
  ArrowRight: "next", ArrowDown: "next", j: "next",
  ArrowLeft: "previous", ArrowUp: "previous", k: "previous",
  PageDown: "forward", PageUp: "back", Home: "first", End: "last",
  " ": "toggle", n: "nextNotable", "]": "nextNotable", p: "previousNotable", "[": "previousNotable",
  "/": "filter", g: "jump", "+": "faster", "=": "faster", "-": "slower", "?": "help", Escape: "leave",
};

/**
 * Return what a key asks for, or null where it belongs to what has the focus.
 *
 * `focus` is "field" (typing), "button", "grid" (scrolls by itself) or "".
 */
export function action(event, focus) {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const asked = KEYS[event.key] ?? null;
  if (asked === "leave") return asked;
  if (focus === "field") return null;
  if (focus === "button" && event.key === " ") return null;
  const scrolls = ["next", "previous", "forward", "back", "first", "last"].includes(asked);
  if (focus === "grid" && scrolls && event.key.length > 1) return null;
  return asked;
}

// --- drawing --------------------------------------------------------------------------------------

let instances = 0;
const ICONS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z",
  previous: "M12 3v10L4 8z",
  play: "M4 2.5v11L13 8z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  next: "M4 3v10l8-5z",
  last: "M11 3h2v10h-2zM3 3v10l7-5z",
  notableBack: "M8 2 1 8l7 6V9.5h1V6.5H8zM11 3h2v7h-2zM11 11.5h2v2h-2z",
  notableNext: "m8 2 7 6-7 6V9.5H7V6.5h1zM3 3h2v7H3zM3 11.5h2v2H3z",
};

/**
 * Draw the replay of `source` into `root`; returns `{goTo(commandNo), dispose()}`.
 *
 * `source.request(op, args)` answers `{data, buffers}`. `onSelect(commandNo)` hears of every move.
 */
export function mount(root, source, { commandNo = -1, speed = 1, onSelect = () => {} } = {}) {
  const prefix = `aa-replay-${(instances += 1)}`;
  const cleanups = [];
  const listen = (target, type, listener, options) => {
    target.addEventListener(type, listener, options);
    cleanups.push(() => target.removeEventListener(type, listener, options));
  };

  let session = null;
  let index = emptyIndex();
  let view = [];
  let clock = buildClock(index, view, IDLE_LIMIT_US);
  let spans = [];
  let place = -1; // in `view`
  let time = 0; // playing time, microseconds
  let playing = false;
  let running = false; // the command at `place` has begun and not ended, in playing time
  let skipIdle = true;
  let closed = false;
  const filter = { classes: new Set(), statuses: new Set(), found: null, text: "" };
  const summaries = new Map();
  const details = new Map();
  let known = -1; // events of the session when we last looked

  // -- skeleton

  const announce = el("div", { class: "aa-hidden", role: "status", "aria-live": "polite" });
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const heading = el("header", { class: "aa-head" });
  const button = (name, label, key, act) => {
    const node = el(
      "button",
      { type: "button", class: "aa-button aa-icon", title: `${label} (${key})`, "aria-label": label, onclick: act },
      icon(ICONS[name]),
    );
    return node;
  };
  const playButton = button("play", "Play", "space", () => perform("toggle"));
  playButton.classList.add("aa-play", "aa-primary");
  const speedField = el(
    "select",
    { class: "aa-field", "aria-label": "Speed", title: "Speed (+ and -)" },
    ...SPEEDS.map((value) => el("option", { value }, `${value}×`)),
  );
  speedField.value = String(SPEEDS.includes(speed) ? speed : 1);
  const idleField = el("input", { type: "checkbox", id: `${prefix}-idle`, checked: true });
  const clockText = el("output", { class: "aa-clock", "aria-label": "Time in the session" }, "+00:00:00.000");
  const jumpField = el("input", {
    class: "aa-field aa-jump", type: "text", inputmode: "numeric", size: 5, placeholder: "#",
    "aria-label": "Jump to command number", title: "Jump to a command number (g)",
  });
  const place_text = el("span", { class: "aa-place" });
  const toolbar = el(
    "div",
    { class: "aa-toolbar", role: "toolbar", "aria-label": "Playback" },
    button("first", "First command", "Home", () => perform("first")),
    button("notableBack", "Previous write, change or error", "[", () => perform("previousNotable")),
    button("previous", "Previous command", "left", () => perform("previous")),
    playButton,
    button("next", "Next command", "right", () => perform("next")),
    button("notableNext", "Next write, change or error", "]", () => perform("nextNotable")),
    button("last", "Last command", "End", () => perform("last")),
    el("span", { class: "aa-gap" }),
    speedField,
    el("label", { class: "aa-check", for: `${prefix}-idle` }, idleField, "skip idle"),
    el("span", { class: "aa-gap" }),
    clockText,
    el("span", { class: "aa-grow" }),
    place_text,
    jumpField,
    el("button", {
      type: "button", class: "aa-button aa-calm", "aria-label": "Keyboard help", title: "Keys (?)",
      onclick: () => perform("help"),
    }, "?"),
  );
  const canvas = el("canvas", { class: "aa-track-canvas" });
  const playhead = el("div", { class: "aa-playhead" });
  const tip = el("div", { class: "aa-tip", hidden: true });
  const track = el(
    "div",
    {
      class: "aa-track", role: "slider", tabindex: 0, "aria-label": "Position in the session",
      "aria-valuemin": 1, "aria-valuemax": 1, "aria-valuenow": 1,
    },
    canvas, playhead, tip,
  );
  const search = el("input", {
    class: "aa-field aa-search", type: "search", placeholder: "filter by text", spellcheck: "false",
    autocomplete: "off", "aria-label": "Filter commands by text", title: "Filter (/)",
  });
  const chips = el("div", { class: "aa-chips", role: "group", "aria-label": "Filter by class and status" });
  const spacer = el("div", { class: "aa-spacer" });
  const list = el(
    "div",
    { class: "aa-list", role: "listbox", tabindex: 0, "aria-label": "Commands", id: `${prefix}-list` },
    spacer,
  );
  const detail = el("section", { class: "aa-detail", "aria-label": "Command", tabindex: -1 });
  const help = el(
    "div",
    { class: "aa-help", role: "dialog", "aria-label": "Keys", hidden: true },
    el("h4", {}, "Keys"),
    el(
      "dl", {},
      ...[
        ["← → ↑ ↓ j k", "previous, next command"], ["PgUp PgDn", "ten back, ten on"],
        ["Home End", "first, last"], ["[ ]  p n", "previous, next write, change or error"],
        ["space", "play, pause"], ["+ -", "faster, slower"], ["/", "filter"],
        ["g", "jump to a number"], ["Esc", "leave a field, close this"],
      ].flatMap(([keys, does]) => [el("dt", {}, keys), el("dd", {}, does)]),
    ),
  );
  const frame = el(
    "div",
    { class: "aa-view aa-frame aa-replay", role: "region", "aria-label": "Replay of a session" },
    heading, trouble, toolbar, track,
    el("div", { class: "aa-body" }, el("div", { class: "aa-side" }, search, chips, list), detail),
    help, announce,
  );
  root.append(frame);

  // -- asking

  const complain = (error) => {
    if (closed || error.message === "closed") return;
    trouble.replaceChildren(...shown(error.message));
    trouble.hidden = false;
  };
  const ask = async (op, args) => {
    const answer = await source.request(op, args);
    trouble.hidden = true;
    return answer;
  };

  const remember = (cache, key, value, limit) => {
    cache.delete(key);
    cache.set(key, value);
    if (cache.size > limit) cache.delete(cache.keys().next().value);
  };

  async function load() {
    const { data } = await ask("open", {});
    session = data.session;
    await fill(data.total);
    known = data.events;
    drawHeading();
    const from = view.findIndex((position) => index.number[position] === commandNo);
    goTo(from >= 0 ? from : 0);
    if (!view.length) drawDetail();
    if (session.closed_at === null) poll();
  }

  async function fill(total) {
    while (index.length < total && !closed) {
      const { data, buffers } = await ask("index", { offset: index.length, limit: INDEX_SLICE });
      if (!data.count) break;
      index = extend(index, slice(buffers));
    }
    refilter();
  }

  function poll() {
    const timer = setTimeout(async () => {
      if (closed) return;
      try {
        if (frame.isConnected && !document.hidden) {
          const { data } = await ask("open", {});
          session = data.session;
          if (data.events !== known) {
            known = data.events;
            const atEnd = place === view.length - 1 && !playing;
            const stays = settled(index);
            for (let i = stays; i < index.length; i += 1) {
              summaries.delete(index.number[i]);
              details.delete(index.number[i]);
            }
            index = truncate(index, stays);
            await fill(data.total);
            if (atEnd) goTo(view.length - 1);
            else if (place >= 0 && place < view.length && view[place] >= stays && !playing) drawDetail();
          }
          drawHeading();
        }
      } catch (error) {
        complain(error);
      }
      if (session.closed_at === null) poll();
    }, LIVE_POLL_MS);
    cleanups.push(() => clearTimeout(timer));
  }

  // -- heading

  function drawHeading() {
    const totals = tally(index);
    const fact = (label, value, title) =>
      el("div", { class: "aa-fact", title }, el("dt", {}, label), el("dd", {}, ...shown(String(value))));
    const live = session.closed_at === null;
    const span = (live ? Math.max(0, lastEnd()) : session.closed_at - session.opened_at);
    const problems = STATUSES.slice(1).filter((name) => totals.statuses[name]);
    heading.replaceChildren(
      el(
        "div", { class: "aa-title" },
        el("span", { class: "aa-who" }, ...shown(session.user || "unknown user")),
        session.agent ? el("span", { class: "aa-via" }, "via ", el("b", {}, ...shown(session.agent))) : null,
        el("span", { class: "aa-arrow", "aria-hidden": "true" }, "→"),
        el("span", { class: "aa-target" }, ...shown(session.target || "–")),
        el("span", { class: "aa-badge" }, ...shown(session.protocol)),
        live ? el("span", { class: "aa-badge aa-live" }, "live") : null,
        session.close_reason && session.close_reason !== "client"
          ? el("span", { class: "aa-badge aa-warn", title: "why the session ended" }, ...shown(`ended: ${session.close_reason.replaceAll("_", " ")}`))
          : null,
        el("span", { class: "aa-grow" }),
        el("code", { class: "aa-id", title: "session id" }, session.id),
      ),
      el(
        "dl", { class: "aa-facts" },
        fact("opened", moment(session.opened_at), "UTC"),
        fact("lasted", duration(span)),
        fact("commands", count(index.length)),
        fact("changes", count(totals.changed) + (totals.undone ? `, ${count(totals.undone)} undone` : ""),
          "writes, schema changes and administration; undone: rolled back, or never committed"),
        el("div", { class: "aa-fact" + (problems.length ? " aa-bad" : "") },
          el("dt", {}, "not ok"),
          el("dd", {}, problems.length ? problems.map((name) => name === "error" ? counted(totals.statuses.error, "error") : `${count(totals.statuses[name])} ${name}`).join(", ") : "0")),
        fact("sent", bytes(session.bytes_in), "bytes from the client"),
        fact("received", bytes(session.bytes_out), "bytes from the target"),
        session.masked ? fact("masked", count(session.masked), "values hidden by masking rules") : null,
        session.client_app ? fact("client", session.client_app, "as the client calls itself") : null,
        session.client_addr ? fact("from", session.client_addr) : null,
        fact("gateway", session.gateway),
      ),
    );
    frame.setAttribute("aria-label", `Replay of session ${session.id}`);
  }

  const lastEnd = () => {
    const i = index.length - 1;
    return i < 0 ? 0 : index.start[i] + (Number.isNaN(index.duration[i]) ? 0 : index.duration[i]);
  };

  // -- filter

  function refilter() {
    const current = place >= 0 && place < view.length ? view[place] : -1; // positions never move
    view = select(index, filter);
    rebuildClock();
    spans = transactions(index, view);
    drawChips();
    place = current < 0 ? -1 : view.indexOf(current);
    if (place < 0 && current >= 0 && view.length) {
      const after = view.findIndex((position) => position >= current);
      goTo(after < 0 ? view.length - 1 : after);
    } else {
      time = place >= 0 ? clock.end[place] : 0;
      drawPlace();
    }
    spacer.style.height = `${view.length * ROW_HEIGHT}px`;
    drawList();
    drawTrack();
  }

  function rebuildClock() {
    clock = buildClock(index, view, skipIdle ? IDLE_LIMIT_US : Infinity);
  }

  function drawChips() {
    const totals = tally(index);
    const chip = (set, name, number, kind) =>
      el(
        "button",
        {
          type: "button", class: `aa-chip aa-${kind}-${name}`, "aria-pressed": set.has(name) ? "true" : "false",
          onclick: () => {
            set.has(name) ? set.delete(name) : set.add(name);
            refilter();
            chips.querySelector(`.aa-${kind}-${name}`)?.focus();
          },
        },
        el("i", { class: "aa-dot", "aria-hidden": "true" }), name, el("b", {}, count(number)),
      );
    chips.replaceChildren(
      ...CLASSES.filter((name) => totals.classes[name]).map((name) => chip(filter.classes, name, totals.classes[name], "class")),
      ...STATUSES.filter((name) => name !== "ok" && totals.statuses[name]).map((name) => chip(filter.statuses, name, totals.statuses[name], "status")),
    );
  }

  let searching = 0;
  let searchTimer = 0;
  listen(search, "input", () => {
    clearTimeout(searchTimer);
    searchTimer = setTimeout(runSearch, 200);
  });
  async function runSearch() {
    const text = search.value.trim();
    searching += 1;
    const mine = searching;
    try {
      let found = null;
      if (text) {
        const { buffers } = await ask("find", { text });
        const buffer = buffers[0];
        found = new Set(new Int32Array(buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength)));
      }
      if (mine !== searching || closed) return; // a newer text overtook this one
      filter.found = found;
      filter.text = text;
      refilter();
      announce.textContent = `${counted(view.length, "command")} shown`;
    } catch (error) {
      complain(error);
    }
  }

  // -- list

  let listFrame = 0;
  const drawListSoon = () => {
    cancelAnimationFrame(listFrame);
    listFrame = requestAnimationFrame(drawList);
  };
  listen(list, "scroll", drawListSoon);

  function drawList() {
    const height = list.clientHeight || 400;
    const from = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 4);
    const to = Math.min(view.length, Math.ceil((list.scrollTop + height) / ROW_HEIGHT) + 4);
    const rows = [];
    const missing = [];
    for (let i = from; i < to; i += 1) {
      const number = index.number[view[i]];
      if (!summaries.has(number)) missing.push(number);
      rows.push(drawRow(i));
    }
    if (!view.length && index.length) rows.push(el("div", { class: "aa-empty" }, "nothing matches the filter"));
    spacer.replaceChildren(...rows);
    if (place >= 0) list.setAttribute("aria-activedescendant", `${prefix}-row-${view[place]}`);
    else list.removeAttribute("aria-activedescendant");
    if (missing.length) fetchSummaries(missing);
  }

  let fetching = false;
  async function fetchSummaries(numbers) {
    if (fetching) return;
    fetching = true;
    try {
      const { data } = await ask("page", { numbers: numbers.slice(0, LIST_PAGE) });
      for (const row of data.rows) remember(summaries, row.command_no, row, 5_000);
    } catch (error) {
      complain(error);
      return;
    } finally {
      fetching = false;
    }
    if (!closed) drawList();
  }

  function drawRow(i) {
    const position = view[i];
    const number = index.number[position];
    const cls = CLASSES[index.cls[position]];
    const status = STATUSES[index.status[position]];
    const row = summaries.get(number);
    const span = spanAt(i);
    const classes = ["aa-row"];
    if (i === place) classes.push("aa-current");
    if (status !== "ok") classes.push("aa-notok");
    const bracket = span
      ? ["aa-txn", span.from === i ? "aa-txn-from" : "", span.to === i ? "aa-txn-to" : "", `aa-txn-${span.fate.replace(" ", "-")}`].join(" ")
      : "aa-txn-none";
    const node = el(
      "div",
      {
        class: classes.join(" "), role: "option", id: `${prefix}-row-${position}`,
        "aria-selected": i === place ? "true" : "false", "aria-posinset": i + 1, "aria-setsize": view.length,
        onclick: () => {
          pause();
          goTo(i);
        },
      },
      el("span", { class: bracket, title: span ? `transaction ${span.txn}, ${span.fate}` : null }),
      el("span", { class: `aa-bar aa-class-${cls}` }),
      el(
        "div", { class: "aa-row-text" },
        el(
          "div", { class: "aa-row-top" },
          el("span", { class: "aa-no" }, `#${number}`),
          el("span", { class: `aa-op aa-class-${cls}` }, ...(row ? shown(row.operation || cls) : ["…"])),
          status !== "ok" ? el("span", { class: `aa-mark aa-status-${status}` }, ...(row?.error_code ? shown(`${status} ${row.error_code}`) : [status])) : null,
          row && status === "ok" && row.rows !== null ? el("span", { class: "aa-rows" }, row.rows_label) : null,
          undone(index, position) ? el("span", { class: "aa-undone" }, FATES[index.fate[position]]) : null,
          el("span", { class: "aa-grow" }),
          el("span", { class: "aa-when" }, elapsed(index.start[position])),
        ),
        el("div", { class: "aa-row-sql" }, ...(row ? shown(row.text) : [])),
      ),
    );
    node.style.top = `${i * ROW_HEIGHT}px`;
    return node;
  }

  function spanAt(i) {
    let low = 0;
    let high = spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (spans[middle].to < i) low = middle + 1;
      else high = middle;
    }
    return spans[low] && spans[low].from <= i ? spans[low] : null;
  }

  function reveal() {
    if (place < 0) return;
    const top = place * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    }
  }

  // -- track

  let resolved = null;
  function colours() {
    if (resolved) return resolved;
    const style = getComputedStyle(frame);
    const read = (name) => style.getPropertyValue(name).trim() || "#888";
    resolved = {
      ...Object.fromEntries(CLASSES.map((name) => [name, read(`--aa-${name}`)])),
      bad: read("--aa-bad"), good: read("--aa-good"), quiet: read("--aa-quiet"), line: read("--aa-line"), faint: read("--aa-faint"),
    };
    return resolved;
  }

  function drawTrack() {
    const width = track.clientWidth;
    const height = track.clientHeight;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colour = colours();
    const scale = clock.total > 0 ? (width - 3) / clock.total : 0;
    // Idle time that was left out: a pale band where it was, with its length where there is room.
    pen.font = getComputedStyle(tip).font;
    pen.textAlign = "center";
    view.forEach((_, i) => {
      if (clock.idle[i] <= 0) return;
      const wide = Math.max(2, IDLE_LIMIT_US * scale);
      const x = clock.at[i] * scale - wide;
      pen.fillStyle = colour.faint;
      pen.fillRect(x, 11, wide, height - 24);
      const label = `idle ${duration(clock.idle[i] + IDLE_LIMIT_US)}`;
      if (pen.measureText(label).width + 8 < wide) {
        pen.fillStyle = colour.quiet;
        pen.fillText(label, x + wide / 2, height / 2 + 2);
      }
    });
    pen.fillStyle = colour.line;
    pen.fillRect(0, height - 12, width, 1);
    for (const bar of bars(index, view, clock, width)) {
      pen.fillStyle = colour[bar.cls];
      const tall = bar.cls === "read" || bar.cls === "session" ? 0.55 : 1;
      const room = height - 24;
      pen.fillRect(bar.x, 11 + room * (1 - tall), bar.width, room * tall);
      if (bar.trouble) {
        pen.fillStyle = colour.bad;
        pen.beginPath();
        pen.moveTo(bar.x - 3, 2);
        pen.lineTo(bar.x + 5, 2);
        pen.lineTo(bar.x + 1, 9);
        pen.fill();
      }
    }
    pen.lineWidth = 2;
    for (const span of spans) {
      pen.strokeStyle = span.fate === "committed" ? colour.good : span.fate === "open" ? colour.quiet : colour.bad;
      pen.beginPath();
      const from = clock.at[span.from] * scale + 1;
      const to = Math.max(clock.end[span.to] * scale, from + 3);
      pen.moveTo(from, height - 9);
      pen.lineTo(from, height - 5);
      pen.lineTo(to, height - 5);
      pen.lineTo(to, height - 9);
      pen.stroke();
    }
    movePlayhead();
  }

  function movePlayhead() {
    const x = clock.total > 0 ? (time / clock.total) * (track.clientWidth - 3) : 0;
    playhead.style.transform = `translateX(${Math.max(0, Math.min(x, track.clientWidth - 2))}px)`;
    const position = place >= 0 ? view[place] : -1;
    const inside = position >= 0 ? index.start[position] + Math.min(time - clock.at[place], clock.end[place] - clock.at[place]) : 0;
    clockText.textContent = elapsed(inside);
  }

  const placeAt = (clientX) => {
    const box = track.getBoundingClientRect();
    const at = ((clientX - box.left) / Math.max(1, box.width - 3)) * clock.total;
    const before = locate(clock, at);
    if (before < 0) return view.length ? 0 : -1;
    const after = Math.min(before + 1, view.length - 1);
    return clock.at[after] - at < at - clock.end[before] ? after : before;
  };
  let dragging = false;
  listen(track, "pointerdown", (event) => {
    dragging = true;
    track.setPointerCapture(event.pointerId);
    pause();
    goTo(placeAt(event.clientX));
  });
  listen(track, "pointermove", (event) => {
    const i = placeAt(event.clientX);
    if (i < 0) return;
    if (dragging) goTo(i);
    const number = index.number[view[i]];
    const row = summaries.get(number);
    tip.replaceChildren(
      el("b", {}, `#${number} ${row ? row.operation : CLASSES[index.cls[view[i]]]}`),
      ` ${elapsed(index.start[view[i]])}`,
      clock.idle[i] > 0 ? el("div", {}, `after ${duration(clock.idle[i] + IDLE_LIMIT_US)} idle`) : "",
    );
    tip.hidden = false;
    const box = track.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX - box.left, box.width - 190))}px`;
  });
  listen(track, "pointerup", () => (dragging = false));
  listen(track, "pointercancel", () => (dragging = false));
  listen(track, "pointerleave", () => (tip.hidden = true));

  // -- moving

  let toldTimer = 0;
  function goTo(i, at = null) {
    if (!view.length) return;
    const to = Math.max(0, Math.min(i, view.length - 1));
    const moved = to !== place;
    place = to;
    time = at ?? clock.end[to];
    running = at !== null && at < clock.end[to];
    drawPlace();
    reveal();
    drawList();
    drawDetail();
    if (moved) {
      // While it plays, a state change per command would flood the kernel and the notebook.
      clearTimeout(toldTimer);
      const number = index.number[view[place]];
      toldTimer = setTimeout(() => !closed && onSelect(number), playing ? 500 : 0);
    }
  }

  function drawPlace() {
    movePlayhead();
    const all = view.length === index.length ? "" : ` (of ${count(index.length)})`;
    place_text.textContent = view.length ? `${count(place + 1)} / ${count(view.length)}${all}` : "0 / 0" + all;
    track.setAttribute("aria-valuemax", String(Math.max(1, view.length)));
    track.setAttribute("aria-valuenow", String(place + 1));
    const number = place >= 0 ? index.number[view[place]] : -1;
    const row = summaries.get(number);
    track.setAttribute("aria-valuetext", place < 0 ? "no command" : `command ${number}${row ? ", " + row.operation : ""}`);
  }

  function pause() {
    if (!playing) return;
    playing = false;
    playButton.replaceChildren(icon(ICONS.play));
    playButton.setAttribute("aria-label", "Play");
    frame.classList.remove("aa-playing");
    if (running) {
      running = false;
      goTo(place);
    }
  }

  function play() {
    if (playing || !view.length) return;
    if (place >= view.length - 1 && time >= clock.total) {
      place = 0;
      time = 0;
    }
    playing = true;
    playButton.replaceChildren(icon(ICONS.pause));
    playButton.setAttribute("aria-label", "Pause");
    frame.classList.add("aa-playing");
    let before = null;
    const tick = (now) => {
      if (!playing || closed) return;
      if (before !== null) time += (now - before) * 1_000 * Number(speedField.value);
      before = now;
      if (time >= clock.total) {
        time = clock.total;
        running = false;
        goTo(view.length - 1);
        pause();
        return;
      }
      const i = Math.max(0, locate(clock, time));
      const runs = time < clock.end[i];
      if (i !== place || runs !== running) goTo(i, time);
      else movePlayhead();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  function perform(what) {
    const stop = ["next", "previous", "forward", "back", "first", "last", "nextNotable", "previousNotable"];
    if (stop.includes(what)) pause();
    switch (what) {
      case "next": return goTo(place + 1);
      case "previous": return goTo(place - 1);
      case "forward": return goTo(place + 10);
      case "back": return goTo(place - 10);
      case "first": return goTo(0);
      case "last": return goTo(view.length - 1);
      case "toggle": return playing ? pause() : play();
      case "nextNotable":
      case "previousNotable": {
        const i = nextNotable(index, view, place, what === "nextNotable" ? 1 : -1);
        if (i < 0) announce.textContent = "no further write, change or error";
        else goTo(i);
        return;
      }
      case "filter": return search.focus();
      case "jump": return jumpField.focus();
      case "faster":
      case "slower": {
        const i = SPEEDS.indexOf(Number(speedField.value)) + (what === "faster" ? 1 : -1);
        speedField.value = String(SPEEDS[Math.max(0, Math.min(i, SPEEDS.length - 1))]);
        return;
      }
      case "help":
        help.hidden = !help.hidden;
        return;
      case "leave":
        help.hidden = true;
        list.focus({ preventScroll: true });
    }
  }

  listen(frame, "keydown", (event) => {
    const target = event.target;
    const focus = target.matches("input:not([type=checkbox]), select, textarea") ? "field"
      : target.matches("button, summary, input") ? "button"
      : target.closest(".aa-grid, .aa-scroll") ? "grid" : "";
    if (target === jumpField && event.key === "Enter") {
      const number = Number.parseInt(jumpField.value.replace("#", ""), 10);
      jumpTo(number);
      jumpField.value = "";
      list.focus({ preventScroll: true });
    } else {
      const what = action(event, focus);
      if (!what) return;
      perform(what);
    }
    event.preventDefault();
    event.stopPropagation();
  });

  function jumpTo(number) {
    if (Number.isNaN(number)) return;
    let i = view.findIndex((position) => index.number[position] === number);
    if (i < 0 && index.number.includes(number)) {
      // It is there but filtered away: what was asked for by number wins over the filter.
      filter.classes.clear();
      filter.statuses.clear();
      filter.found = null;
      search.value = "";
      refilter();
      i = view.findIndex((position) => index.number[position] === number);
    }
    if (i < 0) complain(new Error(`command ${number} is not in this session`));
    else {
      pause();
      trouble.hidden = true;
      goTo(i);
    }
  }

  listen(idleField, "change", () => {
    skipIdle = idleField.checked;
    rebuildClock();
    time = place >= 0 ? clock.end[place] : 0;
    drawTrack();
  });

  // -- detail

  let drawn = 0;
  async function drawDetail() {
    drawn += 1;
    const mine = drawn;
    if (!view.length) {
      detail.replaceChildren(el("p", { class: "aa-empty" }, index.length ? "nothing matches the filter" : "no command was recorded in this session"));
      return;
    }
    const number = index.number[view[place]];
    let command = details.get(number);
    if (!command) {
      detail.classList.add("aa-waiting");
      try {
        ({ data: command } = await ask("command", { command_no: number }));
      } catch (error) {
        complain(error);
        return;
      }
      if (command.ended_at !== null) remember(details, number, command, 200);
      if (mine !== drawn || closed) return; // the reader has moved on
    }
    detail.classList.remove("aa-waiting");
    const parts = commandParts(command, running);
    detail.replaceChildren(...parts);
    detail.scrollTop = 0;
    if (!running && command.returns_rows) drawResult(command, mine);
    if (!playing) {
      announce.textContent =
        `Command ${number}, ${command.operation || "unknown"}, ${command.status}` +
        (command.error_code ? ` ${command.error_code}` : "") +
        (command.rows_returned !== null ? `, ${counted(command.rows_returned, "row")}` : "");
    }
  }

  function commandParts(command, isRunning) {
    const badge = (text, kind, title) => el("span", { class: `aa-badge ${kind}`, title }, ...shown(text));
    const top = el(
      "div", { class: "aa-detail-top" },
      el("span", { class: "aa-detail-no" }, `#${command.command_no}`),
      badge(command.operation || "unknown", `aa-class-${command.cls} aa-strong`),
      badge(command.cls, `aa-class-${command.cls}`, command.confidence === "certain" ? "what it does, certain" : "what it does, as far as it can be known"),
      isRunning ? badge("running…", "aa-running") : badge(command.status, `aa-status-${command.status}`),
      ...(isRunning ? [] : transactionBadges(command)),
      badge(
        command.rule && command.rule !== "none" ? `${command.decision}: ${command.rule}` : command.decision,
        `aa-decision-${command.decision}`, "the gateway's decision, and the rule that made it",
      ),
      command.masked ? badge(`${command.masked} masked`, "aa-masked") : null,
      ...command.risk.map((name) => badge(name, "aa-warn", "risk")),
      el("span", { class: "aa-grow" }),
      el("button", {
        type: "button", class: "aa-button aa-calm", title: "Copy the Python that gives this command",
        onclick: (event) => copy(event.currentTarget, `case.session("${session.id}").command(${command.command_no})`),
      }, "copy Python"),
    );
    const facts = [
      ["started", `${moment(command.started_at)}  ${elapsed(command.started_at - session.opened_at)}`],
      isRunning ? null : ["took", duration(command.duration_us)],
      isRunning || command.rows_returned === null ? null : ["returned", counted(command.rows_returned, "row")],
      isRunning || command.rows_affected === null ? null : ["changed", counted(command.rows_affected, "row")],
      ["bytes", `${bytes(command.bytes_in)} in, ${bytes(command.bytes_out)} out`],
      command.resources.length ? ["objects", command.resources.join(", ")] : null,
      ["events", `${command.first_event_no} – ${command.last_event_no}`],
    ].filter(Boolean);
    const parts = [
      top,
      el("dl", { class: "aa-facts aa-command-facts" }, ...facts.map(([label, value]) =>
        el("div", { class: "aa-fact" }, el("dt", {}, label), el("dd", {}, ...shown(value))))),
      statement(command),
    ];
    if (command.params) parts.push(parameters(command.params));

    if (!isRunning && (command.error_text || command.error_code)) {
      parts.push(
        el(
          "div", { class: "aa-error", role: "group", "aria-label": "Error" },
          el("b", {}, ...shown(command.error_code ? `${command.status} ${command.error_code}` : command.status)),
          el("span", {}, ...shown(command.error_text || "")),
        ),
      );
    }
    if (!isRunning && command.returns_rows) {
      parts.push(el("div", { class: "aa-result", "aria-busy": "true" }, el("p", { class: "aa-note" }, "reading the recorded result…")));
    }
    if (command.cut) parts.push(el("p", { class: "aa-note" }, ...shown(command.cut)));
    return parts;
  }

  function transactionBadges(command) {
    const badges = [];
    if (command.txn_status === "E") {
      badges.push(el("span", { class: "aa-badge aa-status-error", title: "the server refuses all until ROLLBACK" }, "failed transaction"));
    } else if (command.txn_status === "T") {
      badges.push(el("span", { class: "aa-badge", title: "the server's state after it" }, `in transaction ${command.txn_no ?? ""}`));
    }
    const position = view[place];
    if (changes(index, position) && index.number[position] === command.command_no && index.fate[position]) {
      const fate = FATES[index.fate[position]];
      badges.push(el("span", { class: `aa-badge ${fate === "committed" ? "aa-kept" : "aa-undone"}`, title: "what became of its transaction" }, fate));
    }
    return badges;
  }

  function statement(command) {
    const code = el("code", {}, ...highlighted(command.text));
    const box = el("pre", { class: "aa-statement aa-scroll", tabindex: 0, "aria-label": "Statement" }, code);
    if (!command.text_more) return box;
    const more = el(
      "button",
      {
        type: "button", class: "aa-button aa-calm aa-more",
        onclick: async () => {
          try {
            const { data } = await ask("statement", { command_no: command.command_no });
            code.replaceChildren(...highlighted(data.text));
            more.remove();
            box.focus({ preventScroll: true });
            if (data.more) box.after(el("p", { class: "aa-note" }, `… ${count(data.more)} characters more: session.statement(${command.command_no})`));
          } catch (error) {
            complain(error);
          }
        },
      },
      `show all ${count(command.text.length + command.text_more)} characters`,
    );
    return el("div", {}, box, more);
  }

  function parameters(params) {
    return el(
      "div", { class: "aa-params", role: "group", "aria-label": "Parameters" },
      ...params.map((value, i) =>
        el("div", { class: "aa-param" }, el("span", { class: "aa-sql-parameter" }, `$${i + 1}`),
          value === null ? el("i", { class: "aa-null" }, "NULL") : el("code", {}, ...shown(value)))),
    );
  }

  async function drawResult(command, mine, offset = 0) {
    let data;
    try {
      ({ data } = await ask("result", { command_no: command.command_no, offset, limit: PAGE_ROWS }));
    } catch (error) {
      const box = detail.querySelector(".aa-result");
      if (mine === drawn && box) {
        box.setAttribute("aria-busy", "false");
        box.replaceChildren(el("p", { class: "aa-note" }, "this result cannot be read: ", ...shown(error.message)));
      }
      return;
    }
    const box = detail.querySelector(".aa-result");
    if (mine !== drawn || closed || !box) return;
    box.setAttribute("aria-busy", "false");
    const cellBox = el("pre", { class: "aa-cell aa-scroll", tabindex: 0, hidden: true });
    const openCell = async (row, column, name) => {
      try {
        const answer = await ask("cell", { command_no: command.command_no, row, column });
        cellBox.replaceChildren(
          el("b", {}, ...shown(`${name}, row ${count(row + 1)}`), "\n"), ...shown(answer.data.text),
          answer.data.more ? `\n… ${count(answer.data.more)} characters more` : "",
        );
        cellBox.hidden = false;
        cellBox.scrollIntoView({ block: "nearest" });
      } catch (error) {
        complain(error);
      }
    };
    const table = el(
      "table", { "aria-label": `Result of command ${command.command_no}`, "aria-rowcount": data.total + 1 },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "aa-rowno" }, "#"),
        ...data.columns.map((column) => el("th", { scope: "col", class: column.numeric ? "aa-num" : null },
          el("span", {}, ...shown(column.name)), el("small", {}, ...shown(column.type)))))),
      el("tbody", {}, ...data.rows.map((row, r) => el("tr", { "aria-rowindex": offset + r + 2 },
        el("th", { scope: "row", class: "aa-rowno" }, count(offset + r + 1)),
        ...row.map((cell, c) => {
          const attributes = { class: data.columns[c].numeric ? "aa-num" : null };
          if (cell === null) return el("td", attributes, el("i", { class: "aa-null" }, "NULL"));
          if (typeof cell === "string") return el("td", attributes, ...shown(cell));
          return el("td", attributes, ...shown(cell.text), el("button", {
            type: "button", class: "aa-open-cell", title: `show all ${count(cell.length)} characters`,
            onclick: () => openCell(offset + r, c, data.columns[c].name),
          }, "…"));
        })))),
    );
    const last = Math.max(0, Math.floor((data.total - 1) / PAGE_ROWS) * PAGE_ROWS);
    const turn = (label, name, to, off) =>
      el("button", { type: "button", class: "aa-button aa-icon", "aria-label": label, title: label, disabled: off,
        onclick: () => drawResult(command, mine, to) }, icon(ICONS[name]));
    const whole = command.rows_returned ?? data.total;
    const limited = whole > data.total
      ? `; the first ${count(data.total)} of ${count(whole)} are ${command.cut && !data.is_limited ? "kept" : "shown here"}` : "";
    const held = box.contains(root.getRootNode().activeElement)
      ? root.getRootNode().activeElement.getAttribute("aria-label") : null;
    box.replaceChildren(
      el(
        "div", { class: "aa-grid-top" },
        el("b", {}, "Result"),
        el("span", { class: "aa-range" }, data.total
          ? `rows ${count(offset + 1)}–${count(offset + data.rows.length)} of ${count(data.total)}${limited}` : "no rows"),
        el("span", { class: "aa-grow" }),
        ...(data.total > PAGE_ROWS ? [
          turn("First rows", "first", 0, offset === 0), turn("Previous rows", "previous", offset - PAGE_ROWS, offset === 0),
          turn("Next rows", "next", offset + PAGE_ROWS, offset >= last), turn("Last rows", "last", last, offset >= last),
        ] : []),
      ),
      el("div", { class: "aa-grid", tabindex: 0, role: "group", "aria-label": "Result rows" }, table),
      cellBox,
    );
    // Whoever turns pages by keyboard must not be thrown out of the grid with the old buttons.
    if (held) {
      const again = [...box.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === held);
      (again && !again.disabled ? again : box.querySelector(".aa-grid")).focus({ preventScroll: true });
    }
  }

  async function copy(node, text) {
    const label = node.textContent;
    try {
      await navigator.clipboard.writeText(text);
      node.textContent = "copied";
    } catch {
      node.textContent = text; // no clipboard here (plain http): show it instead, to be selected
      return;
    }
    setTimeout(() => (node.textContent = label), 1_200);
  }

  // -- life

  const redraw = () => {
    resolved = null;
    drawTrack();
    drawList();
  };
  const sizes = new ResizeObserver(() => requestAnimationFrame(redraw));
  sizes.observe(track);
  sizes.observe(list);
  // Lab and Notebook change theme by an attribute of the body; the canvas must be drawn again. Lab
  // hides everything for that moment: two frames later it is back, or `sizes` tells when it is.
  const redrawSoon = () => requestAnimationFrame(() => requestAnimationFrame(redraw));
  const themes = new MutationObserver(redrawSoon);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class"] });
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  listen(scheme, "change", redrawSoon);
  cleanups.push(() => sizes.disconnect(), () => themes.disconnect());

  load().catch(complain);

  return {
    goTo: (number) => {
      if (place < 0 || index.number[view[place]] !== number) jumpTo(number);
    },
    dispose() {
      closed = true;
      playing = false;
      clearTimeout(searchTimer);
      clearTimeout(toldTimer);
      for (const cleanup of cleanups) cleanup();
      frame.remove();
    },
  };
}
