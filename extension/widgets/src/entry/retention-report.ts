import type { RenderProps } from "@anywidget/types";

import { mountRetentionReport } from "@agentaudit/components/retention-report.ts";

import { attach } from "../model.ts";

/** A large archive takes a while to be looked through. */
const ANSWER_TIMEOUT_MS = 300_000;

function render({ model, el }: RenderProps): () => void {
  return attach(model, (source) => mountRetentionReport(el, source), { timeout: ANSWER_TIMEOUT_MS });
}

export default { render };
