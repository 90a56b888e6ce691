// DDIM (Song et al. 2021, arXiv:2010.02502) for a step count: immutable coefficients.
// Its twin is engine/ldm_engine/sampling/scheduler.py, where the notation is explained; tests/data/scheduler.json
// holds both to the same numbers.
#pragma once

#include <string>
#include <vector>

#include "json.hpp"

namespace ldm_engine {

/// One denoising step: x' = latents_scale * x + noise_pred_scale * eps + sigma * z.
struct DDIMStep {
  int timestep;
  double latents_scale;
  double noise_pred_scale;
  double sigma;
};

/// One step of a batch whose images may differ in eta; applied to float32 latents.
struct BatchStep {
  int timestep;
  float latents_scale;
  std::vector<float> noise_pred_scale;  ///< [B]
  std::vector<float> sigma;             ///< [B]; no noise is drawn where it is 0
};

/// The noise schedule that a checkpoint was trained with.
class DDIMScheduler {
 public:
  /// Read a published scheduler_config.json; absent keys have diffusers' defaults.
  /// Throws ConfigError listing every value that is not supported.
  explicit DDIMScheduler(const Json& config);

  /// The steps from noise to image, with "leading" timestep spacing.
  /// Throws InvalidArgumentError unless there are 1 to num_train_timesteps, and eta is in [0, 1].
  std::vector<DDIMStep> steps(int num_inference_steps, double eta) const;

  /// The steps of a batch whose image i has `etas[i]`.
  std::vector<BatchStep> batch_steps(int num_inference_steps,
                                     const std::vector<double>& etas) const;

 private:
  int num_train_timesteps_ = 1000;
  int steps_offset_ = 0;
  bool set_alpha_to_one_ = true;
  std::vector<double> alphas_cumprod_;  // [num_train_timesteps], in float32's precision
};

/// Throws InvalidArgumentError unless `eta` is in [0, 1].
void check_eta(double eta);

/// A number as a person would write it.
std::string number_text(double value);

}  // namespace ldm_engine
