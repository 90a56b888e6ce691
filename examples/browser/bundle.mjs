// A bundle's files: bundle.json, and through it every other one, by size and sha256. Twin:
// engine/ldm_engine/bundle/manifest.py.
import { LDMError, ensure } from "./errors.mjs";

export const PROGRAMS = ["text_encoder", "time_encoder", "unet", "vae_decoder"];
const NEWEST = 2;
export const MAX_PIXELS = 8192;
const EXPORT =
  "Export it with `ldm-engine export CHECKPOINT BUNDLE --formats onnx --weights fp16`.";
const COPY = "Copy the bundle again.";
const ZEROS = "0".repeat(64);
/** The tensors of each program, inputs and outputs; -1 is any size. */
const contract = ({
  latent_channels: c,
  token_length: t,
  text_kv_width: k,
  time_shift_width: r,
}) => {
  const [latents, text] = [
    ["latents", "float32", [-1, c, -1, -1]],
    ["text_kv", "float32", [-1, t, k]],
  ];
  return {
    text_encoder: [[["input_ids", "int64", [-1, t]]], [text]],
    time_encoder: [[["timesteps", "float32", [-1]]], [["time_shift", "float32", [-1, r]]]],
    unet: [
      [latents, ["time_shift", "float32", [1, r]], text],
      [["noise_pred", "float32", [-1, c, -1, -1]]],
    ],
    vae_decoder: [[latents], [["image", "float32", [-1, -1, -1, 3]]]],
  };
};
const SIZES = [
  "latent_channels",
  "scale_factor",
  "size_multiple",
  "sample_size",
  "token_length",
  "vocab_size",
  "time_shift_width",
  "text_kv_width",
];
/** What a bundle may say of its tokenizer, and what is so where it does not. */
const TOKENIZER = {
  kind: "wordpiece",
  lowercase: false,
  strip_accents: null,
  handle_chinese_chars: true,
  clean_text: true,
  max_input_chars_per_word: 100,
  continuing_subword_prefix: "##",
  unk_token: "[UNK]",
  cls_token: "[CLS]",
  sep_token: "[SEP]",
  pad_token: "[PAD]",
  added_tokens: null,
};
const TOKEN = {
  content: "",
  id: 0,
  special: false,
  normalized: true,
  single_word: false,
  lstrip: false,
  rstrip: false,
};

export const isCount = (value) => Number.isInteger(value) && value > 0 && value < 2 ** 31;
export const isUnicode = (text) => !/\p{Surrogate}/u.test(text); // half a character is not
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Of a Uint8Array or of text. */
export async function sha256(content) {
  const isAllowed = globalThis.crypto?.subtle !== undefined;
  ensure(
    isAllowed,
    "This page cannot check files: browsers hash only where pages came by https or from localhost.",
  );
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The text of a file. */
export function readText(name, bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new LDMError(`${name} is not UTF-8. ${COPY}`);
  }
}

/** The object in a JSON file. */
export function readJson(name, bytes) {
  const text = readText(name, bytes);
  let content;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw new LDMError(`${name} cannot be read: ${error.message}. ${COPY}`);
  }
  ensure(isObject(content), `${name} cannot be read: a JSON object is expected. ${COPY}`);
  return content;
}

/** The object in a JSON file that holds its own sha256 under `key`. */
export async function readSealed(name, bytes, key, newest) {
  const content = readJson(name, bytes);
  const { format_version: version, [key]: hash } = content;
  ensure(
    Number.isInteger(version) && version >= 1 && version <= newest,
    `${name} has format version ${JSON.stringify(version)}; 1 to ${newest} are read. A newer page reads newer ones.`,
  );
  const unsealed = readText(name, bytes).replace(`"${key}": "${hash}"`, `"${key}": "${ZEROS}"`);
  ensure(
    (await sha256(unsealed)) === hash,
    `${name} was altered after it was written: it does not match its sha256. ${COPY}`,
  );
  return content;
}

export class Bundle {
  /**
   * `source.read(name, size, check)` gives a file as a Uint8Array that `check` let pass, or null
   * where there is none. `source.place` is for people.
   */
  static async open(source) {
    const bytes = await source.read("bundle.json");
    ensure(bytes, `There is no bundle at ${source.place}: no bundle.json is there. ${EXPORT}`);
    const raw = await readSealed("bundle.json", bytes, "manifest_sha256", NEWEST);
    const bundle = new Bundle();
    try {
      Object.assign(bundle, {
        source,
        model: raw.model,
        files: raw.files,
        parity: raw.parity.onnxruntime?.fp32 ?? {},
      });
      bundle.tokenizer = readTokenizer(
        raw.format_version > 1
          ? raw.tokenizer
          : { kind: "wordpiece", lowercase: raw.model.lowercase },
      );
      bundle.#check(raw);
      bundle.digest = await bundle.#digest(raw.programs);
    } catch (error) {
      if (error instanceof TypeError)
        throw new LDMError(`bundle.json is not a valid manifest: ${error.message}. ${COPY}`);
      throw error;
    }
    return bundle;
  }

