import type { RenderProps } from "@anywidget/types";

import { mountExplorer, type ExplorerOptions } from "@agentaudit/components/explorer/mount.ts";
import type { Lanes } from "@agentaudit/components/explorer/timeline.ts";

import { attach } from "../model.ts";

interface Traits {
  parts: NonNullable<ExplorerOptions["parts"]>;
  lanes: Lanes;
}

function render({ model, el }: RenderProps<Traits>): () => void {
  return attach(model, (source) =>
    mountExplorer(el, source, {
      parts: model.get("parts"),
      lanes: model.get("lanes"),
      onLanes: (lanes) => {
        model.set("lanes", lanes);
        model.save_changes();
      },
    }));
}

export default { render };
