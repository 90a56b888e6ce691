// The page in Chromium, and the same engine in Node: pixels, what is kept, and what goes wrong.
// tests/examples/test_browser.py says where the bundles, the requests and the output are.
import assert from "node:assert/strict";
import { readFile, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { availableParallelism } from "node:os";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Bundle } from "../../../examples/browser/bundle.mjs";
import { FolderSource } from "../../../examples/browser/generate.mjs";
import { Pipeline, pngOf } from "../../../examples/browser/ldm.mjs";

const PAGE = fileURLToPath(new URL("../../../examples/browser/", import.meta.url));
const { LDM_BUNDLE, LDM_OLD_BUNDLE, LDM_REQUESTS, LDM_OUTPUT, LDM_CHROMIUM } = process.env;
const { requests: REQUESTS, old: OLD_REQUEST } = JSON.parse(await readFile(LDM_REQUESTS, "utf8"));
const TYPES = {
  ".html": "text/html",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const WAIT = { timeout: 30000 };
const load = (name) =>
  import(new URL(`../../../examples/browser/node_modules/${name}`, import.meta.url));

let server, browser, origin, seen, tamper, isolated;

/** The page at /, bundles at /bundle/ and /old/; `tamper(path, body, response)` may answer in its own way. */
async function answer(request, response) {
  const path = new URL(request.url, origin).pathname;
  const roots = { "/bundle/": LDM_BUNDLE, "/old/": LDM_OLD_BUNDLE, "/": PAGE };
  const root = Object.keys(roots).find((prefix) => path.startsWith(prefix));
  const file = join(roots[root], path.slice(root.length) || "index.html");
  seen.push(path);
  const isThere = await stat(file).then(
    (found) => found.isFile(),
    () => false,
  );
  if (!isThere) return response.writeHead(404).end();
  const body = await readFile(file);
  response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
  if (isolated) {
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
  }
  if (!(await tamper(path, body, response))) response.end(body);
}

before(async () => {
  const { chromium } = await load("playwright-core/index.mjs");
  server = createServer(answer);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  origin = `http://localhost:${server.address().port}`;
  const args = ["--no-sandbox", "--host-resolver-rules=MAP elsewhere.test 127.0.0.1"];
  browser = await chromium.launch({ executablePath: LDM_CHROMIUM, args });
});

after(async () => {
  await browser?.close();
  server?.close();
  server?.closeAllConnections();
});

/** A test with a browser profile of its own and a server that does nothing amiss yet. */
function inBrowser(name, work) {
  test(name, async () => {
    [seen, tamper, isolated] = [[], async () => false, true];
    const context = await browser.newContext();
    try {
      await work(context);
    } finally {
      await context.close();
    }
  });
}

async function openPage(context, address = origin) {
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(error));
  await page.goto(address);
  await settled(page);
  assert.deepEqual(faults, []);
  return page;
}

/** Wait until the page is done with what it does. */
const settled = (page) =>
  page.waitForFunction(
    () => document.getElementById("stop").disabled && !document.getElementById("render").disabled,
    null,
    WAIT,
  );
const textOf = (page, id) => page.textContent(`#${id}`);

async function fill(page, given) {
  const settings = { negative_prompt: "", ...given };
  const fields = {
    prompt: ["textbox", "Prompt"],
    negative_prompt: ["textbox", "Negative prompt"],
    guidance_scale: ["spinbutton", "Guidance"],
    num_inference_steps: ["spinbutton", "Steps"],
    seed: ["spinbutton", "Seed"],
    width: ["spinbutton", "Width"],
    height: ["spinbutton", "Height"],
  };
  await page.getByLabel("Solver").selectOption(settings.solver ?? "ddim");
  await page.getByLabel("A new seed").uncheck();
  for (const [setting, [role, name]] of Object.entries(fields)) {
    if (setting in settings && settings[setting] !== "auto")
      // the fitted solver's own
      await page.getByRole(role, { name, exact: true }).fill(String(settings[setting]));
  }
}

async function render(page) {
  await page.getByRole("button", { name: "Render" }).click();
  await settled(page);
}

async function save(page, name) {
  assert.equal(await textOf(page, "error"), "");
  assert.equal(await textOf(page, "status"), "Done");
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save")]);
  await download.saveAs(join(LDM_OUTPUT, name));
}

test("pictures in Node", async () => {
  const ort = await load("onnxruntime-web/dist/ort.node.min.mjs");
  ort.env.wasm.numThreads = availableParallelism();
  const pipe = await Pipeline.open(ort, await Bundle.open(new FolderSource(LDM_BUNDLE)));
  await pipe.check();
  for (const [i, settings] of REQUESTS.entries()) {
    await writeFile(join(LDM_OUTPUT, `node-${i}.png`), await pngOf(await pipe.generate(settings)));
  }
  await pipe.close();
});

inBrowser("pictures in Chromium, with threads", async (context) => {
  const page = await openPage(context);
  assert.match(await textOf(page, "model"), new RegExp(`on ${availableParallelism()} thread`));
  assert.equal(await textOf(page, "notices"), "");
  for (const [i, { eta, ...settings }] of REQUESTS.entries()) {
    if (eta) continue; // the form has none
    await fill(page, settings);
    await render(page);
    await save(page, `chromium-${i}.png`);
  }
});

