import type { RenderProps } from "@anywidget/types";

import { mount } from "@agentaudit/components/masking-preview.ts";

import { attach } from "../model.ts";

/** A large archive takes a while to be read, for each set of rules anew. */
const ANSWER_TIMEOUT_MS = 300_000;

interface Traits {
  tab: string;
}

function render({ model, el }: RenderProps<Traits>): () => void {
  let follow = () => {};
  const detach = attach(
    model,
    (source) => {
      const preview = mount(el, source, {
        tab: model.get("tab"),
        onTab: (tab: string) => {
          model.set("tab", tab);
          model.save_changes();
        },
      });
      follow = () => preview.show(model.get("tab"));
      return preview;
    },
    { timeout: ANSWER_TIMEOUT_MS },
  );
  model.on("change:tab", follow);
  return () => {
    model.off("change:tab", follow);
    detach();
  };
}

export default { render };
