// A bundle's ONNX programs as a text-to-image pipeline, over onnxruntime-web, in a browser or in Node.
import { MAX_PIXELS, PROGRAMS, isUnicode, readJson, readText } from "./bundle.mjs";
import { ensure } from "./errors.mjs";
import { Tables, fittedRows, tableDigest } from "./fitted.mjs";
import { NoiseStream } from "./noise.mjs";
import { XMP_PACKET, encodePng } from "./png.mjs";
import { NoiseSchedule } from "./schedule.mjs";
import { Tokenizer } from "./tokenizer.mjs";

const { fround } = Math;
const MAX_SEED = 2 ** 32 - 1;
/** The settings of an image, and what is so where a request does not say it. */
const SETTINGS = {
  prompt: undefined,
  negative_prompt: "",
  height: null,
  width: null,
  num_inference_steps: 50,
  guidance_scale: 1,
  eta: 0,
  seed: null,
  solver: "ddim",
};

export class Pipeline {
  /**
   * `ort`: the module onnxruntime-web; `provider`: "wasm" or "webgpu", in Node "wasm" or "cpu".
   * `onProgram` is called with the name of each program before it is opened.
   */
  static async open(ort, bundle, { provider = "wasm", onProgram = () => {} } = {}) {
    const read = async (name, parse) => parse(name, await bundle.read(name));
    const { model, tokenizer, source, digest } = bundle;
    const schedule = new NoiseSchedule(await read("scheduler_config.json", readJson));
    const pipe = Object.assign(new Pipeline(), { ort, bundle, model, schedule, sessions: {} });
    pipe.tokenizer = new Tokenizer(await read("vocab.txt", readText), model, tokenizer);
    pipe.tables = await Tables.of(() => source.read("solvers.json"), digest, schedule);
    for (const name of PROGRAMS) {
      const graph = await bundle.read(`${name}/model.onnx`);
      const data = await bundle.read(`${name}/model.onnx.data`);
      onProgram(name);
      pipe.sessions[name] = await ort.InferenceSession.create(graph, {
        executionProviders: [provider],
        externalData: [{ path: "model.onnx.data", data }],
        logSeverityLevel: 3, // WebGPU leaves shapes to the CPU, and would warn of it
      });
    }
    return pipe;
  }

  /** Compare two programs with samples of the original model's outputs; throws if they differ. */
  async check() {
    const bytes = await this.bundle.read("reference.json");
    const { samples, references } = readJson("reference.json", bytes);
    const { latent_channels, sample_size, time_shift_width, text_kv_width, token_length } =
      this.model;
    const latents = [1, latent_channels, sample_size, sample_size];
    const time_shift = [1, time_shift_width];
    const text_kv = [2, token_length, text_kv_width];
    const cases = { unet: { latents, time_shift, text_kv }, vae_decoder: { latents } };
    for (const [name, shapes] of Object.entries(cases)) {
      const noise = new NoiseStream(0);
      const inputs = Object.entries(shapes).map(([input, shape]) => [
        input,
        [noise.fill(new Float32Array(sizeOf(shape))), shape],
      ]);
      const found = await this.#run(name, Object.fromEntries(inputs));
      const outputs = references?.find(({ program }) => program === name)?.outputs ?? {};
      const [wanted = [NaN]] = Object.values(outputs);
      const at = (i) => found[Math.floor((i * (found.length - 1)) / (samples - 1))];
      const error = Math.hypot(...wanted.map((value, i) => at(i) - value)) / Math.hypot(...wanted);
      const tolerance = this.bundle.parity[name]?.tolerance ?? 1e-3;
      ensure(
        error <= tolerance,
        `${name} is wrong here: its error is ${error}, and ${tolerance} is allowed. Choose the CPU.`,
      );
    }
  }

  /** Free the programs' memory. */
  async close() {
    for (const session of Object.values(this.sessions)) await session.release();
    this.sessions = {};
  }

