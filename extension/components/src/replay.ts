/**
 * Steps through a recorded session: what was asked, what came back, in its own time.
 *
 * The kernel keeps the data. The browser holds one small index of the session (numbers, no
 * content) and asks for slices by name: a page of the list, one command, fifty rows of a result.
 */

import type { Source } from "./channel.ts";
import { el, icon } from "./dom.ts";
import { ARROWS } from "./grid.ts";
import type { CommandFacts, ReplayAnswers, SessionFacts } from "./replay/answers.ts";
import { IDLE_LIMIT_US, locate, sceneOf } from "./replay/clock.ts";
import { emptyIndex, extend, nextNotable, nth, numberOf, settled, sliceOf, startOf, truncate } from "./replay/commands.ts";
import { commandDetail } from "./replay/detail.ts";
import { filters } from "./replay/filters.ts";
import { heading } from "./replay/heading.ts";
import { action, focusOf, HELP, type Action } from "./replay/keys.ts";
import { commandList } from "./replay/list.ts";
import { sessionTrack } from "./replay/track.ts";
import { plain } from "./text.ts";
import { count, counted, elapsed } from "./units.ts";
import { asking, keyHelp, Lifetime, notices, onAnotherLook } from "./view.ts";

const SPEEDS = [0.5, 1, 2, 4, 8, 16, 64];
const LIVE_POLL_MS = 2_000;
const INDEX_SLICE = 50_000;
const TOLD_WHILE_PLAYING_MS = 500;

const ICONS = {
  ...ARROWS,
  play: "M4 2.5v11L13 8z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  notableBack: "M8 2 1 8l7 6V9.5h1V6.5H8zM11 3h2v7h-2zM11 11.5h2v2h-2z",
  notableNext: "m8 2 7 6-7 6V9.5H7V6.5h1zM3 3h2v7H3zM3 11.5h2v2H3z",
};

export interface ReplayOptions {
  /** The command to begin with; the first one where there is no such. */
  commandNo?: number;
  speed?: number;
  /** Hears of every command that is gone to. */
  onSelect?: (commandNo: number) => void;
}

export interface ReplayView {
  goTo(commandNo: number): void;
  dispose(): void;
}

let instances = 0;

