// Solvers as rows of weights: all that a sampler does at one call of the UNet, as numbers.
//
//     m = p * x + q * eps                          what the history keeps
//     x = a * x + sum_k b[k] * m[-k] + s * z       m[-0] is this call's m, m[-1] the one before
//
// Its twin is engine/ldm_engine/sampling/solvers.py, where the formulas are;
// tests/data/solvers.json holds both to the same rows.
#pragma once

#include <string>
#include <vector>

#include "sampling/schedule.hpp"

namespace ldm_engine {

inline constexpr char kFitted[] = "fitted";  ///< whose rows a bundle brings, see fitted.hpp

/// Names of solvers; the first is the default.
inline const std::vector<std::string> kSolvers = {"ddim", "dpmsolver++", kFitted};

/// One call of the UNet for one image.
struct Row {
  int timestep;
  double p;               ///< of the latents, in what the history keeps
  double q;               ///< of the prediction, likewise
  double a;               ///< of the latents
  std::vector<double> b;  ///< of this call's m, the one before, ...
  double s;               ///< of fresh noise
};

/// One call of the UNet for a batch, in the precision of its latents. Images share timestep, p, q
/// and a; their b and s may differ.
struct BatchRow {
  int timestep;
  float p;
  float q;
  float a;
  std::vector<std::vector<float>> b;  ///< [B][history]
  std::vector<float> s;               ///< [B]; no noise is drawn where it is 0
};

/// The rows of "ddim" or "dpmsolver++" from noise to image: over these descending `timesteps`
/// or, where there are none, over `num_inference_steps` as the solver spaces them; of either the
/// `last` ones. `eta` is of DDIM alone.
std::vector<Row> solver_rows(const std::string& solver, const NoiseSchedule& schedule,
                             int num_inference_steps, const std::vector<int>& timesteps,
                             double eta, int last);

/// DDIM (Song et al. 2021, arXiv:2010.02502) with the schedule's own spacing.
std::vector<Row> ddim_rows(const NoiseSchedule& schedule, int num_inference_steps, double eta);

/// DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095; multistep, midpoint) over these timesteps.
std::vector<Row> dpmsolver_rows(const NoiseSchedule& schedule, const std::vector<int>& timesteps);

/// The rows of a batch whose image i follows `solvers[i]`.
std::vector<BatchRow> join_rows(const std::vector<std::vector<Row>>& solvers);

}  // namespace ldm_engine
