// The noise schedule of scheduler_config.json, and solvers as rows of weights, one a call of the UNet:
//   m = p x + q eps,   x' = a x + b[0] m + b[1] m_before + ... + s z
// Twins: engine/ldm_engine/sampling/schedule.py, engine/ldm_engine/sampling/solvers.py.
import { ensure } from "./errors.mjs";

const isBeta = (value) => typeof value === "number" && value > 0 && value < 1;
/** Of each key which values are accepted, and the one that it has where it is missing. */
const KEYS = {
  _class_name: [["DDIMScheduler"], "DDIMScheduler"],
  prediction_type: [["epsilon"], "epsilon"],
  clip_sample: [[false], true],
  thresholding: [[false], false],
  rescale_betas_zero_snr: [[false], false],
  trained_betas: [[null], null],
  beta_schedule: [["linear", "scaled_linear"], "linear"],
  timestep_spacing: [["leading", "linspace"], "leading"],
  num_train_timesteps: [(n) => Number.isInteger(n) && n >= 1 && n <= 1e6, 1000],
  steps_offset: [[0, 1], 0],
  set_alpha_to_one: [[true, false], true],
  beta_start: [isBeta, 0.0001],
  beta_end: [isBeta, 0.02],
};

export class NoiseSchedule {
  constructor(config) {
    const faults = [];
    for (const [key, [accepted, missing]] of Object.entries(KEYS)) {
      const value = (this[key] = key in config ? config[key] : missing);
      const fits = typeof accepted === "function" ? accepted(value) : accepted.includes(value);
      if (!fits) faults.push(`\`${key}\` is ${JSON.stringify(value)}`);
    }
    if (!faults.length) {
      this.alphas = this.#alphasCumprod(); // of each timestep, as float32 holds it
      const falls = this.alphas.every((a, t) => a > 0 && a < (t ? this.alphas[t - 1] : 1));
      if (!falls) faults.push("the signal does not fall with every step from below 1 to above 0");
    }
    ensure(
      !faults.length,
      `The bundle's scheduler_config.json cannot be run: ${faults.join("; ")}.`,
    );
  }

  #alphasCumprod() {
    const isScaled = this.beta_schedule === "scaled_linear";
    const ends = [this.beta_start, this.beta_end].map((b) => (isScaled ? Math.sqrt(b) : b));
    let product = 1;
    return Float32Array.from(linspace(...ends, this.num_train_timesteps), (beta) => {
      product *= Math.fround(1 - Math.fround(isScaled ? beta * beta : beta));
      return product;
    });
  }

  #ddimTimesteps(steps) {
    const stride = Math.floor(this.num_train_timesteps / steps);
    return this.timestep_spacing === "leading"
      ? Array.from({ length: steps }, (_, i) => (steps - 1 - i) * stride + this.steps_offset)
      : linspace(0, this.num_train_timesteps - 1, steps)
          .map(roundHalfEven)
          .reverse();
  }

  /** Rows of DDIM (arXiv:2010.02502); `eta` from 0 to 1. */
  ddimRows(steps, eta, timesteps = null) {
    const last = this.num_train_timesteps - 1;
    const stride = Math.floor(this.num_train_timesteps / steps);
    const final = this.set_alpha_to_one ? 1 : this.alphas[0];
    return (timesteps ?? this.#ddimTimesteps(steps)).map((given, i) => {
      const before = timesteps ? (timesteps[i + 1] ?? -1) : given - stride;
      const timestep = Math.min(given, last);
      const [now, then] = [this.alphas[timestep], before >= 0 ? this.alphas[before] : final];
      const sigma = eta * Math.sqrt(Math.max(((1 - then) / (1 - now)) * (1 - now / then), 0));
      const a = Math.sqrt(then / now);
      const b = Math.sqrt(Math.max(1 - then - sigma ** 2, 0)) - Math.sqrt(1 - now) * a;
      return { timestep, p: 0, q: 1, a, b: [b], s: sigma };
    });
  }

  /** Rows of DPM-Solver++ 2M (arXiv:2211.01095). */
  dpmsolverRows(steps, timesteps = this.#logSnrTimesteps(steps)) {
    const points = timesteps.map((t) => this.#point(t));
    points.push({ alpha: 1, sigma: 0, lambda: Infinity });
    return timesteps.map((timestep, i) => {
      const [now, then] = [points[i], points[i + 1]];
      const h = then.lambda - now.lambda;
      const weight = then.alpha * -Math.expm1(-h);
      const half = (0.5 * h) / (now.lambda - points[i - 1]?.lambda);
      const isSecondOrder = i > 0 && i < timesteps.length - 1;
      const b = isSecondOrder ? [weight * (1 + half), -weight * half] : [weight];
      return {
        timestep,
        p: 1 / now.alpha,
        q: -now.sigma / now.alpha,
        a: then.sigma / now.sigma,
        b,
        s: 0,
      };
    });
  }

  #point(timestep) {
    const [alpha, sigma] = [this.alphas[timestep], 1 - this.alphas[timestep]].map(Math.sqrt);
    return { alpha, sigma, lambda: Math.log(alpha / sigma) }; // lambda: half the log-SNR
  }

  /** As many timesteps as steps, even in log-SNR; where that is too fine, without gaps. */
  #logSnrTimesteps(steps) {
    const lambdas = Array.from(this.alphas, (_, t) => this.#point(t).lambda); // descending
    const low = lambdas.at(-1);
    const span = lambdas[0] - low;
    const last = steps - 1;
    const timesteps = [];
    for (let i = 0; i < steps; i++) {
      const near = nearest(lambdas, low + (last ? (span * i) / last : 0));
      timesteps.push(i ? Math.min(near, timesteps[i - 1] - 1) : near);
    }
    return timesteps.map((timestep, i) => Math.max(timestep, last - i));
  }
}

/** The index of the value next to `wanted` in a descending list; of two as near, the later. */
function nearest(descending, wanted) {
  const after = descending.findIndex((value) => value <= wanted);
  if (after < 0) return descending.length - 1;
  const before = Math.max(after - 1, 0);
  return descending[before] - wanted >= wanted - descending[after] ? after : before;
}

/** `count` even steps from `first` to `last`, as NumPy's linspace. */
function linspace(first, last, count) {
  const step = count > 1 ? (last - first) / (count - 1) : 0;
  return Array.from({ length: count }, (_, i) => (i && i === count - 1 ? last : i * step + first));
}

function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
