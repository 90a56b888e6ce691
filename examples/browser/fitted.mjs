// solvers.json: solvers fitted to the bundle, and which of them serves a request. Twins:
// engine/ldm_engine/sampling/solvers_file.py, engine/ldm_engine/sampling/fitted.py.
import { isCount, readSealed, sha256 } from "./bundle.mjs";
import { LDMError, ensure } from "./errors.mjs";

const FIGURES = ["median", "tenth_percentile", "least"];
const MAX_GAP = 1; // between the guidances of two tables whose weights are mixed

export class Tables {
  #tables = [];
  /** Why those that the bundle has cannot be used, "" if they can. */
  fault = "";

  /** Of the bytes of solvers.json that `read` gives, null where there is none. */
  static async of(read, digest, schedule) {
    const tables = new Tables();
    try {
      const bytes = await read();
      if (bytes) tables.#tables = await parseTables(bytes, digest, schedule);
    } catch (error) {
      if (!(error instanceof LDMError)) throw error;
      tables.fault = error.message; // nothing but fitted solvers needs the file
    }
    return tables;
  }

  /** The guidances that there are tables for. */
  get guidances() {
    return [...new Set(this.#tables.map((table) => table.guidance_scale))];
  }

  /**
   * The table of as many steps, or with "auto" of the fewest that reach DDIM's 50; mixed from its
   * neighbours where need be.
   */
  find(guidance, steps) {
    ensure(!this.fault, this.fault);
    const counts = [...new Set(this.#tables.map((table) => table.timesteps.length))];
    const of = (count) => this.#tables.filter((table) => table.timesteps.length === count);
    const serving = counts.sort((a, b) => a - b).map((count) => serve(of(count), guidance));
    const found = serving.filter(Boolean);
    const had = this.guidances.join(", ") || "none";
    ensure(
      found.length,
      `The bundle has no fitted solver for a guidance of ${guidance}, but for ${had}. Give one of these, or another solver.`,
    );
    const lengths = found.map((table) => table.timesteps.length).join(", ");
    const isWanted = ({ timesteps }) => timesteps.length === steps;
    const table = found.find(steps === "auto" ? reaches : isWanted);
    ensure(
      table,
      steps === "auto"
        ? `No fitted solver of the bundle reaches DDIM's 50 steps at a guidance of ${guidance}; those of ${lengths} do not. Give another solver.`
        : `The bundle has no fitted solver of ${steps} steps for a guidance of ${guidance}, but of ${lengths}. Give one of these, or another solver.`,
    );
    return table;
  }
}

/** The tables of a file, by guidance, then by steps. */
async function parseTables(bytes, digest, schedule) {
  const { bundle, tables } = await readSealed("solvers.json", bytes, "solvers_sha256", 1);
  const isGood =
    bundle === digest && Array.isArray(tables) && tables.every((table) => isTable(table, schedule));
  const keys = isGood ? tables.map((t) => `${t.guidance_scale} ${t.timesteps.length}`) : [];
  ensure(
    isGood && new Set(keys).size === keys.length,
    "solvers.json is not this bundle's, or not valid. Fit it again with `ldm-engine fit`, or remove it.",
  );
  return tables.sort(
    (a, b) => a.guidance_scale - b.guidance_scale || a.timesteps.length - b.timesteps.length,
  );
}

const reaches = ({ figures, ddim_50 }) => FIGURES.every((name) => figures[name] >= ddim_50[name]);

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
const isList = (value, low, high) =>
  Array.isArray(value) && value.length >= low && value.length <= high;
const isFigures = (figures) =>
  FIGURES.every((name) => isWithin(figures?.[name], 1000)) && isCount(figures.count);

/** Whether it is a table, in all that is read of it here. */
function isTable(table, schedule) {
  const { timesteps, weights, guidance_scale, figures, ddim_50 } = table ?? {};
  const isBelow = (t, i) => t < (timesteps[i - 1] ?? schedule.num_train_timesteps);
  const isRow = (row, i) =>
    isList(row, 2, 2 + Math.min(i, 15)) && row.every((weight) => isWithin(weight, 100));
  return (
    isList(timesteps, 1, 200) &&
    timesteps.every((t, i) => Number.isInteger(t) && t >= 0 && isBelow(t, i)) &&
    isList(weights, timesteps.length, timesteps.length) &&
    weights.every(isRow) &&
    isWithin(guidance_scale, 10000) &&
    [figures, ddim_50].every(isFigures)
  );
}
