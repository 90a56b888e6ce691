// `ldm-engine generate` in Node, as small as can be: node generate.mjs BUNDLE PROMPT [--seed 1 ...]
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

async function main() {
  const option = (name) => [name.replaceAll("_", "-"), { type: "string" }];
  const options = Object.fromEntries([...NUMBERS, ...TEXTS, "output"].map(option));
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 2) throw new LDMError(`${positionals.length} arguments are given; a bundle's folder and a prompt are accepted.`);
  const given = (names, read) => names.filter((name) => option(name)[0] in values).map((name) => [name, read(values[option(name)[0]])]);
  const number = (text) => (text === "auto" ? text : Number(text));
  const settings = Object.fromEntries([...given(NUMBERS, number), ...given(TEXTS, String)]);
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = availableParallelism();
  const pipe = await Pipeline.open(ort, await Bundle.open(new FolderSource(positionals[0])));
  const onStep = (done, steps) => process.stderr.write(`\r${done}/${steps}`);
  const image = await pipe.generate({ ...settings, prompt: positionals[1] }, { onStep });
  const path = values.output ?? `picture-${image.recipe.seed}.png`;
  await writeFile(path, await pngOf(image));
  console.log(`\r${path}`);
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
