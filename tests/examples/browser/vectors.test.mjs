// The browser's engine held to the vectors that hold Python and C++: node --test.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Bundle, sha256 } from "../../../examples/browser/bundle.mjs";
import { LDMError, messageOf } from "../../../examples/browser/errors.mjs";
import { Tables, fittedRows, tableDigest } from "../../../examples/browser/fitted.mjs";
import { Pipeline, denoise } from "../../../examples/browser/ldm.mjs";
import { NoiseStream } from "../../../examples/browser/noise.mjs";
import { NoiseSchedule } from "../../../examples/browser/schedule.mjs";
import { Tokenizer } from "../../../examples/browser/tokenizer.mjs";

const DATA = new URL("../../data/", import.meta.url);
const read = (name) => readFileSync(new URL(name, DATA), "utf8");
const vectors = (name) => JSON.parse(read(name));
const encode = (text) => new TextEncoder().encode(text);

/** `base` with one value set or removed, as the vectors say. */
function changed(base, { path, value, remove }) {
  const copy = structuredClone(base);
  if (!path?.length) return copy;
  const last = path.at(-1);
  const owner = path.slice(0, -1).reduce((object, key) => object[key], copy);
  if (remove) delete owner[last];
  else owner[last] = value;
  return copy;
}

/** The text of a JSON file with its own sha256. */
async function sealed(content, key) {
  const zeros = "0".repeat(64);
  const text = JSON.stringify({ ...content, [key]: zeros }, null, 2) + "\n";
  return text.replace(`"${key}": "${zeros}"`, `"${key}": "${await sha256(text)}"`);
}

/** Rows as the loop applies them: numbers become float32. */
const asApplied = (rows) =>
  rows.map(({ timestep, p, q, a, b, s }) => [timestep, ...[p, q, a, ...b, s].map(Math.fround)]);

test("noise, as float32", () => {
  for (const { seed, draws } of vectors("noise.json")) {
    const stream = new NoiseStream(seed);
    for (const { first, last } of draws) {
      const values = stream.fill(new Float32Array(4 * 8 * 8));
      assert.deepEqual([...values.slice(0, first.length)], first.map(Math.fround));
      assert.deepEqual([...values.slice(-last.length)], last.map(Math.fround));
    }
  }
});

for (const vector of vectors("solvers.json")) {
  const { config, solver, eta, timesteps, num_inference_steps: steps, rows } = vector;
  test(`rows of ${solver}, ${vector.file}, eta ${eta}, ${timesteps.length} timesteps, ${steps} steps`, () => {
    const schedule = new NoiseSchedule(config);
    const given = timesteps.length ? timesteps : undefined;
    const found =
      solver === "ddim"
        ? schedule.ddimRows(steps, eta, given)
        : schedule.dpmsolverRows(steps, given);
    // Of long schedules the vectors hold the first and the last five rows.
    const kept =
      steps > 50 && rows.length === 10 ? [...found.slice(0, 5), ...found.slice(-5)] : found;
    assert.deepEqual(asApplied(kept), asApplied(rows));
  });
}

test("scheduler configs", () => {
  const { config, cases } = vectors("scheduler_configs.json");
  for (const { set, named } of cases) {
    const make = () => new NoiseSchedule({ ...config, ...set });
    const isSame = Object.entries(set).some(([key, value]) => value === config[key]);
    if (named === null || isSame)
      make(); // 1000.0, which is a whole number here
    else
      assert.throws(
        make,
        (error) =>
          error instanceof LDMError && named.every((name) => error.message.includes(`\`${name}\``)),
        JSON.stringify(set),
      );
  }
});

const TOKENS = vectors("tokenizer.json");
const VOCABULARY = read("wordpiece_vocab.txt");
const tokenizerOf = async (section, vocabSize) => {
  const manifest = await openManifest(
    withOnnx({ ...vectors("manifests.json").base, tokenizer: section }),
  );
  return new Tokenizer(
    VOCABULARY,
    { token_length: TOKENS.token_length, vocab_size: vocabSize },
    manifest.tokenizer,
  );
};

function assertIds(tokenizer, text, ids, cutBytes = 0) {
  const found = tokenizer.encode(text);
  const padded = Array.from({ length: TOKENS.token_length }, (_, i) => BigInt(ids[i] ?? 0));
  assert.deepEqual([...found.ids], padded, JSON.stringify(text));
  assert.equal(encode(found.cut).length, cutBytes, JSON.stringify(text));
}

