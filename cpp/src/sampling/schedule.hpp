// The noise schedule that a model was trained with, and the timesteps of a step count.
// Its twin is engine/ldm_engine/sampling/schedule.py, where the notation is explained;
// tests/data/scheduler_configs.json holds what both refuse, solvers.json the timesteps.
#pragma once

#include <vector>

#include "bundle/json.hpp"

namespace ldm_engine {

/// One step of a sampler: from a timestep to the next, less noisy one.
struct Transition {
  int timestep;
  double a;       ///< alphas_cumprod there
  double a_prev;  ///< where the step leads
};

/// The noise schedule that a checkpoint was trained with.
class NoiseSchedule {
 public:
  /// Read a published scheduler_config.json; absent keys have diffusers' defaults.
  /// Throws ConfigError listing every value that is not supported.
  explicit NoiseSchedule(const Json& config);

  int num_train_timesteps() const { return num_train_timesteps_; }

  /// The steps from noise to image; `num_inference_steps` is 1 to num_train_timesteps(), as
  /// settings.hpp checks.
  std::vector<Transition> transitions(int num_inference_steps) const;

  /// The steps over these descending `timesteps`, and from the last one to the image.
  std::vector<Transition> transitions_over(const std::vector<int>& timesteps) const;

  /// As many timesteps as steps, evenly spaced in log-SNR from noise to image; none comes twice.
  std::vector<int> log_snr_timesteps(int num_inference_steps) const;

  /// The weights of image and noise at a timestep, sqrt(A) and sqrt(1 - A).
  std::pair<double, double> level(int timestep) const;

  double alpha_cumprod(int timestep) const {
    return alphas_cumprod_[static_cast<std::size_t>(timestep)];
  }

 private:
  /// Where the model is asked, from noise to image: in equal strides from steps_offset_ on
  /// ("leading"), or spread from the first to the last timestep ("linspace").
  std::vector<int> timesteps(int num_inference_steps) const;

  int num_train_timesteps_ = 1000;
  int steps_offset_ = 0;
  bool set_alpha_to_one_ = true;
  bool is_leading_ = true;
  std::vector<double> alphas_cumprod_;  // [num_train_timesteps], in float32's precision
};

}  // namespace ldm_engine
