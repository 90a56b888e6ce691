// The random stream: one seed gives one image, in any batch, runtime and process, and in Python.
#include "sampling/noise.hpp"

#include <cmath>

namespace ldm_engine {

void NoiseStream::fill(float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(normal());
}

/// A double in [0, 1) with 53 random bits, of two draws: the generator's published recipe.
double NoiseStream::uniform() {
  const std::uint_fast32_t high = generator_() >> 5;
  const std::uint_fast32_t low = generator_() >> 6;
  return (static_cast<double>(high) * 67108864.0 + static_cast<double>(low)) / 9007199254740992.0;
}

/// Marsaglia's polar method; the second value of each pair comes first, as in NumPy.
double NoiseStream::normal() {
  if (has_kept_) {
    has_kept_ = false;
    return kept_;
  }
  double x1 = 0, x2 = 0, square = 0;
  do {
    x1 = 2.0 * uniform() - 1.0;
    x2 = 2.0 * uniform() - 1.0;
    square = x1 * x1 + x2 * x2;
  } while (square >= 1.0 || square == 0.0);
  const double factor = std::sqrt(-2.0 * std::log(square) / square);
  kept_ = factor * x1;
  has_kept_ = true;
  return factor * x2;
}

}  // namespace ldm_engine