for (const kind of ["uncased", "cased"]) {
  test(`tokens, ${kind}`, async () => {
    const tokenizer = await tokenizerOf(
      { kind: "wordpiece", lowercase: kind === "uncased" },
      TOKENS.vocab_size,
    );
    for (const entry of TOKENS.texts)
      assertIds(tokenizer, entry.text, entry[kind], entry[`${kind}_cut_bytes`]);
  });
}

for (const { tokenizer: section, texts } of TOKENS.options) {
  test(`tokens by ${JSON.stringify(section).slice(0, 80)}`, async () => {
    const tokenizer = await tokenizerOf(section, 2 ** 20);
    for (const { text, ids, cut_bytes } of texts) assertIds(tokenizer, text, ids, cut_bytes);
  });
}

/** A bundle of which there is only a manifest, given as an object or as text. */
async function openManifest(content) {
  const text = typeof content === "string" ? content : await sealed(content, "manifest_sha256");
  return Bundle.open({ place: "here", read: async () => encode(text) });
}

/** The formats of `base`, which has OpenVINO's, as ONNX files. */
function withOnnx(manifest) {
  const text = JSON.stringify(manifest)
    .replaceAll("openvino_model.xml", "model.onnx")
    .replaceAll("openvino_model.bin", "model.onnx.data");
  return JSON.parse(text.replaceAll('"openvino":{"files"', '"onnx":{"files"'));
}

const MANIFESTS = vectors("manifests.json");
const refused = (error) => error instanceof LDMError;
/** Whether a case changes a number only as Python sees it: 2.0 is the whole number 2 here. */
const isSame = (vector, base) =>
  vector.path?.length > 0 && JSON.stringify(changed(base, vector)) === JSON.stringify(base);

/** What only Python and C++ read: other files and runtimes than ONNX's, and another way to write a path. */
const OF_OTHERS =
  /versions|reference\.json|files\.(\.\.|xxx)|name of 255|openvino|tensorrt|formats|vae_encoder/;

test("manifests", async () => {
  const read = MANIFESTS.cases.filter(
    ({ name = "", path }) => !OF_OTHERS.test(name) && path?.[1] !== "openvino",
  );
  assert.ok(read.length > 150);
  for (const vector of read) {
    const { base = "base", error, text, repeat, seal = true } = vector;
    let content = text ?? repeat?.repeat(10000);
    if (content === undefined) {
      const manifest = withOnnx(changed(MANIFESTS[base], vector));
      content = seal ? manifest : JSON.stringify(manifest, null, 2);
    }
    if (error === null || (seal && isSame(vector, MANIFESTS[base]))) {
      await openManifest(content);
    } else await assert.rejects(openManifest(content), refused, vector.name);
  }
});

const SOLVERS = vectors("solvers_files.json");
const SCHEDULE = new NoiseSchedule(SOLVERS.scheduler);

async function tablesOf(content, seal = true) {
  const text = seal ? await sealed(content, "solvers_sha256") : JSON.stringify(content, null, 2);
  return Tables.of(async () => encode(text), SOLVERS.bundle, SCHEDULE);
}

test("solvers.json", async () => {
  const { base, digests, mixed, rows, cases } = SOLVERS;
  const isRead = ({ path }) => !["origin", "dpmsolver", "reference_db"].includes(path[2]);
  const read = cases.filter(isRead); // the rest is for people
  assert.ok(read.length > 65);
  for (const vector of read) {
    const { fault } = await tablesOf(changed(base, vector), vector.seal);
    const isGood = vector.says === null || (vector.seal !== false && isSame(vector, base));
    assert.equal(fault === "", isGood, JSON.stringify(vector).slice(0, 200));
  }
  const tables = await tablesOf(base);
  for (const [i, { guidance_scale, timesteps }] of base.tables.entries()) {
    const table = tables.find(guidance_scale, timesteps.length);
    assert.equal(await tableDigest(table), digests[i]);
    assert.deepEqual(asApplied(fittedRows(SCHEDULE, table)), asApplied(rows[i]));
  }
  for (const { guidance_scale, steps, digest } of mixed) {
    assert.equal(await tableDigest(tables.find(guidance_scale, steps)), digest);
  }
});

