// Solvers as rows of weights: all that a sampler does at one call of the UNet, as numbers.
//
//     m = p * x + q * eps                          what the history keeps
//     x = a * x + sum_k b[k] * m[-k] + s * z       m[-0] is this call's m, m[-1] the one before
//
// Its twin is engine/ldm_engine/sampling/solvers.py, where the formulas are;
// tests/data/solvers.json holds both to the same rows.
#pragma once

#include <vector>

#include "sampling/schedule.hpp"

namespace ldm_engine {

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

/// DDIM (Song et al. 2021, arXiv:2010.02502) from noise to image.
std::vector<Row> ddim_rows(const NoiseSchedule& schedule, int num_inference_steps, double eta);

/// The rows of a batch whose image i follows `solvers[i]`.
std::vector<BatchRow> join_rows(const std::vector<std::vector<Row>>& solvers);

}  // namespace ldm_engine
