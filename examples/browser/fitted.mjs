// solvers.json: solvers fitted to the bundle, and which of them serves a request. Twins:
// engine/ldm_engine/sampling/solvers_file.py and fitted.py; vectors: tests/data/solvers_files.json.
import { LDMError, isCount, readSealed, sha256 } from "./bundle.mjs";

const MAX_GAP = 1; // between the guidances of two tables whose weights are mixed

export class Tables {
  #tables;

  /** Of the file's `bytes`, or of none. */
  static async read(bytes, digest, schedule) {
    const tables = new Tables();
    const raw = bytes
      ? await readSealed("solvers.json", bytes, "solvers_sha256", 1)
      : { bundle: digest, tables: [] };
    const isGood =
      raw.bundle === digest &&
      Array.isArray(raw.tables) &&
      raw.tables.every((table) => isTable(table, schedule));
    const keys =
      isGood && raw.tables.map((table) => `${table.guidance_scale} ${table.timesteps.length}`);
    if (!isGood || new Set(keys).size < keys.length) {
      throw new LDMError(
        "solvers.json is not this bundle's, or not valid. Fit it again with `ldm-engine fit`, or remove it.",
      );
    }
    tables.#tables = raw.tables.sort(
      (a, b) => a.guidance_scale - b.guidance_scale || a.timesteps.length - b.timesteps.length,
    );
    return tables;
  }

  /** The guidances that there are tables for. */
  get guidances() {
    return [...new Set(this.#tables.map((table) => table.guidance_scale))];
  }

  /** The table of as many steps, or with "auto" of the fewest that reach DDIM's 50; mixed where need be. */
  find(guidance, steps) {
    const serving = [...new Set(this.#tables.map((table) => table.timesteps.length))]
      .sort((a, b) => a - b)
      .map((count) =>
        serve(
          this.#tables.filter((table) => table.timesteps.length === count),
          guidance,
        ),
      )
      .filter(Boolean);
    const found = serving.find((table) =>
      steps === "auto" ? reaches(table) : table.timesteps.length === steps,
    );
    if (!found) {
      throw new LDMError(
        `The bundle has no fitted solver of ${steps} steps for a guidance of ${guidance}. It has some for ${this.guidances.join(", ") || "none"}: give one of these, or another solver.`,
      );
    }
    return found;
  }
}

const reaches = ({ figures, ddim_50 }) =>
  ["median", "tenth_percentile", "least"].every((name) => figures[name] >= ddim_50[name]);

/** Of some tables of as many steps, by guidance, the one for `guidance`, or a mixture of its neighbours. */
function serve(tables, guidance) {
  const low = tables.findLast((table) => table.guidance_scale <= guidance);
  const high = tables.find((table) => table.guidance_scale > guidance);
  if (low?.guidance_scale === guidance) return low;
  const form = ({ timesteps, weights }) => `${timesteps} ${weights.map((row) => row.length)}`;
  const gap = high?.guidance_scale - low?.guidance_scale;
  if (!(gap <= MAX_GAP) || form(low) !== form(high)) return null;
  const share = (guidance - low.guidance_scale) / gap;
  const weights = low.weights.map((row, i) =>
    row.map((a, k) => (1 - share) * a + share * high.weights[i][k]),
  );
  return { ...(reaches(low) ? high : low), guidance_scale: guidance, weights };
}

/** The solver's rows, in the data form. */
export function fittedRows(schedule, { timesteps, weights }) {
  const forms = schedule.dpmsolverRows(timesteps.length, timesteps);
  return forms.map((form, i) => ({ ...form, a: weights[i][0], b: weights[i].slice(1) }));
}

/** The name of a table in recipes. */
export async function tableDigest({ timesteps, weights }) {
  const numbers = timesteps.flatMap((timestep, i) => [timestep, weights[i].length, ...weights[i]]);
  const bytes = new DataView(new ArrayBuffer(8 * numbers.length));
  numbers.forEach((number, i) => bytes.setFloat64(8 * i, number, true));
  return (await sha256(bytes)).slice(0, 16);
}

const isWithin = (value, limit) => typeof value === "number" && Math.abs(value) <= limit;
const isFigures = (f) =>
  isCount(f?.count) &&
  ["median", "tenth_percentile", "least"].every((name) => isWithin(f[name], 1000));

function isTable(table, schedule) {
  const { timesteps, weights, origin } = table ?? {};
  return (
    Array.isArray(timesteps) &&
    timesteps.length > 0 &&
    timesteps.length <= 200 &&
    timesteps.every(
      (t, i) =>
        Number.isInteger(t) && t >= 0 && t < (i ? timesteps[i - 1] : schedule.num_train_timesteps),
    ) &&
    Array.isArray(weights) &&
    weights.length === timesteps.length &&
    weights.every(
      (row, i) =>
        Array.isArray(row) &&
        row.length > 1 &&
        row.length <= 2 + Math.min(i, 15) &&
        row.every((w) => isWithin(w, 100)),
    ) &&
    isWithin(table.guidance_scale, 10000) &&
    isWithin(table.reference_db, 1000) &&
    [table.figures, table.ddim_50, table.dpmsolver].every(isFigures) &&
    isCount(origin?.images)
  );
}