/** Draw the replay of what `source` answers about into `root`. */
export function mount(root: Element, source: Source, options: ReplayOptions = {}): ReplayView {
  const { commandNo = -1, speed = 1, onSelect = () => {} } = options;
  const prefix = `aa-replay-${(instances += 1)}`;
  const lifetime = new Lifetime();
  const lines = notices();
  const { complain } = lines;
  const ask = asking<ReplayAnswers>(source, lines);

  let session: SessionFacts | null = null;
  let index = emptyIndex(); // while it is filled, the scene has the one before
  let place = -1; // in the scene's view
  let time = 0; // playing time, microseconds
  let isPlaying = false;
  let isRunning = false; // the command at `place` has begun and not ended, in playing time
  let isHeld = false; // somebody chose a time in the command at `place`: it plays to its end, whatever begins meanwhile
  let known = -1; // events of the session when we last looked

  // -- parts

  const list = commandList({
    prefix, ask, lifetime, complain,
    onPick: (to) => {
      pause();
      goTo(to);
    },
  });
  const track = sessionTrack({ lifetime, summary: list.summary, onGrab: () => pause(), onPlace: (to) => goTo(to) });
  const detail = commandDetail({ ask, lifetime, complain, onSeek: (offset) => seek(offset) });
  const narrowed = filters({
    ask, lifetime, complain,
    onChange: () => refilter(),
    onFound: () => lines.say(`${counted(scene.view.length, "command")} shown`),
  });
  let scene = sceneOf(index, narrowed.filter, IDLE_LIMIT_US);

  const head = el("div", { class: "aa-head" });
  const button = (name: keyof typeof ICONS, label: string, key: string, what: Action) =>
    el(
      "button",
      { type: "button", class: "aa-button aa-icon", title: `${label} (${key})`, "aria-label": label, onclick: () => perform(what) },
      icon(ICONS[name]),
    );
  const playButton = button("play", "Play", "space", "toggle");
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
  const placeText = el("span", { class: "aa-place" });
  const toolbar = el(
    "div",
    { class: "aa-toolbar", role: "toolbar", "aria-label": "Playback" },
    button("first", "First command", "Home", "first"),
    button("notableBack", "Previous write, change or error", "[", "previousNotable"),
    button("previous", "Previous command", "left", "previous"),
    playButton,
    button("next", "Next command", "right", "next"),
    button("notableNext", "Next write, change or error", "]", "nextNotable"),
    button("last", "Last command", "End", "last"),
    el("span", { class: "aa-gap" }),
    speedField,
    el("label", { class: "aa-check", for: `${prefix}-idle` }, idleField, "skip idle"),
    el("span", { class: "aa-gap" }),
    clockText,
    el("span", { class: "aa-grow" }),
    placeText,
    jumpField,
    el("button", {
      type: "button", class: "aa-button aa-calm", "aria-label": "Keyboard help", title: "Keys (?)",
      onclick: () => perform("help"),
    }, "?"),
  );
  const help = keyHelp(HELP);
  const frame = el(
    "div",
    { class: "aa-view aa-frame aa-replay", role: "region", "aria-label": "Replay of a session" },
    head, lines.trouble, toolbar, track.element,
    el(
      "div", { class: "aa-body" },
      el("div", { class: "aa-side" }, narrowed.search, narrowed.chips, list.element), detail.element,
    ),
    help.element, lines.status,
  );
  root.append(frame);

  // -- the session, and what is added to it while it is live

  let isLoaded = false;
  let wanted = commandNo;
  async function load(): Promise<void> {
    const { data } = await ask("open");
    session = data.session;
    await fill(data.total);
    known = data.events;
    drawHeading();
    const from = scene.view.findIndex((position) => numberOf(index, position) === wanted);
    isLoaded = true;
    goTo(from >= 0 ? from : 0);
    if (!scene.view.length) drawDetail();
    if (session.closed_at === null) poll();
  }

  async function fill(total: number): Promise<void> {
    while (index.length < total && !lifetime.isOver) {
      const { data, buffers } = await ask("index", { offset: index.length, limit: INDEX_SLICE });
      if (!data.count) break;
      index = extend(index, sliceOf(buffers));
    }
    refilter();
  }

  let pollTimer: ReturnType<typeof setTimeout> | undefined;
  lifetime.onEnd(() => clearTimeout(pollTimer));

  function poll(): void {
    pollTimer = setTimeout(async () => {
      try {
        if (frame.isConnected && !document.hidden) await refresh();
      } catch (error) {
        complain(error);
      }
      if (!lifetime.isOver && session?.closed_at === null) poll();
    }, LIVE_POLL_MS);
  }

  async function refresh(): Promise<void> {
    const { data } = await ask("open");
    session = data.session;
    if (data.events !== known) {
      const wasAtEnd = place === scene.view.length - 1 && !isPlaying;
      const stays = settled(index);
      for (let position = stays; position < index.length; position += 1) {
        list.forget(numberOf(index, position));
        detail.forget(numberOf(index, position));
      }
      index = truncate(index, stays);
      await fill(data.total);
      known = data.events;
      const { view } = scene;
      if (wasAtEnd) goTo(view.length - 1);
      else if (place >= 0 && place < view.length && nth(view, place) >= stays && !isPlaying) drawDetail();
    }
    drawHeading();
  }

  function drawHeading(): void {
    if (!session) return;
    head.replaceChildren(...heading(session, index));
    frame.setAttribute("aria-label", `Replay of session ${session.id}`);
  }

  // -- what is looked at

  const buildScene = () => sceneOf(index, narrowed.filter, idleField.checked ? IDLE_LIMIT_US : Infinity);

  function refilter(): void {
    const current = scene.view[place] ?? -1; // positions never move
    scene = buildScene();
    const { view, clock } = scene;
    narrowed.draw(index);
    place = current < 0 ? -1 : view.indexOf(current);
    track.draw(scene);
    if (place < 0 && current >= 0 && view.length) {
      const after = view.findIndex((position) => position >= current);
      goTo(after < 0 ? view.length - 1 : after);
      return;
    }
    time = place >= 0 ? nth(clock.end, place) : 0;
    drawPlace();
    list.draw(scene, place);
  }

  lifetime.listen(idleField, "change", () => {
    scene = buildScene();
    time = place >= 0 ? nth(scene.clock.end, place) : 0;
    track.draw(scene);
    drawPlace();
  });

  // -- moving

  let toldTimer: ReturnType<typeof setTimeout> | undefined;
  lifetime.onEnd(() => clearTimeout(toldTimer));

  /** Show the command at a place: as it ended, or as it was `at` a playing time. */
  function goTo(to: number, at: number | null = null): void {
    const { view, clock } = scene;
    if (!view.length) return;
    const before = place;
    place = Math.max(0, Math.min(to, view.length - 1));
    isHeld = isHeld && place === before && at !== null;
    const end = nth(clock.end, place);
    time = at ?? end;
    isRunning = at !== null && at < end;
    drawPlace();
    list.show(scene, place);
    drawDetail();
    if (place === before) return;
    // While it plays, a state change per command would flood the kernel and the notebook.
    clearTimeout(toldTimer);
    const number = numberOf(scene.index, nth(view, place));
    toldTimer = setTimeout(() => onSelect(number), isPlaying ? TOLD_WHILE_PLAYING_MS : 0);
  }

  /** Go to a time in the command that is shown. */
  function seek(offset: number): void {
    if (place < 0) return;
    const begun = nth(scene.clock.at, place);
    const end = nth(scene.clock.end, place);
    const at = Math.min(begun + offset, end);
    isHeld = true;
    if (at < end !== isRunning) goTo(place, at);
    time = at;
    movePlayhead();
    detail.at(offset); // of a command that has not ended, the clock knows no length
  }

  function movePlayhead(): void {
    track.movePlayhead(time);
    const position = scene.view[place];
    if (position === undefined) clockText.textContent = elapsed(0);
    else {
      const begun = nth(scene.clock.at, place);
      const end = nth(scene.clock.end, place);
      clockText.textContent = elapsed(startOf(scene.index, position) + Math.min(time - begun, end - begun));
    }
  }

  function drawPlace(): void {
    movePlayhead();
    const { view } = scene;
    const all = view.length === scene.index.length ? "" : ` (of ${count(scene.index.length)})`;
    placeText.textContent = (view.length ? `${count(place + 1)} / ${count(view.length)}` : "0 / 0") + all;
    const position = view[place];
    if (position === undefined) track.tell(place, "no command");
    else {
      const number = numberOf(scene.index, position);
      const operation = list.summary(number)?.operation;
      track.tell(place, `command ${number}${operation ? `, ${plain(operation)}` : ""}`);
    }
  }

  function drawDetail(): void {
    const position = scene.view[place];
    if (position === undefined || !session) {
      detail.showNothing(scene.index.length ? "nothing matches the filter" : "no command was recorded in this session");
      return;
    }
    const offset = time - nth(scene.clock.at, place);
    void detail.show({ session, index: scene.index, position, isRunning, offset }).then((command) => {
      if (command && !isPlaying) lines.say(plain(spoken(command)));
    });
  }

  function pause(): void {
    if (!isPlaying) return;
    isPlaying = false;
    playButton.replaceChildren(icon(ICONS.play));
    playButton.setAttribute("aria-label", "Play");
    // What has a time of its own stands still there; of anything else the end is what there is to see.
    if (isRunning && !detail.isTimed) goTo(place);
  }

  function play(): void {
    if (isPlaying || !scene.view.length) return;
    if (place >= scene.view.length - 1 && time >= scene.clock.total) {
      place = 0;
      time = 0;
    }
    isPlaying = true;
    playButton.replaceChildren(icon(ICONS.pause));
    playButton.setAttribute("aria-label", "Pause");
    let before: number | null = null;
    const tick = (now: number) => {
      if (!isPlaying || lifetime.isOver) return;
      const { clock, view } = scene;
      if (before !== null) time += (now - before) * 1_000 * Number(speedField.value);
      before = now;
      if (isRunning && detail.isTimed && idleField.checked) {
        const quiet = detail.quietFrom(time - nth(clock.at, place));
        if (quiet > IDLE_LIMIT_US) time += quiet - IDLE_LIMIT_US;
      }
      if (time >= clock.total) {
        goTo(view.length - 1);
        time = clock.total;
        pause();
        return;
      }
      const to = isHeld && time < nth(clock.end, place) ? place : Math.max(0, locate(clock, time));
      if (to !== place || time < nth(clock.end, to) !== isRunning) goTo(to, time);
      else {
        movePlayhead();
        detail.at(time - nth(clock.at, place));
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  function jumpTo(number: number): void {
    if (Number.isNaN(number)) return;
    const find = () => scene.view.findIndex((position) => numberOf(scene.index, position) === number);
    let to = find();
    if (to < 0 && scene.index.number.includes(number)) {
      // It is there but filtered away: what was asked for by number wins over the filter.
      narrowed.clear();
      refilter();
      to = find();
    }
    if (to < 0) complain(new Error(`command ${number} is not in this session`));
    else {
      pause();
      lines.calm();
      goTo(to);
    }
  }

  // -- keys and buttons

  function changeSpeed(by: 1 | -1): void {
    const to = SPEEDS.indexOf(Number(speedField.value)) + by;
    speedField.value = String(SPEEDS[Math.max(0, Math.min(to, SPEEDS.length - 1))]);
  }

  function goToNotable(direction: 1 | -1): void {
    const to = nextNotable(scene.index, scene.view, place, direction);
    if (to < 0) lines.say("no further write, change or error");
    else goTo(to);
  }

  const moves: Partial<Record<Action, () => void>> = {
    next: () => goTo(place + 1),
    previous: () => goTo(place - 1),
    forward: () => goTo(place + 10),
    back: () => goTo(place - 10),
    first: () => goTo(0),
    last: () => goTo(scene.view.length - 1),
    nextNotable: () => goToNotable(1),
    previousNotable: () => goToNotable(-1),
  };
  const others: Partial<Record<Action, () => void>> = {
    toggle: () => (isPlaying ? pause() : play()),
    filter: () => narrowed.search.focus(),
    jump: () => jumpField.focus(),
    faster: () => changeSpeed(1),
    slower: () => changeSpeed(-1),
    help: () => help.toggle(),
    leave: () => {
      help.close();
      list.element.focus({ preventScroll: true });
    },
  };

  function perform(what: Action): void {
    const move = moves[what];
    if (move) {
      pause();
      move();
    } else others[what]?.();
  }

  lifetime.listen(frame, "keydown", (event) => {
    const target = event.target as Element;
    if (target === jumpField && event.key === "Enter") {
      jumpTo(Number.parseInt(jumpField.value.replace("#", ""), 10));
      jumpField.value = "";
      list.element.focus({ preventScroll: true });
    } else {
      const what = action(event, focusOf(target));
      if (!what) return;
      perform(what);
    }
    event.preventDefault();
    event.stopPropagation();
  });

  // -- life

  const redraw = () => {
    track.recolour();
    track.draw(scene);
    movePlayhead();
    list.draw(scene, place);
  };
  lifetime.onEnd(onAnotherLook([track.element, list.element], redraw));
  load().catch(complain);

  return {
    goTo: (number) => {
      wanted = number;
      if (!isLoaded) return;
      const position = scene.view[place];
      if (position === undefined || numberOf(scene.index, position) !== number) jumpTo(number);
    },
    dispose() {
      isPlaying = false;
      lifetime.end();
      frame.remove();
    },
  };
}

/** A command as a screen reader says it. */
function spoken(command: CommandFacts): string {
  const code = command.error_code ? ` ${command.error_code}` : "";
  const rows = command.rows_returned === null ? "" : `, ${counted(command.rows_returned, "row")}`;
  return `Command ${command.command_no}, ${command.operation || "unknown"}, ${command.status}${code}${rows}`;
}