  #check({ model, programs, files, parity }) {
    const isValid = (holds, what) =>
      ensure(holds, `bundle.json is not a valid manifest: ${what}. ${COPY}`);
    for (const key of SIZES)
      isValid(isCount(model[key]), `\`${key}\` is ${JSON.stringify(model[key])}`);
    const hasRest = typeof model.source === "string" && isObject(parity);
    isValid(hasRest, "`source` or `parity` is missing");
    const { sample_size: size, size_multiple: multiple, scale_factor: factor } = model;
    const isMade = size % multiple === 0 && size * factor <= MAX_PIXELS;
    isValid(isMade, `images of ${size * factor} pixels cannot be made`);
    for (const [name, tensors] of Object.entries(contract(model))) {
      const { inputs, outputs, formats } = programs[name];
      const given = [inputs, outputs].map((list) => list.map((t) => [t.name, t.dtype, t.shape]));
      const isModels = JSON.stringify(given) === JSON.stringify(tensors);
      isValid(isModels, `the tensors of ${name} are not those of its model`);
      ensure(
        formats.onnx,
        `The bundle holds ${name} as ${Object.keys(formats)}; onnx is what runs here. ${EXPORT}`,
      );
      const paths = String(formats.onnx.files);
      const isNamed = paths === `${name}/model.onnx,${name}/model.onnx.data`;
      isValid(isNamed, `the files of ${name} are ${paths}`);
    }
    for (const name of ["scheduler_config.json", "vocab.txt", ...filesOf(programs)]) {
      const { sha256: hash, bytes } = files[name] ?? {};
      isValid(typeof hash === "string" && Number.isInteger(bytes), `\`files\` lacks ${name}`);
    }
    for (const [name, { relative_l2_error: error, tolerance }] of Object.entries(this.parity)) {
      ensure(
        error <= tolerance || name === "vae_encoder",
        `The export measured ${name} outside its tolerance in ONNX Runtime: pictures would be wrong. ${EXPORT}`,
      );
    }
  }

  /** One hash of all that makes pixels, by which recipes name a bundle. */
  async #digest(programs) {
    const names = [...new Set(["scheduler_config.json", "vocab.txt", ...filesOf(programs)])].sort();
    const lines = names.map((name) => `${this.files[name].sha256}  ${name}\n`);
    const { kind, lowercase, ...more } = this.tokenizer;
    for (const key of Object.keys(more)) if (more[key] === TOKENIZER[key]) delete more[key];
    if (Object.keys(more).length) lines.push(`${sortedJson(more)}  tokenizer\n`);
    return sha256(lines.join(""));
  }

  /** A file that the manifest lists, verified. */
  async read(name) {
    const { bytes: size, sha256: hash } = this.files[name];
    const bytes = await this.source.read(name, size, async (found) => {
      const isWhole = found.length === size && (await sha256(found)) === hash;
      ensure(
        isWhole,
        `${name} is damaged: its size or sha256 is not what the bundle says. ${COPY}`,
      );
    });
    ensure(bytes, `${name} is missing at ${this.source.place}. ${COPY}`);
    return bytes;
  }
}

const filesOf = (programs) =>
  PROGRAMS.flatMap((name) =>
    Object.values(programs[name].formats).flatMap((format) => format.files),
  );

/** All of it is known, since what is ignored here would change ids. */
function readTokenizer(raw) {
  const isLike = {
    boolean: (value) => typeof value === "boolean",
    number: (value) => Number.isInteger(value) && value >= 0 && value < 2 ** 31,
    string: (value) => typeof value === "string" && value !== "" && isUnicode(value),
    object: (value) => value === null || typeof value === "boolean", // strip_accents
  };
  const known = (given, defaults, required) => {
    const wrong = Object.entries(given).find(
      ([key, value]) => !isLike[typeof defaults[key]]?.(value),
    );
    if (wrong)
      throw new LDMError(
        `The bundle's tokenizer has \`${wrong[0]}\`: ${JSON.stringify(wrong[1])}, which is not known here. A newer page reads newer bundles.`,
      );
    if (!required.every((key) => key in given))
      throw new TypeError(`\`tokenizer\` lacks ${required}`);
    return { ...defaults, ...given };
  };
  const { added_tokens: tokens, ...rest } = raw;
  const info = known(rest, TOKENIZER, ["kind", "lowercase"]);
  const added =
    "added_tokens" in raw ? tokens.map((token) => known(token, TOKEN, ["content", "id"])) : null;
  const isDistinct = ["content", "id"].every(
    (key) => new Set(added?.map((token) => token[key])).size === (added?.length ?? 0),
  );
  if (info.kind !== "wordpiece" || !isDistinct)
    throw new TypeError("`tokenizer` is not WordPiece, or adds a token twice");
  return { ...info, added_tokens: added };
}

/** As Python's json.dumps with sorted keys and no blanks. */
function sortedJson(value) {
  if (Array.isArray(value)) return `[${value.map(sortedJson)}]`;
  if (!isObject(value)) return JSON.stringify(value);
  return `{${Object.keys(value)
    .sort()
    .map((key) => `${JSON.stringify(key)}:${sortedJson(value[key])}`)}}`;
}
