// Renders a picture in Node, by onnxruntime-web or by ONNX Runtime's own library:
//   node generate.mjs BUNDLE PROMPT [--seed 1] [--guidance-scale 2] ... [--library onnxruntime-node]
import { realpathSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { Bundle } from "./bundle.mjs";
import { ensure, LDMError, messageOf } from "./errors.mjs";
import { Pipeline, pngOf } from "./ldm.mjs";

/** A bundle in a folder. */
export class FolderSource {
  constructor(folder) {
    this.place = folder;
  }

  async read(name, size, check = async () => {}) {
    const bytes = await readFile(join(this.place, name)).catch((error) => {
      if (["ENOENT", "ENOTDIR"].includes(error.code)) return null;
      throw new LDMError(`${join(this.place, name)} cannot be read: ${error.message}.`);
    });
    if (bytes) await check(bytes);
    return bytes;
  }
}

const USAGE = "node generate.mjs BUNDLE PROMPT";
const NUMBERS = ["height", "width", "num_inference_steps", "guidance_scale", "eta", "seed"];
const TEXTS = ["negative_prompt", "solver"];
/** The packages of ONNX Runtime that can be asked for, and what each runs on. */
const PROVIDERS = { "onnxruntime-web": "wasm", "onnxruntime-node": "cpu" };
const GUIDANCE = 6; // as of `ldm-engine generate`
const optionOf = (setting) => setting.replaceAll("_", "-");
const OPTIONS = [...[...NUMBERS, ...TEXTS].map(optionOf), "library", "output"];

function readArguments() {
  const text = Object.fromEntries(OPTIONS.map((name) => [name, { type: "string" }]));
  const options = { ...text, help: { type: "boolean", short: "h" } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (values.help) return null;
  const { library = "onnxruntime-web", output } = values;
  ensure(positionals.length === 2, `${positionals.length} arguments are given: ${USAGE}`);
  const libraries = Object.keys(PROVIDERS).join(" or ");
  ensure(library in PROVIDERS, `--library is ${library}; ${libraries} is accepted.`);
  const settings = { guidance_scale: GUIDANCE, prompt: positionals[1] };
  for (const name of NUMBERS) {
    const given = values[optionOf(name)];
    if (given !== undefined) settings[name] = given === "auto" ? given : numberOf(name, given);
  }
  for (const name of TEXTS) if (optionOf(name) in values) settings[name] = values[optionOf(name)];
  return { folder: positionals[0], settings, library, output };
}

function numberOf(name, text) {
  const isNumber = /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text);
  ensure(isNumber, `--${optionOf(name)} is ${JSON.stringify(text)}; a number is accepted.`);
  return Number(text);
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
  const given = readArguments();
  if (!given)
    return console.log(`${USAGE}, with any of ${OPTIONS.map((name) => `--${name}`).join(", ")}`);
  const { folder, settings, library, output } = given;
  const ort = await load(library);
  ort.env.wasm.numThreads = availableParallelism();
  const bundle = await Bundle.open(new FolderSource(folder));
  const pipe = await Pipeline.open(ort, bundle, { provider: PROVIDERS[library] });
  const start = performance.now();
  const onStep = (done, steps) => process.stderr.write(`\r${done}/${steps} `);
  const image = await pipe.generate(settings, { onStep });
  const path = output ?? `picture-${image.recipe.seed}.png`;
  await writeFile(path, await pngOf(image)).catch((error) => {
    throw new LDMError(`${path} cannot be written: ${error.message}.`);
  });
  console.error(`${((performance.now() - start) / 1000).toFixed(2)} s without opening`);
  console.log(path);
  if (image.isFlat) console.error("It has a single colour: give another seed or guidance.");
  if (image.cut) console.error(`This end of a text has no effect: ${image.cut.slice(0, 200)}`);
}

if (realpathSync(process.argv[1] ?? ".") === fileURLToPath(import.meta.url)) {
  process.exitCode = await main().then(
    () => 0,
    (error) => {
      const isUsage = error.code?.startsWith("ERR_PARSE_ARGS");
      console.error(`Error: ${isUsage ? error.message : messageOf(error)}`);
      return isUsage ? 2 : 1;
    },
  );
  process.exit(); // onnxruntime-web's threads would stay
}
