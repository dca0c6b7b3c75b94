/** The track of a session: every command on its clock, and the playhead, by pointer. */

import { fitted, palette } from "../canvas.ts";
import { el, shown } from "../dom.ts";
import { duration, elapsed } from "../units.ts";
import type { Lifetime } from "../view.ts";
import type { Summary } from "./answers.ts";
import { bars, IDLE_LIMIT_US, locate, type Scene } from "./clock.ts";
import { CLASSES, classOf, nth, numberOf, startOf } from "./commands.ts";

const ABOVE_PX = 11;
const BELOW_PX = 13;
const TIP_PX = 190;
/** What only reads, or only sets the session up, is drawn less tall. */
const LOW = 0.55;

export interface Track {
  readonly element: HTMLElement;
  draw(scene: Scene): void;
  movePlayhead(time: number): void;
  /** Say where it is, in the attributes of a slider. */
  tell(place: number, words: string): void;
  /** Read the colours again at the next drawing: the theme is another. */
  recolour(): void;
}

export function sessionTrack(options: {
  lifetime: Lifetime;
  summary: (number: number) => Summary | undefined;
  onGrab: () => void;
  onPlace: (place: number) => void;
}): Track {
  const { lifetime } = options;
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
  let scene: Scene | null = null;
  let colours: ((name: string) => string) | null = null;
  let isDragging = false;

  function draw(): void {
    const width = track.clientWidth;
    const height = track.clientHeight;
    if (!scene || !width || !height) return;
    const pen = fitted(canvas, width, height);
    if (!pen) return;
    const { index, view, clock, spans } = scene;
    const colour = (colours ??= palette(track, [...CLASSES, "bad", "good", "quiet", "line", "faint"]));
    const scale = clock.total > 0 ? (width - 3) / clock.total : 0;
    const room = height - ABOVE_PX - BELOW_PX;

    // Idle time that was left out: a pale band where it was, with its length where there is room.
    pen.font = getComputedStyle(tip).font;
    pen.textAlign = "center";
    for (const [place, idle] of clock.idle.entries()) {
      if (idle <= 0) continue;
      const wide = Math.max(2, IDLE_LIMIT_US * scale);
      const x = nth(clock.at, place) * scale - wide;
      pen.fillStyle = colour("faint");
      pen.fillRect(x, ABOVE_PX, wide, room);
      const label = `idle ${duration(idle + IDLE_LIMIT_US)}`;
      if (pen.measureText(label).width + 8 < wide) {
        pen.fillStyle = colour("quiet");
        pen.fillText(label, x + wide / 2, height / 2 + 2);
      }
    }
    pen.fillStyle = colour("line");
    pen.fillRect(0, height - 12, width, 1);
    for (const bar of bars(index, view, clock, width)) {
      pen.fillStyle = colour(bar.cls);
      const tall = bar.cls === "read" || bar.cls === "session" ? LOW : 1;
      pen.fillRect(bar.x, ABOVE_PX + room * (1 - tall), bar.width, room * tall);
      if (bar.trouble) {
        pen.fillStyle = colour("bad");
        pen.beginPath();
        pen.moveTo(bar.x - 3, 2);
        pen.lineTo(bar.x + 5, 2);
        pen.lineTo(bar.x + 1, 9);
        pen.fill();
      }
    }
    pen.lineWidth = 2;
    for (const span of spans) {
      pen.strokeStyle = colour(span.fate === "committed" ? "good" : span.fate === "open" ? "quiet" : "bad");
      const from = nth(clock.at, span.from) * scale + 1;
      const to = Math.max(nth(clock.end, span.to) * scale, from + 3);
      pen.beginPath();
      pen.moveTo(from, height - 9);
      pen.lineTo(from, height - 5);
      pen.lineTo(to, height - 5);
      pen.lineTo(to, height - 9);
      pen.stroke();
    }
  }

  /** The place nearest to where the pointer is, -1 where there is none. */
  function placeAt(clientX: number): number {
    if (!scene) return -1;
    const { clock, view } = scene;
    const box = track.getBoundingClientRect();
    const at = ((clientX - box.left) / Math.max(1, box.width - 3)) * clock.total;
    const before = locate(clock, at);
    if (before < 0) return view.length ? 0 : -1;
    const after = Math.min(before + 1, view.length - 1);
    return nth(clock.at, after) - at < at - nth(clock.end, before) ? after : before;
  }

  function showTip(place: number, clientX: number): void {
    if (!scene) return;
    const { index, view, clock } = scene;
    const position = nth(view, place);
    const number = numberOf(index, position);
    const idle = nth(clock.idle, place);
    const operation = options.summary(number)?.operation || classOf(index, position);
    tip.replaceChildren(
      el("b", {}, ...shown(`#${number} ${operation}`)),
      ` ${elapsed(startOf(index, position))}`,
      idle > 0 ? el("div", {}, `after ${duration(idle + IDLE_LIMIT_US)} idle`) : "",
    );
    tip.hidden = false;
    const box = track.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(clientX - box.left, box.width - TIP_PX))}px`;
  }

  lifetime.listen(track, "pointerdown", (event) => {
    isDragging = true;
    track.setPointerCapture(event.pointerId);
    options.onGrab();
    options.onPlace(placeAt(event.clientX));
  });
  lifetime.listen(track, "pointermove", (event) => {
    const place = placeAt(event.clientX);
    if (place < 0) return;
    if (isDragging) options.onPlace(place);
    showTip(place, event.clientX);
  });
  const release = () => {
    isDragging = false;
  };
  lifetime.listen(track, "pointerup", release);
  lifetime.listen(track, "pointercancel", release);
  lifetime.listen(track, "pointerleave", () => {
    tip.hidden = true;
  });

  return {
    element: track,
    draw(now) {
      scene = now;
      draw();
    },
    movePlayhead(time) {
      const total = scene?.clock.total ?? 0;
      const x = total > 0 ? (time / total) * (track.clientWidth - 3) : 0;
      playhead.style.transform = `translateX(${Math.max(0, Math.min(x, track.clientWidth - 2))}px)`;
    },
    tell(place, words) {
      track.setAttribute("aria-valuemax", String(Math.max(1, scene?.view.length ?? 0)));
      track.setAttribute("aria-valuenow", String(place + 1));
      track.setAttribute("aria-valuetext", words);
    },
    recolour() {
      colours = null;
    },
  };
}