  async #run(name, inputs) {
    const tensors = Object.entries(inputs).map(([input, [data, shape]]) => {
      const type = data instanceof BigInt64Array ? "int64" : "float32";
      return [input, new this.ort.Tensor(type, data, shape)];
    });
    const outputs = await this.sessions[name].run(Object.fromEntries(tensors));
    return Object.values(outputs)[0].data;
  }

  /**
   * One image. `settings`: see SETTINGS; `onStep(done, steps)` is called after each step, and `signal`
   * stops before the next. `cut` is what of the texts was too long.
   */
  async generate(settings, { onStep = () => {}, signal } = {}) {
    const { model } = this;
    const { request, rows } = await this.resolve(settings);
    const { height, width, guidance_scale: guidance } = request;
    const texts = guidance === 1 ? [request.prompt] : [request.negative_prompt, request.prompt];
    const encoded = texts.map((text) => this.tokenizer.encode(text));
    const textKv = await this.#encode(encoded.map(({ ids }) => ids));
    const timesteps = Float32Array.from(rows, (row) => row.timestep);
    const shifts = await this.#run("time_encoder", { timesteps: [timesteps, [rows.length]] });
    const cells = [height, width].map((side) => side / model.scale_factor);
    const shape = [1, model.latent_channels, ...cells];
    const predict = (latents, i) => {
      const shift = shifts.slice(i * model.time_shift_width, (i + 1) * model.time_shift_width);
      return this.#run("unet", {
        latents: [latents, shape],
        time_shift: [shift, [1, model.time_shift_width]],
        text_kv: [textKv, [texts.length, model.token_length, model.text_kv_width]],
      });
    };
    const noise = new NoiseStream(request.seed);
    const latents = noise.fill(new Float32Array(sizeOf(shape)));
    const scale = guidance === 1 ? null : guidance;
    await denoise(predict, rows, latents, scale, noise, async (done) => {
      onStep(done, rows.length);
      await new Promise((resolve) => setTimeout(resolve)); // lets messages in: to stop
      signal?.throwIfAborted();
    });
    const pixels = await this.#run("vae_decoder", { latents: [latents, shape] });
    ensure(
      pixels.every(Number.isFinite),
      "The picture has values that are no numbers. Choose the CPU, or less guidance.",
    );
    const rgb = Uint8ClampedArray.from(pixels, (value) => fround(value * 255)); // half to even
    const cut = encoded
      .map((text) => text.cut)
      .filter(Boolean)
      .join(" … ");
    const isFlat = isSingleColour(pixels);
    const recipe = this.#recipe(request);
    return { rgb: new Uint8Array(rgb.buffer), height, width, recipe, cut, isFlat };
  }

  /** [N, T, K] of the ids of N texts, which are encoded one by one. */
  async #encode(texts) {
    const { token_length: length, text_kv_width: width } = this.model;
    const textKv = new Float32Array(texts.length * length * width);
    for (const [i, ids] of texts.entries()) {
      const one = await this.#run("text_encoder", { input_ids: [ids, [1, length]] });
      textKv.set(one, i * one.length);
    }
    return textKv;
  }

  /** A request, checked and complete, and the solver's rows for it. */
  async resolve(settings) {
    const request = this.#check(settings);
    const { num_inference_steps: steps, solver, eta, guidance_scale: guidance } = request;
    if (solver === "fitted" || steps === "auto") {
      const table = this.tables.find(guidance, steps);
      request.solver = "fitted";
      request.num_inference_steps = table.timesteps.length;
      request.solver_table = await tableDigest(table);
      return { request, rows: fittedRows(this.schedule, table) };
    }
    const { schedule } = this;
    const rows = solver === "ddim" ? schedule.ddimRows(steps, eta) : schedule.dpmsolverRows(steps);
    return { request, rows };
  }

  #check(settings) {
    const { model, schedule } = this;
    const multiple = model.size_multiple * model.scale_factor;
    const request = { ...SETTINGS, ...settings };
    request.negative_prompt ??= "";
    for (const name of ["height", "width"])
      request[name] ??= model.sample_size * model.scale_factor;
    request.seed ??= Math.floor(Math.random() * (MAX_SEED + 1));
    const count = schedule.num_train_timesteps;
    const isAuto = request.num_inference_steps === "auto";
    const mayBeNoisy = request.solver === "ddim" && !isAuto;
    const solvers = ["ddim", "fitted", ...(isAuto ? [] : ["dpmsolver++"])];
    const isNumber = (low, high) => (value) =>
      typeof value === "number" && value >= low && value <= high;
    const isWhole = (low, high) => (value) => isNumber(low, high)(value) && value % 1 === 0;
    const isSize = (side) => isWhole(1, MAX_PIXELS)(side) && side % multiple === 0;
    const isText = (text) => typeof text === "string" && isUnicode(text) && !text.includes("\0");
    const text = [isText, "text without U+0000"];
    const size = [isSize, `a multiple of ${multiple} up to ${MAX_PIXELS}`];
    const rules = {
      prompt: text,
      negative_prompt: text,
      height: size,
      width: size,
      num_inference_steps: [
        (steps) => isAuto || isWhole(1, count)(steps),
        `a whole number from 1 to ${count}, or auto,`,
      ],
      guidance_scale: [isNumber(-10000, 10000), "a number from -10000 to 10000"],
      eta: [
        isNumber(0, mayBeNoisy ? 1 : 0),
        "0, or with the solver ddim and a number of steps up to 1,",
      ],
      seed: [isWhole(0, MAX_SEED), `a whole number from 0 to ${MAX_SEED}`],
      solver: [(solver) => solvers.includes(solver), solvers.join(" or ")],
    };
    const unknown = [() => false, `one of ${Object.keys(SETTINGS).join(", ")}`];
    for (const [name, value] of Object.entries(request)) {
      const [fits, accepted] = rules[name] ?? unknown;
      const given = typeof value === "number" ? value : JSON.stringify(value);
      ensure(fits(value), `\`${name}\` is ${given}; ${accepted} is accepted.`);
    }
    return request;
  }

  /** All that `ldm-engine generate --from-image` needs to render it again, with ONNX Runtime. */
  #recipe({ solver, ...settings }) {
    const later = solver === "ddim" ? {} : { solver };
    return {
      ...settings,
      ...later,
      model: this.model.source,
      bundle: this.bundle.digest,
      runtime: "onnxruntime",
      precision: "fp32",
      threads: null,
      batch_size: 1,
      device: "cpu",
      version: "browser",
      mark: true,
    };
  }
}

