/** A component in a notebook: anywidget's model carries its questions (anywidget.dev/en/afm). */

import type { AnyModel } from "@anywidget/types";

import { channel, type Source } from "@agentaudit/components/channel.ts";

/** Tie `draw` to a model's messages; returns what anywidget calls when the view goes. */
export function attach(
  model: AnyModel,
  draw: (source: Source) => { dispose(): void },
  options: { timeout?: number } = {},
): () => void {
  const carried = channel((message) => model.send(message), options);
  const receive = (message: unknown, buffers: DataView[]) => carried.receive(message, buffers);
  model.on("msg:custom", receive);
  const view = draw(carried);
  return () => {
    model.off("msg:custom", receive);
    carried.close();
    view.dispose();
  };
}
