// Solvers as rows of weights: all that a sampler does at one call of the UNet, as numbers.
#include "sampling/solvers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ldm_engine {
namespace {

Row ddim_row(const Transition& step, double eta) {
  const double a = step.a, a_prev = step.a_prev;
  const double sigma = eta * std::sqrt(std::max((1 - a_prev) / (1 - a) * (1 - a / a_prev), 0.0));
  const double direction = std::sqrt(std::max(1 - a_prev - sigma * sigma, 0.0));
  const double of_latents = std::sqrt(a_prev / a);
  return {step.timestep, 0, 1, of_latents, {direction - std::sqrt(1 - a) * of_latents}, sigma};
}

/// A point of the schedule; `lambda` is half the log-SNR.
struct Point {
  double alpha, sigma, lambda;
};

Point point_of(double alpha_cumprod) {
  const double alpha = std::sqrt(alpha_cumprod), sigma = std::sqrt(1 - alpha_cumprod);
  return {alpha, sigma, std::log(alpha / sigma)};
}

}  // namespace

std::vector<Row> solver_rows(const std::string& solver, const NoiseSchedule& schedule,
                             int num_inference_steps, const std::vector<int>& timesteps,
                             double eta, int last) {
  const bool is_given = !timesteps.empty();
  if (solver == "dpmsolver++") {
    std::vector<int> spaced =
        is_given ? timesteps : schedule.log_snr_timesteps(num_inference_steps);
    spaced.erase(spaced.begin(), spaced.end() - last);
    return dpmsolver_rows(schedule, spaced);
  }
  const std::vector<Transition> steps = is_given ? schedule.transitions_over(timesteps)
                                                 : schedule.transitions(num_inference_steps);
  std::vector<Row> rows;
  for (auto step = steps.end() - last; step != steps.end(); ++step) {
    rows.push_back(ddim_row(*step, eta));
  }
  return rows;
}

std::vector<Row> ddim_rows(const NoiseSchedule& schedule, int num_inference_steps, double eta) {
  return solver_rows("ddim", schedule, num_inference_steps, {}, eta, num_inference_steps);
}

std::vector<Row> dpmsolver_rows(const NoiseSchedule& schedule, const std::vector<int>& timesteps) {
  std::vector<Point> points;
  for (const int timestep : timesteps) points.push_back(point_of(schedule.alpha_cumprod(timestep)));
  points.push_back({1, 0, std::numeric_limits<double>::infinity()});
  std::vector<Row> rows;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const Point &now = points[i], &then = points[i + 1];
    const double h = then.lambda - now.lambda;
    const double weight = then.alpha * -std::expm1(-h);
    std::vector<double> b = {weight};
    if (i > 0 && i + 1 < timesteps.size()) {
      const double half = 0.5 * h / (now.lambda - points[i - 1].lambda);
      b = {weight * (1 + half), -weight * half};
    }
    rows.push_back(
        {timesteps[i], 1 / now.alpha, -now.sigma / now.alpha, then.sigma / now.sigma, b, 0});
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
