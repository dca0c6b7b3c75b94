import type { RenderProps } from "@anywidget/types";

import { mountDesk } from "@agentaudit/components/approvals/desk.ts";

import { attach } from "../model.ts";

function render({ model, el }: RenderProps): () => void {
  return attach(model, (source) => mountDesk(el, source));
}

export default { render };
