import type { RenderProps } from "@anywidget/types";

import { mountIntegrity } from "@agentaudit/components/integrity.ts";

import { attach } from "../model.ts";

function render({ model, el }: RenderProps): () => void {
  return attach(model, (source) => mountIntegrity(el, source));
}

export default { render };
