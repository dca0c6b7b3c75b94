// Bundles what the Python package carries: an ES module and a style sheet a widget.
//
//     node build.mjs [--watch]
//
// A bundle holds all that it needs, and asks the network for nothing.

import { readdirSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { context, build } from "esbuild";

const MAX_BYTES = 200 * 1024;
const OUT = new URL("../src/agentaudit/widgets/static/", import.meta.url).pathname;

const entries = (folder, suffix) =>
  readdirSync(new URL(folder, import.meta.url))
    .filter((name) => name.endsWith(suffix) && !name.startsWith("_"))
    .map((name) => join(new URL(folder, import.meta.url).pathname, name));

const options = {
  entryPoints: [...entries("widgets/src/entry/", ".ts"), ...entries("components/style/", ".css")],
  outdir: OUT,
  entryNames: "[name]",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "inline",
  metafile: true,
  logLevel: "warning",
};

if (process.argv.includes("--watch")) await (await context(options)).watch();
else {
  const { metafile } = await build(options);
  for (const path of Object.keys(metafile.outputs)) {
    const { size } = await stat(path);
    if (size > MAX_BYTES) throw new Error(`${basename(path)}: ${size} bytes, at most ${MAX_BYTES} expected`);
  }
}
