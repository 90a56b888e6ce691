// A bundle's ONNX programs as a text-to-image pipeline, over onnxruntime-web, in a browser or in Node.
import { LDMError, PROGRAMS, isUnicode, utf8 } from "./bundle.mjs";
import { Tables, fittedRows, tableDigest } from "./fitted.mjs";
import { NoiseStream } from "./noise.mjs";
import { XMP_PACKET, encodePng } from "./png.mjs";
import { NoiseSchedule } from "./schedule.mjs";
import { Tokenizer } from "./tokenizer.mjs";

const { fround } = Math;
const MAX_SEED = 2 ** 32 - 1;
const MAX_PIXELS = 8192;

export class Pipeline {
  /**
   * `ort`: the module onnxruntime-web; `provider`: "wasm" or "webgpu". `onProgram` is called with the
   * name of each program before it is opened.
   */
  static async open(ort, bundle, { provider = "wasm", onProgram = () => {} } = {}) {
    const pipe = Object.assign(new Pipeline(), { ort, bundle, model: bundle.model, sessions: {} });
    pipe.schedule = new NoiseSchedule(JSON.parse(utf8(await bundle.read("scheduler_config.json"))));
    pipe.tokenizer = new Tokenizer(utf8(await bundle.read("vocab.txt")), bundle.model, bundle.tokenizer);
    pipe.tables = await Tables.read(await bundle.source.read("solvers.json"), bundle.digest, pipe.schedule);
    for (const name of PROGRAMS) {
      const [graph, data] = [await bundle.read(`${name}/model.onnx`), await bundle.read(`${name}/model.onnx.data`)];
      onProgram(name);
      const options = { executionProviders: [provider], externalData: [{ path: "model.onnx.data", data }] };
      pipe.sessions[name] = await ort.InferenceSession.create(graph, options);
    }
    return pipe;
  }

  /** Compare two programs with samples of the original model's outputs; throws if they are wrong here. */
  async check() {
    const { samples, references } = JSON.parse(utf8(await this.bundle.read("reference.json")));
    const { latent_channels, sample_size, time_shift_width, text_kv_width, token_length } = this.model;
    const latents = [1, latent_channels, sample_size, sample_size];
    const cases = { unet: { latents, time_shift: [1, time_shift_width], text_kv: [2, token_length, text_kv_width] }, vae_decoder: { latents } };
    for (const [name, shapes] of Object.entries(cases)) {
      const noise = new NoiseStream(0);
      const inputs = Object.entries(shapes).map(([input, shape]) => [input, [noise.fill(new Float32Array(sizeOf(shape))), shape]]);
      const found = await this.#run(name, Object.fromEntries(inputs));
      const [wanted] = Object.values(references.find(({ program }) => program === name).outputs);
      const at = (i) => found[Math.floor((i * (found.length - 1)) / (samples - 1))];
      const error = Math.hypot(...wanted.map((value, i) => at(i) - value)) / Math.hypot(...wanted);
      const tolerance = this.bundle.parity[name]?.tolerance ?? 1e-3;
      if (!(error <= tolerance)) throw new LDMError(`${name} is wrong here: its error is ${error.toPrecision(2)}, and ${tolerance} is allowed. Choose the CPU.`);
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
   * One image. `settings` has the names of `ldm-engine generate`'s; `onStep(done, steps)` is called after
   * each step, and `signal` stops before the next.
   *
   * Gives { rgb: Uint8Array, height, width, recipe, cut: what of the texts was too long }.
   */
  async generate(settings, { onStep = () => {}, signal } = {}) {
    const { model } = this;
    const request = this.#check(settings);
    const { height, width } = request;
    const rows = await this.#rows(request);
    const isGuided = request.guidance_scale !== 1;
    const texts = isGuided ? [request.negative_prompt, request.prompt] : [request.prompt];
    const encoded = texts.map((text) => this.tokenizer.encode(text));
    const textKv = new Float32Array(texts.length * model.token_length * model.text_kv_width);
    for (const [i, { ids }] of encoded.entries()) {
      const one = await this.#run("text_encoder", { input_ids: [ids, [1, model.token_length]] });
      textKv.set(one, i * one.length);
    }
    const timesteps = Float32Array.from(rows, (row) => row.timestep);
    const shifts = await this.#run("time_encoder", { timesteps: [timesteps, [rows.length]] });
    const shape = [1, model.latent_channels, height / model.scale_factor, width / model.scale_factor];
    const predict = (latents, i) => {
      const timeShift = shifts.slice(i * model.time_shift_width, (i + 1) * model.time_shift_width);
      return this.#run("unet", {
        latents: [latents, shape],
        time_shift: [timeShift, [1, model.time_shift_width]],
        text_kv: [textKv, [texts.length, model.token_length, model.text_kv_width]],
      });
    };
    const noise = new NoiseStream(request.seed);
    const latents = noise.fill(new Float32Array(sizeOf(shape)));
    await denoise(predict, rows, latents, isGuided ? request.guidance_scale : null, noise, async (done) => {
      onStep(done, rows.length);
      await new Promise((resolve) => setTimeout(resolve)); // lets messages in, one to stop perhaps
      signal?.throwIfAborted();
    });
    const pixels = await this.#run("vae_decoder", { latents: [latents, shape] });
    if (!pixels.every(Number.isFinite)) throw new LDMError("The picture has values that are no numbers. Render it on the CPU, or with less guidance.");
    const rgb = Uint8ClampedArray.from(pixels, (value) => fround(value * 255)); // rounds half to even
    const cut = encoded.map((text) => text.cut).filter(Boolean).join(" … ");
    return { rgb: new Uint8Array(rgb.buffer), height, width, recipe: this.#recipe(request), cut };
  }

  #check(settings) {
    const { model } = this;
    const size = model.sample_size * model.scale_factor;
    const multiple = model.size_multiple * model.scale_factor;
    const request = {
      negative_prompt: "", height: size, width: size, num_inference_steps: 50, guidance_scale: 1, eta: 0,
      seed: Math.floor(Math.random() * (MAX_SEED + 1)), solver: "ddim", ...settings,
    };
    const require = (name, holds, accepted) => {
      if (!holds) throw new LDMError(`\`${name}\` is ${JSON.stringify(request[name])}; ${accepted} is accepted.`);
    };
    const isText = (text) => typeof text === "string" && isUnicode(text) && !text.includes("\0");
    const isWithin = (value, low, high) => typeof value === "number" && value >= low && value <= high;
    const isSize = (side) => Number.isInteger(side) && side > 0 && side <= MAX_PIXELS && side % multiple === 0;
    const { num_inference_steps: steps, solver, eta } = request;
    const count = this.schedule.num_train_timesteps;
    for (const name of ["prompt", "negative_prompt"]) require(name, isText(request[name]), "text without U+0000");
    for (const name of ["height", "width"]) require(name, isSize(request[name]), `a multiple of ${multiple} up to ${MAX_PIXELS}`);
    require("num_inference_steps", steps === "auto" || (Number.isInteger(steps) && isWithin(steps, 1, count)), `a whole number from 1 to ${count}, or auto,`);
    require("guidance_scale", isWithin(request.guidance_scale, -10000, 10000), "a number from -10000 to 10000");
    require("eta", isWithin(eta, 0, 1) && (eta === 0 || solver === "ddim"), "0, or with the solver ddim up to 1,");
    require("seed", Number.isInteger(request.seed) && isWithin(request.seed, 0, MAX_SEED), `a whole number from 0 to ${MAX_SEED}`);
    require("solver", ["ddim", "dpmsolver++", "fitted"].includes(solver), "ddim, dpmsolver++ or fitted");
    return request;
  }

