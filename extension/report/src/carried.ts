/** Files that the page carries: base64 in elements that name them, and digests of all (report/steps.py). */

import { sha256 } from "@agentaudit/components/digest.ts";

const SUMS = "SHA256SUMS";

/** Return the bytes of a carried file, once they are those that the page's list of digests names. */
export function file(page: Document, name: string): Uint8Array {
  const bytes = contentOf(page, name);
  if (digests(page).get(name) !== sha256(bytes)) throw new Error(`${name} is not the file that ${SUMS} names: it was changed`);
  return bytes;
}

/** Return what gzip has packed, or fail where that is more than `most` bytes. */
export async function unpacked(packed: Uint8Array, most: number): Promise<string> {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot unpack it; the tables below say the same");
  const reader = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")).getReader();
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.byteLength;
    if (size > most) {
      void reader.cancel();
      throw new Error(`more than ${most} bytes are packed in it`);
    }
    text += decoder.decode(value, { stream: true });
  }
}

function contentOf(page: Document, name: string): Uint8Array {
  const element = page.querySelector(`pre[data-file="${CSS.escape(name)}"]`);
  if (!element) throw new Error(`${name} is not in this page`);
  return Uint8Array.from(atob(element.textContent ?? ""), (character) => character.charCodeAt(0));
}

function digests(page: Document): Map<string, string> {
  const lines = new TextDecoder().decode(contentOf(page, SUMS)).trimEnd().split("\n");
  return new Map(lines.map((line) => [line.slice(66), line.slice(0, 64)]));
}
