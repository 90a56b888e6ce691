// The random stream: one seed gives one image, in any batch, runtime and process, and in Python.
#include "noise.hpp"

#include <cmath>
#include <limits>
#include <string>

#include "ldm_engine/errors.hpp"

namespace ldm_engine {
namespace {

constexpr std::int64_t kMaxSeed = std::numeric_limits<std::uint32_t>::max();

}  // namespace

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

std::vector<std::uint32_t> resolve_seeds(const PerImage<std::int64_t>& seed,
                                         std::size_t batch_size) {
  std::vector<std::uint32_t> seeds;
  if (!seed.is_list && seed.values.empty()) {
    std::random_device source;
    for (std::size_t i = 0; i < batch_size; ++i) seeds.push_back(source());
    return seeds;
  }
  if (seed.is_list && seed.values.size() != batch_size) {
    throw InvalidArgumentError(
        "`seed` lists " + std::to_string(seed.values.size()) + " seeds for " +
        std::to_string(batch_size) +
        " images; give one an image, or one number s for the seeds s, s + 1, ...");
  }
  for (std::size_t i = 0; i < batch_size; ++i) {
    const std::int64_t first = seed.is_list ? seed.values[i] : seed.values.front();
    const std::int64_t value = seed.is_list || first < 0 || first > kMaxSeed
                                   ? first
                                   : first + static_cast<std::int64_t>(i);
    if (value < 0 || value > kMaxSeed) {
      throw InvalidArgumentError("`seed` asks for " + std::to_string(value) +
                                 "; whole numbers from 0 to 4294967295 (2**32 - 1) are accepted "
                                 "for every image.");
    }
    seeds.push_back(static_cast<std::uint32_t>(value));
  }
  return seeds;
}

}  // namespace ldm_engine
