// A bundle at a URL: files are fetched once, and kept by the bundle's digest.
import { LDMError } from "./errors.mjs";

const CACHE = "ldm-engine ";
const MAX_UNKNOWN_BYTES = 64 * 2 ** 20; // of bundle.json and solvers.json, whose size nobody says

export class WebSource {
  #base;
  #onBytes;
  #onNotice;

  /**
   * `onBytes(count)` is called as bytes of listed files arrive or are found kept, `onNotice(text)`
   * with what a person may want to know.
   */
  constructor(url, { onBytes = () => {}, onNotice = () => {} } = {}) {
    this.#base = new URL(url);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    [this.#onBytes, this.#onNotice] = [onBytes, onNotice];
  }

  /** For people. */
  get place() {
    return this.#base.href;
  }

  /** Keep files from now on; `digest` names the bundle. */
  async keepFor(digest) {
    this.digest = digest;
    this.cache = await globalThis.caches?.open(CACHE + digest).catch(() => undefined);
    if (!this.cache)
      this.#onNotice("This browser keeps no files: they are fetched again next time.");
  }

  /**
   * As Bundle.open wants it. What a manifest lists (`check` is given) is kept, and read by one tab
   * at a time.
   */
  async read(name, size, check) {
    if (!check || !this.cache) return this.#fetch(name, size, check);
    const work = async () => (await this.#kept(name, check)) ?? this.#fetch(name, size, check);
    return navigator.locks.request(`${CACHE}${this.digest} ${name}`, work);
  }

  async #kept(name, check) {
    try {
      const response = await this.cache.match(`/${name}`);
      if (!response) return null;
      const bytes = new Uint8Array(await response.arrayBuffer());
      await check(bytes);
      this.#onBytes(bytes.length);
      return bytes;
    } catch {
      return null; // damaged, or out of reach: fetched again
    }
  }

  async #fetch(name, size, check) {
    const bytes = await this.#download(name, size);
    if (!bytes) return null;
    await check?.(bytes);
    if (check) await this.#keep(name, bytes);
    return bytes;
  }

  async #download(name, size) {
    const url = Object.assign(new URL(name, this.#base), { search: this.#base.search });
    const parts = [];
    let count = 0;
    try {
      const response = await fetch(url, { cache: "no-cache" });
      // Some servers answer with a page, or refuse, where there is no file.
      const isPage = response.headers.get("Content-Type")?.startsWith("text/html");
      if ([403, 404, 410].includes(response.status) || isPage) return null;
      if (!response.ok) throw new Error(`the server answers ${response.status}`);
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        count += value.length;
        if (size !== undefined) this.#onBytes(value.length);
        if (count > (size ?? MAX_UNKNOWN_BYTES)) {
          await reader.cancel();
          throw new Error("the file is larger than it may be");
        }
      }
    } catch (error) {
      throw new LDMError(
        `${url.href} cannot be fetched: ${error.message}, after ${count} bytes. Is the server there, and does it allow this page's origin (CORS)? What has come is kept; try again.`,
      );
    }
    const bytes = new Uint8Array(count);
    parts.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
    return bytes;
  }

  async #keep(name, bytes) {
    if (!this.cache) return;
    const put = () => this.cache.put(`/${name}`, new Response(bytes));
    try {
      await put().catch(async () => {
        await forgetOthers(this.digest);
        await put();
      });
    } catch (error) {
      this.cache = null;
      this.#onNotice(
        `The browser has no room to keep the bundle (${error.name}): it is fetched again.`,
      );
    }
  }
}

/** Drop the files of all bundles but one. */
async function forgetOthers(digest) {
  for (const name of await caches.keys()) {
    if (name.startsWith(CACHE) && name !== CACHE + digest) await caches.delete(name);
  }
}
