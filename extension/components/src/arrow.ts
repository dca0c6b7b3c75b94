/** Arrow streams, as columns that are read by number. */

import { tableFromIPC, type Table } from "@uwdata/flechette";

/** The columns of an Arrow stream; `Columns` names what they hold. */
export type Slice<Columns> = { readonly length: number } & { readonly [Name in keyof Columns]: ArrayLike<Columns[Name]> };

/**
 * Read an Arrow IPC stream. Whole numbers of 64 bits become doubles: times in microseconds since
 * 1970 and the numbers of rows are exact in them for another 200 years.
 */
export function slice<Columns>(view: DataView | undefined): Slice<Columns> {
  if (!view || view.byteLength === 0) return { length: 0 } as Slice<Columns>;
  // Numbers of eight bytes are read in place, which wants them where eight divides their address.
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const table: Table = tableFromIPC(view.byteOffset % 8 ? bytes.slice() : bytes, { useBigInt: false });
  const columns: Record<string, unknown> = { length: table.numRows };
  for (const name of table.names) columns[name] = table.getChild(name).toArray();
  return columns as Slice<Columns>;
}
