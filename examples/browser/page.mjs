// The page: a form's settings to the worker, what the worker posts to the page.
const $ = (id) => document.getElementById(id);
const form = $("form");
const field = (name) => form.elements[name];
const url = new URL(new URLSearchParams(location.search).get("bundle") ?? "bundle/", location.href)
  .href;
let worker;
let isOpen = false;

function show(status, done = null) {
  $("status").textContent = status;
  $("progress").hidden = done === null;
  if (done !== null) $("progress").value = done;
}

function busy(isBusy) {
  $("render").disabled = isBusy;
  $("render").formNoValidate = !isOpen;
  $("render").textContent = isOpen || isBusy ? "Render" : "Open again";
  $("stop").disabled = !isBusy;
  $("provider").disabled = isBusy;
}

function fail(text) {
  $("error").textContent = text;
  show("");
  busy(false);
}

function open() {
  worker?.terminate();
  isOpen = false;
  $("notices").replaceChildren();
  $("error").textContent = "";
  const provider = $("provider").value;
  busy(true);
  show("Opening the bundle", 0);
  if (provider === "webgpu" && !navigator.gpu)
    return fail("This browser has no WebGPU, or not for pages that came by http. Choose the CPU.");
  worker = new Worker("worker.mjs", { type: "module" });
  worker.onmessage = ({ data }) =>
    Object.entries(data).forEach(([name, value]) => handlers[name]?.(value, data));
  worker.onerror = (event) =>
    fail(
      `The page's own code failed: ${event.message ?? "it cannot be loaded; run npm ci beside index.html"}.`,
    );
  worker.postMessage({ open: { url, provider } });
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const handlers = {
  fetched: (bytes, { total }) =>
    show(`Fetching: ${megabytes(bytes)} of ${megabytes(total)} MB`, bytes / total),
  opening: (program) => show(`Opening ${program}`, $("progress").value),
  notice: (text) =>
    $("notices").append(Object.assign(document.createElement("li"), { textContent: text })),
  opened({ source, side, multiple, guidances, threads }) {
    isOpen = true;
    $("model").textContent =
      `Model: ${source}, on ${threads} thread${threads > 1 ? "s" : ""} of this browser; nothing that you write leaves it.`;
    for (const name of ["width", "height"])
      Object.assign(field(name), {
        step: multiple,
        min: multiple,
        value: field(name).value || side,
      });
    const fitted = field("solver").querySelector("[value=fitted]");
    fitted.disabled = !guidances.length;
    if (
      guidances.length &&
      fitted.textContent !== (fitted.textContent = `fitted (guidance ${guidances.join(", ")})`)
    ) {
      field("guidance_scale").value = guidances[0]; // the fewest steps
      choose("fitted");
    }
    show("Ready");
    busy(false);
  },
  done: (done, { steps }) => show(`Step ${done} of ${steps}`, done / steps),
  stopped() {
    show("Stopped");
    busy(false);
  },
  error: fail,
  image({ png, recipe, cut, isFlat, seconds }) {
    const {
      prompt,
      seed,
      num_inference_steps: steps,
      guidance_scale: guidance,
      width,
      height,
    } = recipe;
    URL.revokeObjectURL($("image").src);
    const link = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    Object.assign($("image"), { src: link, alt: prompt, width, height });
    const slug =
      prompt
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .slice(0, 60)
        .replace(/^-|-$/g, "") || "image";
    Object.assign($("save"), { href: link, download: `${slug}-${seed}.png` });
    $("facts").textContent =
      `“${prompt}”, seed ${seed}, ${steps} steps, guidance ${guidance}, ${width}x${height}, ${seconds.toFixed(1)} s.${isFlat ? " It has a single colour: give another seed or guidance." : ""}${cut ? ` Too long; this has no effect: “${cut}”` : ""}`;
    $("figure").hidden = false;
    show("Done");
    busy(false);
  },
};

form.onsubmit = (event) => {
  event.preventDefault();
  if (!isOpen) return open();
  if ($("fresh").checked || field("seed").value === "")
    field("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  const settings = Object.fromEntries(new FormData(form));
  for (const name of ["guidance_scale", "num_inference_steps", "seed", "width", "height"])
    settings[name] = Number(settings[name]);
  if (settings.solver === "fitted") settings.num_inference_steps = "auto";
  $("error").textContent = "";
  busy(true);
  show("Reading the prompt", 0);
  worker.postMessage({ generate: settings });
};
function choose(solver) {
  field("solver").value = solver;
  field("num_inference_steps").disabled = solver === "fitted"; // it brings its own
}

field("solver").onchange = () => choose(field("solver").value);
$("stop").onclick = () => worker.postMessage({ stop: true });
$("provider").onchange = open;
field("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
open();
