/**
 * Plays sessions in an evidence report: the replay of the widgets, over what the page carries.
 *
 * The report is whole without it. Where it may run, each session that the page has a replay of gets
 * a button; nothing is unpacked before it is pressed.
 */

import { embedded, VERSION, type Replay } from "@agentaudit/components/embedded.ts";
import { el, icon, shown } from "@agentaudit/components/dom.ts";
import { mount } from "@agentaudit/components/replay.ts";
import { messageOf } from "@agentaudit/components/view.ts";

import { file, unpacked } from "./carried.ts";

// agentaudit.analysis.report.replays.MAX_UNPACKED_BYTES
const MAX_UNPACKED_BYTES = 16 * 1024 * 1024;

const PLAY = "M4 2.5v11L13 8z";
const CLOSE = "M3.5 4.6 4.6 3.5 8 6.9l3.4-3.4 1.1 1.1L9.1 8l3.4 3.4-1.1 1.1L8 9.1l-3.4 3.4-1.1-1.1L6.9 8z";

async function replayOf(name: string): Promise<Replay> {
  const replay = JSON.parse(await unpacked(file(document, name), MAX_UNPACKED_BYTES)) as Replay;
  if (replay.v !== VERSION) throw new Error(`a replay of version ${replay.v}, and this page plays version ${VERSION}`);
  return replay;
}

function offer(player: HTMLElement): void {
  const { replay: name = "", number = "" } = player.dataset;
  const stage = el("div", { id: `player-${number}`, hidden: true });
  const trouble = el("p", { class: "error", role: "alert", hidden: true });
  const label = (isOpen: boolean) =>
    [icon(isOpen ? CLOSE : PLAY), isOpen ? "Close the replay" : `Replay session ${number}`] as const;
  const button = el(
    "button",
    { type: "button", "aria-expanded": "false", "aria-controls": stage.id, onclick: () => void turn() },
    ...label(false),
  );
  let close: (() => void) | null = null;
  let isOpening = false;

  function say(isOpen: boolean): void {
    button.replaceChildren(...label(isOpen));
    button.setAttribute("aria-expanded", String(isOpen));
    stage.hidden = !isOpen;
  }

  async function turn(): Promise<void> {
    if (close) {
      close();
      close = null;
      say(false);
      return;
    }
    if (isOpening) return;
    isOpening = true;
    trouble.hidden = true;
    try {
      const replay = await replayOf(name);
      say(true);
      const view = mount(stage, embedded(replay));
      close = () => view.dispose();
      stage.querySelector<HTMLElement>('[role="listbox"]')?.focus({ preventScroll: true });
    } catch (error) {
      trouble.replaceChildren("This replay cannot be shown: ", ...shown(messageOf(error)));
      trouble.hidden = false;
    } finally {
      isOpening = false;
    }
  }

  player.append(button, trouble, stage);
  player.hidden = false;
}

for (const player of document.querySelectorAll<HTMLElement>("[data-replay]")) offer(player);
