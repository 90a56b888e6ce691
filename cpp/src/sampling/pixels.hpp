// What the decoder gave, judged and turned into 8-bit images.
// Its twin is engine/ldm_engine/sampling/pixels.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ldm_engine/image.hpp"

namespace ldm_engine {

/// Throws NonFiniteError, naming the seeds, if any row of `values` [B, size] holds NaN or infinity;
/// `where` says which part they came out of.
void check_finite(const float* values, std::size_t size, const std::vector<std::uint32_t>& seeds,
                  const char* where);

/// Whether an image [H, W, 3] of `count` values has a single colour.
bool is_flat(const float* pixels, std::size_t count);

/// Pixels [H, W, 3] in [0, 1] as an 8-bit image, rounded as the reference does.
Image to_image(const float* pixels, int height, int width);

}  // namespace ldm_engine
