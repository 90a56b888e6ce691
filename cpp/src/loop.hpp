// The DDIM loop over one UNet program: guidance, update and noise, in place in its tensors.
// Its twin is engine/ldm_engine/sampling/loop.py.
#pragma once

#include <vector>

#include "ldm_engine/pipeline.hpp"
#include "noise.hpp"
#include "program.hpp"
#include "scheduler.hpp"

namespace ldm_engine {

/// What a loop is given beside the program.
struct LoopInputs {
  const std::vector<BatchStep>& steps;
  const float* time_shift;             ///< [S, .], row i for step i
  const std::vector<float>& guidance;  ///< [B], or empty: no guidance
  std::vector<NoiseStream>& noise;     ///< [B], positioned after the initial latents
  std::vector<float>& fresh_noise;     ///< room for one image's values
  const StepCallback& on_step_end;     ///< or empty
  std::vector<double>& steps_ms;       ///< room for S times
};

/// Denoise the input `latents` [B, C, h, w] of `unet` in place, and return the number of steps run.
///
/// Its input `text_kv` [B or, with guidance, 2B, T, .] is bound by the caller, once. The body
/// allocates nothing.
int run_loop(Program& unet, const LoopInputs& inputs);

}  // namespace ldm_engine
