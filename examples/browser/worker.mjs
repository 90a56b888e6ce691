// The pipeline of the page, in a thread of its own. Takes { open } and { generate }, and { stop }; posts what happened.
import { Bundle, LDMError, PROGRAMS } from "./bundle.mjs";
import { Pipeline, pngOf } from "./ldm.mjs";
import { WebSource } from "./source.mjs";

const ORT = "./node_modules/onnxruntime-web/dist/";
let pipe;
let stopping = new AbortController();

async function open({ url, provider }) {
  let [count, total] = [0, 0];
  const source = new WebSource(url, {
    signal: stopping.signal,
    onBytes: (bytes) => postMessage({ fetched: (count += bytes), total }),
    onNotice: (notice) => postMessage({ notice }),
  });
  const bundle = await Bundle.open(source);
  await source.keepFor(bundle.digest);
  total = [
    "scheduler_config.json",
    "vocab.txt",
    ...PROGRAMS.flatMap((name) => [`${name}/model.onnx`, `${name}/model.onnx.data`]),
  ].reduce((sum, name) => sum + bundle.files[name].bytes, 0);
  const ort = await import(`${ORT}ort.${provider}.min.mjs`);
  ort.env.logLevel = "error"; // of shapes, which WebGPU leaves to the CPU, it would warn
  ort.env.wasm.wasmPaths = new URL(ORT, import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  if (!self.crossOriginIsolated)
    postMessage({
      notice: "This page runs on one thread: it came without the headers that serve.py adds.",
    });
  pipe = await Pipeline.open(ort, bundle, {
    provider,
    onProgram: (name) => postMessage({ opening: name }),
  });
  if (provider === "webgpu") await pipe.check(); // a browser's own driver computes there
  const { model, tables } = pipe;
  const side = model.sample_size * model.scale_factor;
  return {
    opened: {
      source: model.source,
      side,
      multiple: model.size_multiple * model.scale_factor,
      guidances: tables.guidances,
      threads: ort.env.wasm.numThreads,
    },
  };
}

async function generate(settings) {
  const start = performance.now();
  const onStep = (done, steps) => postMessage({ done, steps });
  const image = await pipe.generate(settings, { onStep, signal: stopping.signal });
  const png = await pngOf(image);
  return {
    image: {
      png,
      recipe: image.recipe,
      cut: image.cut,
      isFlat: image.isFlat,
      seconds: (performance.now() - start) / 1000,
    },
  };
}

/** What went wrong, in words. */
function told(error) {
  if (error.name === "AbortError") return { stopped: true };
  const text = String(error?.message ?? error);
  const isMemory =
    /bad_alloc|out of memory|allocation failed|memory access|Aborted\(/i.test(text) ||
    error instanceof RangeError;
  if (isMemory)
    return {
      error: `The browser's memory does not hold this: ${text}. Render a smaller picture, close other tabs, or take a smaller model.`,
    };
  return { error: error instanceof LDMError ? text : `The browser failed: ${text}` };
}

onmessage = async ({ data }) => {
  if (data.stop) return stopping.abort();
  stopping = new AbortController();
  const work = data.open ? open(data.open) : generate(data.generate);
  postMessage(await work.catch(told));
};