test("a fault of solvers.json is reported when a fitted solver is asked for", async () => {
  const tables = await tablesOf({ ...SOLVERS.base, format_version: 9 });
  assert.match(tables.fault, /format version 9/);
  assert.throws(() => tables.find(2, 2), /format version 9/);
});

for (const [i, vector] of vectors("loop.json")
  .filter(({ known }) => known === null)
  .entries()) {
  test(`the loop, to the last bit, ${i}`, async () => {
    const size = vector.latents.length / vector.seeds.length;
    const part = (values, image) => values.slice(image * size, (image + 1) * size);
    for (const [image, seed] of vector.seeds.entries()) {
      const predict = (_, step) => {
        const all = vector.noise_pred[step];
        const isGuided = all.length > vector.latents.length;
        return Float32Array.from(
          isGuided
            ? [...part(all, image), ...part(all, vector.seeds.length + image)]
            : part(all, image),
        );
      };
      const noise = new NoiseStream(seed);
      const latents = Float32Array.from(part(vector.latents, image));
      await denoise(predict, vector.rows[image], latents, vector.guidance?.[image] ?? null, noise);
      assert.deepEqual([...latents], part(vector.expected, image).map(Math.fround));
    }
  });
}

/** A pipeline without programs. */
async function pipelineOf() {
  const { model, scheduler } = vectors("requests.json");
  const tables = await tablesOf(SOLVERS.base);
  return Object.assign(new Pipeline(), { model, tables, schedule: new NoiseSchedule(scheduler) });
}

test("requests", async () => {
  const pipe = await pipelineOf();
  // Lists are Python's; pictures, timesteps and noted tables are no settings here.
  const isPlain = (value) => typeof value !== "object" || value === null;
  const isOurs = ({ arguments: given }) =>
    Object.values(given).every(isPlain) && !("solver_table" in given);
  const cases = vectors("requests.json").cases.filter(isOurs);
  assert.ok(cases.length > 50);
  for (const { arguments: given, error, expected } of cases) {
    const settings = { prompt: "a", seed: 5 };
    for (const [name, value] of Object.entries(given))
      settings[name] = { nan: NaN, inf: Infinity }[value] ?? value;
    const resolving = pipe.resolve(settings);
    if (error !== null) {
      await assert.rejects(resolving, refused, JSON.stringify(given));
      continue;
    }
    const { request, rows } = await resolving;
    const isGuided = request.guidance_scale !== 1;
    const found = {
      seeds: [request.seed],
      height: request.height,
      width: request.width,
      guidance: isGuided ? [request.guidance_scale] : null,
      texts: isGuided ? [request.negative_prompt, request.prompt] : [request.prompt],
      steps: rows.length,
    };
    for (const [name, value] of Object.entries(expected))
      if (name in found) assert.deepEqual(found[name], value, JSON.stringify(given));
  }
});

test("requests that no vector has", async () => {
  const pipe = await pipelineOf();
  for (const settings of [
    { prompt: "\ud83d" },
    { prompt: 5 },
    { prompt: "a", timesteps: [3, 1] },
    { prompt: "a", negativ_prompt: "b" },
    {},
  ]) {
    await assert.rejects(pipe.resolve(settings), refused, JSON.stringify(settings));
  }
});

test("vocabularies that are not the text encoder's", async () => {
  const { tokenizer } = await openManifest(withOnnx(MANIFESTS.base));
  const make = (text, vocabSize, added) =>
    new Tokenizer(
      text,
      { token_length: 8, vocab_size: vocabSize },
      { ...tokenizer, added_tokens: added },
    );
  const text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n";
  const token = {
    content: "<x>",
    id: 5,
    special: false,
    normalized: true,
    single_word: false,
    lstrip: false,
    rstrip: false,
  };
  make(text, 5, null);
  make(text, 6, [token]);
  assert.throws(() => make(text, 4, null), refused, "ids that are not embedded");
  assert.throws(() => make(text.replace("[UNK]", "b"), 5, null), refused);
  assert.throws(() => make(text, 9, [{ ...token, id: 6 }]), refused, "ids with a gap");
  assert.throws(
    () => make(text, 9, [{ ...token, content: "[PAD]", id: 5 }]),
    refused,
    "another id",
  );
  assert.throws(() => make(text, 9, [{ ...token, content: " ", lstrip: true }]), refused);
});

