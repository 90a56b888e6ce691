// Solvers as rows of weights: all that a sampler does at one call of the UNet, as numbers.
#include "sampling/solvers.hpp"

#include <algorithm>
#include <cmath>

namespace ldm_engine {
namespace {

Row ddim_row(const Transition& step, double eta) {
  const double a = step.a, a_prev = step.a_prev;
  const double sigma = eta * std::sqrt(std::max((1 - a_prev) / (1 - a) * (1 - a / a_prev), 0.0));
  const double direction = std::sqrt(std::max(1 - a_prev - sigma * sigma, 0.0));
  const double of_latents = std::sqrt(a_prev / a);
  return {step.timestep, 0, 1, of_latents, {direction - std::sqrt(1 - a) * of_latents}, sigma};
}

}  // namespace

std::vector<Row> ddim_rows(const NoiseSchedule& schedule, int num_inference_steps, double eta) {
  std::vector<Row> rows;
  for (const Transition& step : schedule.transitions(num_inference_steps)) {
    rows.push_back(ddim_row(step, eta));
  }
  return rows;
}

std::vector<BatchRow> join_rows(const std::vector<std::vector<Row>>& solvers) {
  std::vector<BatchRow> batch;
  for (const Row& row : solvers.front()) {
    batch.push_back({row.timestep,
                     static_cast<float>(row.p),
                     static_cast<float>(row.q),
                     static_cast<float>(row.a),
                     {},
                     {}});
  }
  for (const std::vector<Row>& rows : solvers) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].b.emplace_back(rows[i].b.begin(), rows[i].b.end());
      batch[i].s.push_back(static_cast<float>(rows[i].s));
    }
  }
  return batch;
}

}  // namespace ldm_engine
