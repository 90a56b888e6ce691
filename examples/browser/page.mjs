// The page: a form's settings to the worker, what the worker posts to the page.
const $ = (id) => document.getElementById(id);
const form = $("form");
const field = (name) => form.elements[name];
const NUMBERS = ["guidance_scale", "num_inference_steps", "seed", "width", "height"];
const MAX_CAPTION = 200;
let worker;
let isOpen = false;
let isTouched = false; // by a person

/** What is announced; what changes with each step goes to `advance`. */
function show(status, done = null) {
  $("status").textContent = status;
  $("detail").textContent = "";
  $("progress").hidden = done === null;
  $("progress").value = done ?? 0;
}

function advance(detail, done) {
  $("detail").textContent = detail;
  $("progress").value = done;
}

function busy(isBusy) {
  const hadFocus = [$("render"), $("stop")].includes(document.activeElement);
  $("render").disabled = isBusy;
  $("render").formNoValidate = !isOpen;
  $("render").textContent = isOpen || isBusy ? "Render" : "Open again";
  $("stop").disabled = !isBusy;
  $("provider").disabled = isBusy;
  if (hadFocus) (isBusy ? $("stop") : $("render")).focus();
}

function fail(text) {
  $("error").textContent = text;
  show("");
  busy(false);
}

/** Where the bundle is, absolute. */
function bundleUrl() {
  const given = new URLSearchParams(location.search).get("bundle") || "bundle/";
  if (URL.canParse(given, location.href)) return new URL(given, location.href).href;
  fail(`The page's address has bundle=${given}, which is no URL.`);
  return null;
}

function open() {
  worker?.terminate();
  isOpen = false;
  $("notices").replaceChildren();
  $("error").textContent = "";
  $("model").textContent = "The bundle's programs run in this browser.";
  const url = bundleUrl();
  if (url === null) return;
  busy(true);
  show("Opening the bundle", 0);
  worker = new Worker("worker.mjs", { type: "module" });
  worker.onmessage = ({ data }) => {
    for (const [name, value] of Object.entries(data)) handlers[name]?.(value, data);
  };
  worker.onerror = () => fail("A part of the page cannot be loaded. Is its server still there?");
  worker.postMessage({ open: { url, provider: $("provider").value } });
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

const handlers = {
  fetched: (bytes, { total }) =>
    advance(`Fetching: ${megabytes(bytes)} of ${megabytes(total)} MB`, bytes / total),
  opening: (what) => advance(`Opening ${what}`, $("progress").value),
  notice: (text) =>
    $("notices").append(Object.assign(document.createElement("li"), { textContent: text })),
  opened({ source, side, multiple, guidances, threads }) {
    isOpen = true;
    const place = threads ? `${threads} thread${threads > 1 ? "s" : ""}` : "the GPU";
    $("model").textContent =
      `Model: ${source}, on ${place} of this browser; nothing that you write leaves it.`;
    for (const name of ["width", "height"]) {
      const value = field(name).value || side;
      Object.assign(field(name), { step: multiple, min: multiple, value });
    }
    offerFitted(guidances);
    show("Ready");
    busy(false);
  },
  done: (done, { steps }) => advance(`Step ${done} of ${steps}`, done / steps),
  stopped() {
    show("Stopped");
    busy(false);
  },
  error: fail,
  image({ png, recipe, cut, isFlat, seconds }) {
    const { prompt, seed, width, height } = recipe;
    URL.revokeObjectURL($("image").src);
    const link = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    Object.assign($("image"), { src: link, alt: prompt, width, height });
    Object.assign($("save"), { href: link, download: `picture-${seed}.png` });
    field("seed").value = seed;
    $("facts").textContent = caption(recipe, seconds, cut, isFlat);
    $("figure").hidden = false;
    show("Done");
    busy(false);
  },
};

function caption(recipe, seconds, cut, isFlat) {
  const shorten = (text) => (text.length > MAX_CAPTION ? `${text.slice(0, MAX_CAPTION)}…` : text);
  const { prompt, seed, num_inference_steps: steps, guidance_scale, width, height } = recipe;
  const facts = [
    `“${shorten(prompt)}”, seed ${seed}, ${steps} steps, guidance ${guidance_scale}, ${width}x${height}, ${seconds.toFixed(1)} s.`,
  ];
  if (isFlat) facts.push("It has a single colour: give another seed or guidance.");
  if (cut) facts.push(`The prompt is too long; this has no effect: “${shorten(cut)}”`);
  if (recipe.negative_prompt && guidance_scale === 1)
    facts.push("At guidance 1 the negative prompt has no effect.");
  return facts.join(" ");
}

/** Solvers of few steps are what is chosen, if the bundle has some and nobody chose yet. */
function offerFitted(guidances) {
  const option = field("solver").querySelector("[value=fitted]");
  option.disabled = !guidances.length;
  if (!guidances.length) return;
  option.textContent = `fitted (guidance ${guidances.join(", ")})`;
  if (isTouched) return;
  field("guidance_scale").value = guidances[0];
  field("solver").value = "fitted";
  followSolver();
}

/** A fitted solver brings its number of steps. */
function followSolver() {
  field("num_inference_steps").disabled = field("solver").value === "fitted";
}

form.onsubmit = (event) => {
  event.preventDefault();
  $("error").textContent = "";
  if (!isOpen) return open();
  const settings = Object.fromEntries(new FormData(form));
  if ($("fresh").checked || settings.seed === "") delete settings.seed;
  for (const name of NUMBERS) if (name in settings) settings[name] = Number(settings[name]);
  if (settings.solver === "fitted") settings.num_inference_steps = "auto";
  busy(true);
  show("Rendering", 0);
  worker.postMessage({ generate: settings });
};
form.addEventListener("invalid", () => ($("error").textContent = ""), true);
form.oninput = () => (isTouched = true);
field("solver").onchange = followSolver;
field("seed").oninput = () => ($("fresh").checked = false);
$("stop").onclick = () => {
  if (isOpen) {
    worker.postMessage({ stop: true });
    $("status").textContent = "Stopping after this step";
  } else {
    worker.terminate(); // what it fetched whole is kept
    handlers.stopped();
  }
};
$("provider").onchange = open;
open();
