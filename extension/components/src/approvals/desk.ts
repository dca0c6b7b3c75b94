/** Requests in a notebook: looked for by itself, and behind a request the session it waits in. */

import { Closed, partOf, type Source } from "../channel.ts";
import { mount, type Approvals } from "../approvals.ts";
import { el, shown } from "../dom.ts";
import { mount as mountReplay, type ReplayView } from "../replay.ts";
import { messageOf } from "../view.ts";

const EVERY_S = 2;

interface Opened {
  decides: boolean;
  sessions: boolean;
}

/** Draw what waits at `source`, which also answers `open`, `session` and `replay`, into `root`. */
export function mountDesk(root: HTMLElement, source: Source): { dispose(): void } {
  let closed = false;
  let approvals: Approvals | null = null;
  let replay: ReplayView | null = null;
  const trouble = el("div", { class: "aa-trouble", role: "alert", hidden: true });
  const requests = el("div", { class: "aa-desk-requests" });
  const back = el("button", { type: "button", class: "aa-button", onclick: leave }, "← requests");
  const player = el("div", {});
  const session = el(
    "section",
    { class: "aa-desk-session", "aria-label": "The session of a request", hidden: true },
    el("div", { class: "aa-desk-back" }, back, el("span", { class: "aa-quiet" }, "What it did before; what waits is not in its record yet.")), player,
  );
  const frame = el("div", { class: "aa-view aa-desk" }, trouble, requests, session);
  let from: HTMLElement | null = null;
  root.append(frame);
  // While capturing: a replay has a meaning of its own for Escape, once there is nothing to close in it.
  session.addEventListener("keydown", (event) => {
    const isTyping = (event.target as HTMLElement).matches("input:not([type=checkbox]), select, textarea");
    const help = session.querySelector<HTMLElement>(".aa-help");
    if (event.key !== "Escape" || isTyping || (help && !help.hidden)) return;
    event.preventDefault();
    event.stopPropagation();
    leave();
  }, true);

  function complain(error: unknown): void {
    if (closed || error instanceof Closed) return;
    const { hint } = error as { hint?: string };
    trouble.replaceChildren(...shown(messageOf(error)), ...(hint ? [el("div", { class: "aa-hint" }, ...shown(hint))] : []));
    trouble.hidden = false;
  }

  async function open(id: string, command: number): Promise<void> {
    const focused = (frame.getRootNode() as Document | ShadowRoot).activeElement as HTMLElement | null;
    try {
      const { data } = await source.request<{ session: string; command: number }>("session", { session: id, command });
      if (closed) return;
      trouble.hidden = true;
      from = focused;
      replay?.dispose();
      replay = mountReplay(player, partOf(source, "replay", { session: data.session }), { commandNo: data.command });
      requests.hidden = true;
      session.hidden = false;
      back.focus({ preventScroll: true });
    } catch (error) {
      complain(error);
    }
  }

  function leave(): void {
    replay?.dispose();
    replay = null;
    session.hidden = true;
    requests.hidden = false;
    if (from?.isConnected) from.focus({ preventScroll: true });
  }

  source.request<Opened>("open").then(({ data }) => {
    if (closed) return;
    approvals = mount(requests, source, {
      mayDecide: data.decides,
      everySeconds: EVERY_S,
      ...(data.sessions ? { onOpen: (id: string, command: number) => void open(id, command) } : {}),
    });
  }, complain);

  return {
    dispose() {
      closed = true;
      replay?.dispose();
      approvals?.dispose();
      frame.remove();
    },
  };
}