/** What stands in for onnxruntime-web: each program gives what `outputs` makes of its name. */
async function stubbed(outputs) {
  const pipe = await pipelineOf();
  const sizes = {
    latent_channels: 1,
    sample_size: 8,
    time_shift_width: 1,
    text_kv_width: 1,
    token_length: 2,
  };
  Object.assign(pipe, {
    model: { ...pipe.model, ...sizes },
    tokenizer: { encode: () => ({ ids: [], cut: "" }) },
  });
  pipe.ort = { Tensor: class {} };
  pipe.bundle = { digest: "d", parity: {} };
  const sessions = Object.entries(outputs).map(([name, data]) => [
    name,
    { run: async () => ({ output: { data } }) },
  ]);
  pipe.sessions = Object.fromEntries(sessions);
  return pipe;
}

const EMPTY = {
  text_encoder: new Float32Array(2),
  time_encoder: new Float32Array(9),
  unet: new Float32Array(64),
};

test("pictures that are no numbers, or of a single colour", async () => {
  const render = async (...pixels) => {
    const pipe = await stubbed({ ...EMPTY, vae_decoder: Float32Array.from(pixels) });
    return pipe.generate({ prompt: "a", num_inference_steps: 2 });
  };
  await assert.rejects(render(0.5, NaN, 0.5), /values that are no numbers/);
  assert.equal((await render(0.1, 0.5, 0.9, 0.1, 0.5, 0.9)).isFlat, true);
  assert.equal((await render(0.1, 0.5, 0.9, 0.1, 0.5, 0.906)).isFlat, false);
  assert.equal((await render(0.1, 0.5, 0.9, 0.1, 0.5, 0.903)).isFlat, true);
});

test("a device that computes otherwise is refused", async () => {
  const check = async (noise) => {
    const pipe = await stubbed({
      unet: new Float32Array(9).fill(noise),
      vae_decoder: new Float32Array(9).fill(1),
    });
    const references = ["unet", "vae_decoder"].map((program) => ({
      program,
      outputs: { output: [1, 1, 1] },
    }));
    pipe.bundle.read = async () => encode(JSON.stringify({ samples: 3, references }));
    return pipe.check();
  };
  await check(1.0005);
  await assert.rejects(check(1.002), /unet is wrong here/);
  await assert.rejects(check(NaN), /unet is wrong here/);
});

test("errors in words", () => {
  assert.equal(messageOf(new LDMError("as it is")), "as it is");
  const memory = [
    "std::bad_alloc",
    "Out of memory",
    "SafeIntOnOverflow() Integer overflow",
    "Tensor shape is too large",
    "RuntimeError: memory access out of bounds",
    "Array buffer allocation failed",
  ];
  for (const text of memory)
    assert.match(messageOf(new Error(text)), /memory that a program may take/);
  const start = [
    "no available backend found. ERR: [wasm] RuntimeError: Aborted(CompileError)",
    "Failed to fetch dynamically imported module: x",
  ];
  for (const text of start) assert.match(messageOf(new Error(text)), /ONNX Runtime does not start/);
  assert.match(
    messageOf(new RangeError("Maximum call stack size exceeded")),
    /This failed: Maximum/,
  );
});

test("a bundle whose export measured ONNX Runtime outside its tolerance", async () => {
  const manifest = withOnnx(MANIFESTS.base);
  const measured = (program, error) => ({
    ...manifest,
    parity: { onnxruntime: { fp32: { [program]: { relative_l2_error: error, tolerance: 1e-3 } } } },
  });
  await openManifest(measured("unet", 1e-3));
  await openManifest(measured("vae_encoder", 1));
  await assert.rejects(
    openManifest(measured("unet", 1e300)),
    /measured unet outside its tolerance/,
  );
});

test("files that are missing, cut short or altered", async () => {
  const content = encode("whole");
  const manifest = withOnnx(MANIFESTS.base);
  manifest.files["vocab.txt"] = { sha256: await sha256(content), bytes: content.length };
  const bundle = await openManifest(manifest);
  const readAs = (found) => {
    bundle.source.read = async (name, size, check) => {
      if (found) await check(found);
      return found;
    };
    return bundle.read("vocab.txt");
  };
  assert.equal(await readAs(content), content);
  await assert.rejects(readAs(null), /vocab.txt is missing/);
  await assert.rejects(readAs(encode("whol")), /vocab.txt is damaged/);
  await assert.rejects(readAs(encode("whale")), /vocab.txt is damaged/);
});
