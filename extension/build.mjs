// Bundles what the Python package carries: an ES module and a style sheet a widget, and the script
// and the style sheet that play sessions in an evidence report.
//
//     node build.mjs [--watch]
//
// A bundle holds all that it needs, and asks the network for nothing.

import { readdirSync } from "node:fs";
import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { context, build } from "esbuild";

const MAX_BYTES = 200 * 1024;
const path = (name) => new URL(name, import.meta.url).pathname;

const entries = (folder, suffix) =>
  readdirSync(new URL(folder, import.meta.url))
    .filter((name) => name.endsWith(suffix) && !name.startsWith("_"))
    .map((name) => join(path(folder), name));

const common = {
  entryNames: "[name]",
  bundle: true,
  minify: true,
  target: "es2022",
  legalComments: "inline",
  metafile: true,
  logLevel: "warning",
};
const bundles = [
  {
    ...common,
    entryPoints: [...entries("widgets/src/entry/", ".ts"), ...entries("components/style/", ".css")],
    outdir: path("../src/agentaudit/widgets/static/"),
    format: "esm",
    charset: "utf8",
  },
  {
    ...common,
    entryPoints: [path("report/src/player.ts"), path("report/style/player.css")],
    outdir: path("../src/agentaudit/analysis/report/static/"),
    // It stands in the page itself, where nothing can be imported.
    format: "iife",
    charset: "ascii",
  },
];

for (const options of bundles) {
  if (process.argv.includes("--watch")) {
    await (await context(options)).watch();
    continue;
  }
  const { metafile } = await build(options);
  for (const made of Object.keys(metafile.outputs)) {
    const { size } = await stat(made);
    if (size > MAX_BYTES) throw new Error(`${basename(made)}: ${size} bytes, at most ${MAX_BYTES} expected`);
  }
}