const sizeOf = (shape) => shape.reduce((a, b) => a * b);

/** Whether an image [H, W, 3] has a single colour. */
function isSingleColour(pixels) {
  return [0, 1, 2].every((channel) => {
    const values = pixels.filter((_, i) => i % 3 === channel);
    const [low, high] = [Math.min, Math.max].map((pick) => values.reduce((a, b) => pick(a, b)));
    return high - low < 1 / 255;
  });
}

/** What `generate` gave as a PNG file, a Uint8Array. */
export const pngOf = ({ rgb, width, height, recipe }) =>
  encodePng(rgb, width, height, {
    Description: recipe.prompt,
    Software: "ldm-engine",
    "ldm-engine": JSON.stringify(recipe),
    "XML:com.adobe.xmp": XMP_PACKET,
  });

/**
 * Denoise `latents` in place; `predict(latents, i)` gives step i's prediction, with `guidance` the
 * unconditional one and the text's. Twin: engine/ldm_engine/sampling/loop.py.
 */
export async function denoise(predict, rows, latents, guidance, noise, onStep = async () => {}) {
  const size = latents.length;
  const kept = Math.max(...rows.map((row) => row.b.length));
  const history = []; // the latest m first
  for (const [i, { p, q, a, b, s }] of rows.entries()) {
    const prediction = await predict(latents, i);
    const m = new Float32Array(size);
    const [fp, fq, fa, fg] = [p, q, a, guidance].map(fround);
    for (let k = 0; k < size; k++) {
      let eps = prediction[k];
      if (guidance !== null) eps = fround(fround(fround(prediction[size + k] - eps) * fg) + eps);
      m[k] = fround(eps * fq);
      if (p) m[k] += fround(latents[k] * fp);
      latents[k] *= fa;
    }
    history.unshift(m);
    history.length = Math.min(history.length, kept);
    for (const [age, weight] of b.entries()) addScaled(latents, history[age], weight);
    if (s > 0) addScaled(latents, noise.fill(new Float32Array(size)), s);
    await onStep(i + 1);
  }
}

function addScaled(sum, values, weight) {
  const scale = fround(weight);
  for (let k = 0; k < sum.length; k++) sum[k] += fround(values[k] * scale);
}
