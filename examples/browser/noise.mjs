// The random stream of an image: NumPy's legacy one. Twin: engine/ldm_engine/sampling/noise.py.
// Math.log may differ from C's in the last bit of float64, which float32 does not hold.

const SIZE = 624;

export class NoiseStream {
  #state = new Uint32Array(SIZE);
  #next = SIZE;
  #kept = null;

  /** `seed`: 0 to 2 ** 32 - 1. */
  constructor(seed) {
    this.#state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const before = this.#state[i - 1];
      this.#state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
  }

  /** Write the next standard normal values into a Float32Array. */
  fill(values) {
    for (let i = 0; i < values.length; i++) values[i] = this.#normal();
    return values;
  }

  #normal() {
    if (this.#kept !== null) {
      const kept = this.#kept;
      this.#kept = null;
      return kept;
    }
    let x, y, square;
    do {
      x = 2 * this.#uniform() - 1;
      y = 2 * this.#uniform() - 1;
      square = x * x + y * y;
    } while (square >= 1 || square === 0);
    const factor = Math.sqrt((-2 * Math.log(square)) / square);
    this.#kept = factor * x;
    return factor * y;
  }

  #uniform() {
    return ((this.#draw() >>> 5) * 2 ** 26 + (this.#draw() >>> 6)) / 2 ** 53;
  }

  #draw() {
    if (this.#next === SIZE) this.#twist();
    let y = this.#state[this.#next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #twist() {
    const state = this.#state;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + 397) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#next = 0;
  }
}
