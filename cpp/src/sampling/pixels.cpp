// What the decoder gave, judged and turned into 8-bit images.
#include "sampling/pixels.hpp"

#include <algorithm>
#include <cmath>

#include "ldm_engine/errors.hpp"

namespace ldm_engine {

void check_finite(const float* values, std::size_t size, const std::vector<std::uint32_t>& seeds,
                  const char* where) {
  std::string bad;
  std::size_t count = 0;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    const float* row = values + i * size;
    if (std::all_of(row, row + size, [](float x) { return std::isfinite(x); })) continue;
    bad += (bad.empty() ? "" : ", ") + std::to_string(seeds[i]);
    ++count;
  }
  if (count > 0) {
    throw NonFiniteError(std::to_string(count) + " of " + std::to_string(seeds.size()) +
                         " images came out of " + where + " as NaN or infinity (seeds " + bad +
                         "). Check the bundle with `ldm-engine verify`; a very large "
                         "guidance_scale can cause this too.");
  }
}

bool is_flat(const float* pixels, std::size_t count) {
  for (std::size_t channel = 0; channel < 3; ++channel) {
    float low = pixels[channel], high = pixels[channel];
    for (std::size_t i = channel; i < count; i += 3) {
      low = std::min(low, pixels[i]);
      high = std::max(high, pixels[i]);
    }
    if (static_cast<double>(high - low) >= 1.0 / 255) return false;
  }
  return true;
}

Image to_image(const float* pixels, int height, int width) {
  Image image;
  image.width = width;
  image.height = height;
  image.rgb.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3);
  for (std::size_t i = 0; i < image.rgb.size(); ++i) {
    const float value = std::clamp(pixels[i] * 255.0F, 0.0F, 255.0F);
    image.rgb[i] = static_cast<std::uint8_t>(std::nearbyint(value));  // halves to even, as NumPy
  }
  return image;
}

}  // namespace ldm_engine
