// Renders with a bundle's ONNX programs in Node, by ONNX Runtime's own library, without Python.
//
//   npm install --ignore-scripts onnxruntime-node@1.30
//   node examples/edge/node_render.mjs BUNDLE PROMPT OUT.png [STEPS] [GUIDANCE] [SEED]
//
// `--ignore-scripts`: the package holds the library for CPUs; its script fetches that for GPUs.
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

import { Bundle } from "../browser/bundle.mjs";
import { Pipeline, pngOf } from "../browser/ldm.mjs";

const [place, prompt, output, steps = "50", guidance = "2", seed = "0"] = process.argv.slice(2);
const ort = createRequire(resolve("package.json"))("onnxruntime-node"); // of the current folder

async function read(name, _size, check = () => {}) {
  const bytes = await readFile(join(place, name)).catch((error) => {
    if (error.code !== "ENOENT") throw error;
    return null;
  });
  if (bytes) await check(bytes);
  return bytes && new Uint8Array(bytes);
}

const bundle = await Bundle.open({ place, read });
const pipe = await Pipeline.open(ort, bundle, { provider: "cpu" });
const start = performance.now();
const image = await pipe.generate({
  prompt, num_inference_steps: Number(steps), guidance_scale: Number(guidance), seed: Number(seed),
});
console.log(`${output}: ${((performance.now() - start) / 1000).toFixed(2)} s without opening`);
await writeFile(output, await pngOf(image));
await pipe.close();
