import type { RenderProps } from "@anywidget/types";

import { mountExplorer, type ExplorerOptions } from "@agentaudit/components/explorer/mount.ts";
import type { Lanes } from "@agentaudit/components/explorer/timeline.ts";

import { attach } from "../model.ts";

interface Traits {
  parts: NonNullable<ExplorerOptions["parts"]>;
  lanes: Lanes;
}

function render({ model, el }: RenderProps<Traits>): () => void {
  let follow = () => {};
  const followLanes = () => follow();
  const detach = attach(model, (source) => {
    const explorer = mountExplorer(el, source, {
      parts: model.get("parts"),
      lanes: model.get("lanes"),
      onLanes: (lanes) => {
        model.set("lanes", lanes);
        model.save_changes();
      },
    });
    follow = () => explorer.layOut(model.get("lanes"));
    return explorer;
  });
  model.on("change:lanes", followLanes);
  return () => {
    model.off("change:lanes", followLanes);
    detach();
  };
}

export default { render };
