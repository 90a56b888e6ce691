// A bundle at a URL: files are fetched once, and kept by the bundle's digest where the browser lets them.
import { LDMError } from "./bundle.mjs";

const CACHE = "ldm-engine ";

export class WebSource {
  #url;
  #signal;
  #onBytes;
  #onNotice;

  /** `onBytes(count)` is called as bytes arrive or are found kept, `onNotice(text)` with what a person may want to know. */
  constructor(url, { signal, onBytes = () => {}, onNotice = () => {} } = {}) {
    this.#url = url.endsWith("/") ? url : `${url}/`;
    [this.#signal, this.#onBytes, this.#onNotice] = [signal, onBytes, onNotice];
  }

  get place() {
    return this.#url;
  }

  /** Keep files from now on; `digest` names the bundle. */
  async keepFor(digest) {
    this.cache = await globalThis.caches?.open(CACHE + digest).catch(() => undefined);
    this.digest = digest;
    if (!this.cache)
      this.#onNotice(
        "This browser keeps no files for this page: they are fetched again next time.",
      );
  }

  /** As Bundle.open wants it; what a manifest lists (`check` is given) is kept, and read by one tab at a time. */
  async read(name, size, check) {
    if (!check || !this.cache) return this.#fetch(name, size, check);
    const lock = navigator.locks
      ? (work) => navigator.locks.request(`${CACHE}${this.digest} ${name}`, work)
      : (work) => work();
    return lock(async () => (await this.#kept(name, check)) ?? this.#fetch(name, size, check));
  }

  async #kept(name, check) {
    const response = await this.cache.match(`/${name}`);
    if (!response) return null;
    try {
      const bytes = new Uint8Array(await response.arrayBuffer());
      await check(bytes);
      this.#onBytes(bytes.length);
      return bytes;
    } catch {
      await this.cache.delete(`/${name}`); // damaged: fetched again
      return null;
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
    const parts = [];
    let count = 0;
    try {
      const response = await fetch(this.#url + name, { signal: this.#signal, cache: "no-cache" });
      if (response.status === 404) return null;
      if (!response.ok) throw new Error(`the server answers ${response.status}`);
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        count += value.length;
        if (size !== undefined) this.#onBytes(value.length);
      }
    } catch (error) {
      this.#signal?.throwIfAborted();
      throw new LDMError(
        `${this.#url}${name} cannot be fetched: ${error.message}, after ${count} bytes. Files that are there already are kept; try again.`,
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
        `The browser has no room to keep the bundle (${error.name}): it is fetched again next time.`,
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
