// Bundles the plugin's own modules and its style, then makes the prebuilt extension of them.
//
//     node build.mjs
//
// TypeScript is checked by tsc (`npm run check`) and written by esbuild, because modules name each
// other as they are called, with `.ts`. What JupyterLab shares stays outside.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { copyFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));

rmSync(join(here, "lib"), { recursive: true, force: true });
await build({
  absWorkingDir: here,
  entryPoints: { index: "src/index.ts" },
  outdir: "lib",
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  external: ["@jupyterlab/*", "@lumino/*"],
  logLevel: "warning",
});
await build({
  absWorkingDir: here,
  entryPoints: { index: "style/index.css" },
  outdir: "lib",
  bundle: true,
  charset: "utf8",
  logLevel: "warning",
});

// Names of files hold hashes of what is in them: old ones would stay for ever.
rmSync(join(here, "../../src/agentaudit/labextension"), { recursive: true, force: true });
// This is what `jupyter-builder build` runs; so no package of Python is needed for it.
const resolve = createRequire(import.meta.url).resolve;
const builder = join(dirname(resolve("@jupyter/builder/package.json")), "lib/build-labextension.js");
const core = resolve("@jupyterlab/core-meta/core.package.json");
try {
  execFileSync(process.execPath, [builder, "--core-package-file", core, here], { cwd: here, stdio: "pipe" });
} catch (error) {
  process.stderr.write(`${error.stdout}${error.stderr}`);
  process.exit(1);
}
copyFileSync(join(here, "install.json"), join(here, "../../src/agentaudit/labextension/install.json"));