  /** The solver's rows; notes in `request` what auto chose and which table serves. */
  async #rows(request) {
    const { num_inference_steps: steps, solver, eta, guidance_scale } = request;
    if (solver === "fitted" || steps === "auto") {
      const table = this.tables.find(guidance_scale, steps);
      Object.assign(request, { solver: "fitted", num_inference_steps: table.timesteps.length });
      request.solver_table = await tableDigest(table);
      return fittedRows(this.schedule, table);
    }
    return solver === "ddim" ? this.schedule.ddimRows(steps, eta) : this.schedule.dpmsolverRows(steps);
  }

  /** All that `ldm-engine generate --from-image` needs to render it again, with ONNX Runtime. */
  #recipe({ solver, ...settings }) {
    const later = solver === "ddim" ? {} : { solver };
    return {
      ...settings, ...later, model: this.model.source, bundle: this.bundle.digest, runtime: "onnxruntime",
      precision: "fp32", threads: null, batch_size: 1, device: "cpu", version: "browser",
    };
  }
}

const sizeOf = (shape) => shape.reduce((a, b) => a * b);

/** What `generate` gave as a PNG file, a Uint8Array. */
export const pngOf = ({ rgb, width, height, recipe }) =>
  encodePng(rgb, width, height, {
    Description: recipe.prompt, Software: "ldm-engine", "ldm-engine": JSON.stringify(recipe), "XML:com.adobe.xmp": XMP_PACKET,
  });

/**
 * Denoise `latents` in place; `predict(latents, i)` gives step i's prediction, with `guidance` the
 * unconditional one and the text's. Twin: engine/ldm_engine/sampling/loop.py; vectors: loop.json.
 */
export async function denoise(predict, rows, latents, guidance, noise, onStep = async () => {}) {
  const size = latents.length;
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
    history.length = Math.min(history.length, Math.max(...rows.map((row) => row.b.length)));
    for (const [age, weight] of b.entries()) addScaled(latents, history[age], weight);
    if (s > 0) addScaled(latents, noise.fill(new Float32Array(size)), s);
    await onStep(i + 1);
  }
}

function addScaled(sum, values, weight) {
  const scale = fround(weight);
  for (let k = 0; k < sum.length; k++) sum[k] += fround(values[k] * scale);
}
