// The pipeline of the page, in a thread of its own: takes { open }, { generate } and { stop }, and
// posts what happens.
import { Bundle, PROGRAMS } from "./bundle.mjs";
import { LDMError, messageOf } from "./errors.mjs";
import { Pipeline, pngOf } from "./ldm.mjs";
import { WebSource } from "./source.mjs";

const ORT = "./node_modules/onnxruntime-web/dist/";
const MAX_THREADS = 8;
let pipe;
let stopping;

async function open({ url, provider }) {
  const isGpu = provider === "webgpu";
  if (isGpu && !(await navigator.gpu?.requestAdapter()))
    throw new LDMError("This browser offers no GPU to this page (WebGPU). Choose the CPU.");
  let [count, total] = [0, 0];
  const source = new WebSource(url, {
    onBytes: (bytes) => postMessage({ fetched: (count += bytes), total }),
    onNotice: (notice) => postMessage({ notice }),
  });
  const bundle = await Bundle.open(source);
  await source.keepFor(bundle.digest);
  const graphs = PROGRAMS.flatMap((name) => [`${name}/model.onnx`, `${name}/model.onnx.data`]);
  const names = ["scheduler_config.json", "vocab.txt", ...graphs];
  if (isGpu) names.push("reference.json");
  total = names.reduce((sum, name) => sum + bundle.files[name].bytes, 0);
  const ort = await loadRuntime(provider);
  const onProgram = (name) => postMessage({ opening: name });
  pipe = await Pipeline.open(ort, bundle, { provider, onProgram });
  if (isGpu) {
    postMessage({ opening: "what checks this GPU" });
    await pipe.check();
  }
  const { model, tables } = pipe;
  if (tables.fault) postMessage({ notice: tables.fault });
  return {
    opened: {
      source: model.source,
      side: model.sample_size * model.scale_factor,
      multiple: model.size_multiple * model.scale_factor,
      guidances: tables.guidances,
      threads: isGpu ? 0 : ort.env.wasm.numThreads,
    },
  };
}

async function loadRuntime(provider) {
  const ort = await import(`${ORT}ort.${provider}.min.mjs`);
  ort.env.wasm.wasmPaths = new URL(ORT, import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(navigator.hardwareConcurrency, MAX_THREADS)
    : 1;
  if (!self.crossOriginIsolated)
    postMessage({
      notice: "This page runs on one thread: it came without the headers of serve.py.",
    });
  return ort;
}

async function generate(settings) {
  stopping = new AbortController();
  const start = performance.now();
  const onStep = (done, steps) => postMessage({ done, steps });
  const image = await pipe.generate(settings, { onStep, signal: stopping.signal });
  const { recipe, cut, isFlat } = image;
  const png = await pngOf(image);
  return { image: { png, recipe, cut, isFlat, seconds: (performance.now() - start) / 1000 } };
}

onmessage = async ({ data }) => {
  if (data.stop) return stopping?.abort();
  const work = data.open ? open(data.open) : generate(data.generate);
  const answer = await work.catch((error) =>
    error.name === "AbortError" ? { stopped: true } : { error: messageOf(error) },
  );
  postMessage(answer);
};
