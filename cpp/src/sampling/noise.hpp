// The random stream: one seed gives one image, in any batch, runtime and process, and in Python.
// Its twin is engine/ldm_engine/sampling/noise.py; tests/data/noise.json holds both to the same
// numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>

namespace ldm_engine {

/// What numpy.random.RandomState(seed).standard_normal draws: MT19937 and the legacy polar
/// Gaussian, which NumPy has frozen (NEP 19).
class NoiseStream {
 public:
  explicit NoiseStream(std::uint32_t seed) : generator_(seed) {}

  /// Write the next `count` standard normal values.
  void fill(float* out, std::size_t count);

 private:
  double uniform();
  double normal();

  std::mt19937 generator_;
  double kept_ = 0;  // the second value of a pair
  bool has_kept_ = false;
};

}  // namespace ldm_engine