inBrowser("a picture in Chromium without threads, of a bundle of version 1", async (context) => {
  isolated = false;
  const page = await openPage(context, `${origin}/?bundle=old`);
  assert.match(await textOf(page, "notices"), /runs on one thread/);
  await fill(page, OLD_REQUEST);
  await render(page);
  await save(page, "old.png");
});

inBrowser("a seed is new each time unless it is typed", async (context) => {
  const page = await openPage(context);
  const seed = page.getByRole("spinbutton", { name: "Seed" });
  await page.getByLabel("Solver").selectOption("ddim");
  await page.getByRole("spinbutton", { name: "Steps" }).fill("1");
  await render(page);
  const first = await seed.inputValue();
  assert.match(await textOf(page, "facts"), new RegExp(`seed ${first},`));
  await render(page);
  assert.notEqual(await seed.inputValue(), first);
  await seed.fill("5");
  await render(page);
  assert.match(await textOf(page, "facts"), /seed 5,/);
});

inBrowser("what a person chose while the bundle came is kept", async (context) => {
  let letGo;
  const waits = new Promise((resolve) => (letGo = resolve));
  tamper = async (path) => path.endsWith("unet/model.onnx.data") && (await waits);
  const page = await context.newPage();
  await page.goto(origin);
  await page.getByLabel("Solver").selectOption("dpmsolver++");
  await page.getByRole("spinbutton", { name: "Guidance" }).fill("4");
  assert.ok(await page.getByLabel("Runs on").isDisabled());
  letGo();
  await settled(page);
  assert.equal(await page.getByLabel("Solver").inputValue(), "dpmsolver++");
  assert.equal(await page.getByRole("spinbutton", { name: "Guidance" }).inputValue(), "4");
});

inBrowser("the keyboard alone", async (context) => {
  const page = await openPage(context);
  await page.getByRole("textbox", { name: "Prompt", exact: true }).focus();
  while ((await page.evaluate(() => document.activeElement.id)) !== "render")
    await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.activeElement.id === "stop", null, WAIT);
  await settled(page);
  assert.equal(await page.evaluate(() => document.activeElement.id), "render");
  assert.equal(await textOf(page, "status"), "Done");
});

inBrowser("files are kept, also for a tab that is opened beside", async (context) => {
  await Promise.all([openPage(context), openPage(context)]);
  await openPage(context);
  const fetched = seen.filter((path) => path.endsWith(".data"));
  assert.equal(new Set(fetched).size, 4);
  assert.deepEqual(fetched, [...new Set(fetched)], "each once");
});

inBrowser("a kept file that was damaged is fetched again", async (context) => {
  const page = await openPage(context);
  await page.evaluate(async () => {
    const cache = await caches.open((await caches.keys())[0]);
    await cache.put("/vocab.txt", new Response("another"));
  });
  seen = [];
  await openPage(context);
  assert.deepEqual(seen.filter((path) => path.startsWith("/bundle/")).sort(), [
    "/bundle/bundle.json",
    "/bundle/solvers.json",
    "/bundle/vocab.txt",
  ]);
});

inBrowser("other bundles make room for this one", async (context) => {
  const page = await context.newPage();
  const devtools = await context.newCDPSession(page);
  await devtools.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 40000000 });
  await page.goto(`${origin}/page.mjs`);
  await page.evaluate(async () => {
    const cache = await caches.open("ldm-engine another");
    await cache.put("/unet", new Response(new Uint8Array(30000000)));
  });
  await page.goto(origin);
  await settled(page);
  assert.equal(await textOf(page, "notices"), "");
  assert.ok(!(await page.evaluate(() => caches.keys())).includes("ldm-engine another"));
});

inBrowser("a browser without room renders all the same", async (context) => {
  const page = await context.newPage();
  const devtools = await context.newCDPSession(page);
  await devtools.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 1000000 });
  await page.goto(origin);
  await settled(page);
  assert.match(await textOf(page, "notices"), /has no room to keep the bundle/);
  await fill(page, { num_inference_steps: 1 });
  await render(page);
  assert.equal(await textOf(page, "status"), "Done");
});

inBrowser("a file that is altered, and one that is missing", async (context) => {
  tamper = async (path, body) => {
    if (path.endsWith("unet/model.onnx.data")) body[1000] ^= 1;
    return false;
  };
  const page = await openPage(context);
  assert.match(await textOf(page, "error"), /unet\/model\.onnx\.data is damaged/);
  tamper = async (path, body, response) =>
    path.endsWith("vae_decoder/model.onnx") && response.writeHead(404).end();
  await page.getByRole("button", { name: "Open again" }).click();
  await settled(page);
  assert.match(await textOf(page, "error"), /vae_decoder\/model\.onnx is missing/);
  tamper = async () => false;
  await page.getByRole("button", { name: "Open again" }).click();
  await settled(page);
  assert.equal(await textOf(page, "error"), "");
  assert.equal(await textOf(page, "status"), "Ready");
});

