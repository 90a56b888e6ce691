// The denoising loop over one UNet program: guidance and a weighted sum, in place in its tensors.
// It knows no solver: what to do is in the rows (solvers.hpp). Its twin is
// engine/ldm_engine/sampling/loop.py; tests/data/loop.json holds both to the same latents.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ldm_engine/request.hpp"
#include "runtimes/base.hpp"
#include "sampling/noise.hpp"
#include "sampling/solvers.hpp"

namespace ldm_engine {

/// The arrays that a loop works in, made before it begins.
struct LoopBuffers {
  /// For `rows` and latents of these images, each of `size` values.
  LoopBuffers(const std::vector<BatchRow>& rows, std::size_t images, std::size_t size);

  std::vector<std::vector<float>> history;  ///< a ring of [B, C, h, w]; step i writes i % length
  std::vector<float> fresh_noise;           ///< [C, h, w]
  std::vector<double> steps_ms;             ///< of each step run
};

/// Latents of which a part is known, and stays at the noise level that each step leads to.
struct Known {
  std::vector<std::uint8_t> keep;  ///< [B, h, w], 1 for the part
  std::vector<float> image;        ///< [B, C, h, w] without noise
  std::vector<float> noise;        ///< [B, C, h, w] that the latents began with
  std::vector<std::pair<float, float>> levels;  ///< after each step, weights of image and noise
};

/// What a loop is given beside the program.
struct LoopInputs {
  const std::vector<BatchRow>& rows;   ///< S
  const float* time_shift;             ///< [S, .], row i for step i
  const std::vector<float>& guidance;  ///< [B], or empty: no guidance
  std::vector<NoiseStream>& noise;     ///< [B], positioned after the initial latents
  const StepCallback& on_step_end;     ///< or empty
  const Known* known = nullptr;        ///< restored after each step, or nothing
};

/// Denoise the input `latents` [B, C, h, w] of `unet` in place, and return the number of steps run.
///
/// Its input `text_kv` [B or, with guidance, 2B, T, .] is bound by the caller, once. The body
/// allocates nothing.
int run_loop(Program& unet, const LoopInputs& inputs, LoopBuffers& buffers);

}  // namespace ldm_engine
