/** Answers over HTTP: a head in JSON and buffers behind it (src/agentaudit/jupyter/framing.py). */

const MAGIC = 0x31514141; // "AAQ1", little-endian

export interface Framed {
  answer: unknown;
  buffers: DataView[];
}

/** Take an answer out of its body; its buffers stay where they lie, each at a multiple of 8. */
export function unframe(body: ArrayBuffer): Framed {
  const view = new DataView(body);
  if (body.byteLength < 8 || view.getUint32(0, true) !== MAGIC) throw new Error("the answer is none of ours");
  const end = 8 + view.getUint32(4, true);
  if (end > body.byteLength) throw new Error("the answer is cut");
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 8, end - 8))) as {
    answer: unknown;
    buffers: number[];
  };
  let place = end;
  const buffers = head.buffers.map((length) => {
    place = Math.ceil(place / 8) * 8;
    if (place + length > body.byteLength) throw new Error("the answer is cut");
    const buffer = new DataView(body, place, length);
    place += length;
    return buffer;
  });
  return { answer: head.answer, buffers };
}