inBrowser("a download that breaks off, and goes on later where it was", async (context) => {
  tamper = async (path, body, response) => {
    if (!path.endsWith("unet/model.onnx.data")) return false;
    response.setHeader("Content-Length", body.length);
    response.write(body.subarray(0, 100000), () => response.destroy());
    return true;
  };
  const page = await openPage(context);
  assert.match(
    await textOf(page, "error"),
    /unet\/model\.onnx\.data cannot be fetched: .*after \d+ bytes/,
  );
  [seen, tamper] = [[], async () => false];
  await page.getByRole("button", { name: "Open again" }).click();
  await settled(page);
  assert.equal(await textOf(page, "status"), "Ready");
  assert.ok(
    !seen.some((path) => path.includes("text_encoder")),
    "what was there is not fetched again",
  );
});

inBrowser("a download and a picture are stopped", async (context) => {
  let isSlow = true;
  tamper = async (path, body, response) => {
    if (!isSlow || !path.endsWith("unet/model.onnx.data")) return false;
    response.write(body.subarray(0, 100000)); // the rest never comes
    return true;
  };
  const page = await context.newPage();
  await page.goto(origin);
  await page.waitForFunction(
    () => /Fetching/.test(document.getElementById("detail").textContent),
    null,
    WAIT,
  );
  await page.getByRole("button", { name: "Stop" }).click();
  await settled(page);
  assert.equal(await textOf(page, "status"), "Stopped");
  isSlow = false;
  await page.getByRole("button", { name: "Open again" }).click();
  await settled(page);
  await fill(page, { num_inference_steps: 900 });
  await page.getByRole("button", { name: "Render" }).click();
  await page.waitForFunction(
    () => /Step 2 of 900/.test(document.getElementById("detail").textContent),
    null,
    WAIT,
  );
  await page.getByRole("button", { name: "Stop" }).click();
  await settled(page);
  assert.equal(await textOf(page, "status"), "Stopped");
  await fill(page, { num_inference_steps: 1 });
  await render(page);
  assert.equal(await textOf(page, "status"), "Done");
});

inBrowser("a server that answers with a page where there is no file", async (context) => {
  tamper = async (path, body, response) => {
    if (!path.endsWith("solvers.json")) return false;
    response.setHeader("Content-Type", "text/html; charset=utf-8").end("<!doctype html>");
    return true;
  };
  const page = await openPage(context);
  assert.equal(await textOf(page, "status"), "Ready");
  assert.equal(await textOf(page, "notices"), "");
  assert.ok(await page.locator("option[value=fitted]").isDisabled());
  tamper = async (path, body) => {
    if (path.endsWith("solvers.json")) body[1] ^= 1;
    return false;
  };
  await page.reload();
  await settled(page);
  assert.equal(await textOf(page, "status"), "Ready");
  assert.match(await textOf(page, "notices"), /solvers\.json cannot be read/);
});

inBrowser("an answer that never ends", async (context) => {
  tamper = async (path, body, response) => {
    if (!path.endsWith("vocab.txt")) return false;
    const more = () => response.write(Buffer.alloc(1000000), more);
    more();
    return true;
  };
  const page = await openPage(context);
  assert.match(await textOf(page, "error"), /vocab\.txt cannot be fetched: the file is larger/);
});

inBrowser(
  "where there is no bundle, no GPU, no ONNX Runtime, or no way to hash",
  async (context) => {
    assert.match(
      await textOf(await openPage(context, `${origin}/?bundle=none`), "error"),
      /There is no bundle at .*none\/: no bundle\.json is there/,
    );
    assert.match(
      await textOf(await openPage(context, `${origin}/?bundle=http://`), "error"),
      /no URL/,
    );
    const page = await openPage(context);
    await page.getByLabel("Runs on").selectOption("webgpu");
    await settled(page);
    assert.match(await textOf(page, "error"), /offers no GPU to this page/);
    tamper = async (path, body, response) =>
      path.endsWith(".wasm") && response.writeHead(404).end();
    await page.getByLabel("Runs on").selectOption("wasm");
    await settled(page);
    assert.match(await textOf(page, "error"), /ONNX Runtime does not start: .*npm ci/);
    const elsewhere = await openPage(context, origin.replace("localhost", "elsewhere.test"));
    assert.match(await textOf(elsewhere, "error"), /by https or from localhost/);
  },
);

inBrowser("what a request cannot be", async (context) => {
  const page = await openPage(context);
  await fill(page, { num_inference_steps: 1, guidance_scale: 1, width: 8192, height: 8192 });
  await render(page);
  assert.match(await textOf(page, "error"), /memory that a program may take does not hold this/);
  await fill(page, { width: 64, height: 64 });
  await fill(page, { num_inference_steps: 1, guidance_scale: 100000 });
  await render(page);
  assert.match(
    await textOf(page, "error"),
    /`guidance_scale` is 100000; a number from -10000 to 10000 is accepted/,
  );
  await fill(page, { guidance_scale: 1, prompt: "a red circle ".repeat(40) });
  await render(page);
  assert.match(await textOf(page, "facts"), /this has no effect: “(a )?(red )?circle/);
});
