// Renders a picture in Node, by onnxruntime-web or by ONNX Runtime's own library:
//   node generate.mjs BUNDLE PROMPT [--seed 1] [--guidance-scale 2] ... [--library onnxruntime-node]
import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { Bundle, LDMError } from "./bundle.mjs";
import { Pipeline, pngOf } from "./ldm.mjs";

/** A bundle in a folder. */
export class FolderSource {
  constructor(folder) {
    this.place = folder;
  }

  async read(name, size, check = async () => {}) {
    const bytes = await readFile(join(this.place, name)).catch((error) => {
      if (error.code === "ENOENT") return null;
      throw error;
    });
    if (bytes) await check(bytes);
    return bytes;
  }
}

const NUMBERS = ["height", "width", "num_inference_steps", "guidance_scale", "eta", "seed"];
const TEXTS = ["negative_prompt", "solver"];
/** The packages of ONNX Runtime that can be asked for, and what each runs on. */
const PROVIDERS = { "onnxruntime-web": "wasm", "onnxruntime-node": "cpu" };
const optionOf = (setting) => setting.replaceAll("_", "-");

function readArguments() {
  const names = [...NUMBERS, ...TEXTS, "library", "output"].map((name) => [
    optionOf(name),
    { type: "string" },
  ]);
  const { values, positionals } = parseArgs({
    options: Object.fromEntries(names),
    allowPositionals: true,
  });
  const { library = "onnxruntime-web", output } = values;
  if (positionals.length !== 2)
    throw new LDMError(
      `${positionals.length} arguments are given; a bundle's folder and a prompt are accepted.`,
    );
  if (!(library in PROVIDERS))
    throw new LDMError(
      `--library is ${library}; ${Object.keys(PROVIDERS).join(" or ")} is accepted.`,
    );
  const settings = { prompt: positionals[1] };
  for (const name of [...NUMBERS, ...TEXTS]) {
    const text = values[optionOf(name)];
    if (text !== undefined)
      settings[name] = TEXTS.includes(name) || text === "auto" ? text : Number(text);
  }
  return { folder: positionals[0], settings, library, output };
}

async function load(library) {
  const found = await import(library).catch(() => {
    throw new LDMError(
      `The package ${library} is not installed. Run npm ci --ignore-scripts beside this file, or for onnxruntime-node npm install --ignore-scripts --no-save onnxruntime-node.`,
    );
  });
  return found.default?.InferenceSession ? found.default : found;
}

async function main() {
  const { folder, settings, library, output } = readArguments();
  const ort = await load(library);
  ort.env.wasm.numThreads = availableParallelism();
  const pipe = await Pipeline.open(ort, await Bundle.open(new FolderSource(folder)), {
    provider: PROVIDERS[library],
  });
  const start = performance.now();
  const onStep = (done, steps) => process.stderr.write(`\r${done}/${steps} `);
  const image = await pipe.generate(settings, { onStep });
  const path = output ?? `picture-${image.recipe.seed}.png`;
  await writeFile(path, await pngOf(image));
  console.error(`${((performance.now() - start) / 1000).toFixed(2)} s without opening`);
  console.log(path);
  if (image.isFlat)
    console.error("The picture has a single colour: give another seed or guidance.");
  if (image.cut) console.error(`This end of a text was cut off and has no effect: ${image.cut}`);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await main().catch((error) => {
    if (!(error instanceof LDMError) && !error.code?.startsWith("ERR_PARSE_ARGS")) throw error;
    console.error(`Error: ${error.message}`);
    process.exitCode = error instanceof LDMError ? 1 : 2;
  });
  process.exit(); // onnxruntime-web's threads would stay
}
