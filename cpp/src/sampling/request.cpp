// One call's settings as arrays: checked, one value an image, with their defaults filled in.
#include "sampling/request.hpp"

#include <algorithm>
#include <cmath>

#include "ldm_engine/errors.hpp"
#include "runtimes/base.hpp"
#include "sampling/settings.hpp"

namespace ldm_engine {
namespace {

/// [B], or empty where no image is guided.
std::vector<float> resolve_guidance(const PerImage<double>& given, std::size_t count) {
  const std::vector<double> scales = spread(given, count);
  if (std::all_of(scales.begin(), scales.end(), [](double scale) { return scale == 1.0; })) {
    return {};
  }
  std::vector<float> guidance;
  for (const double scale : scales) guidance.push_back(static_cast<float>(scale));
  return guidance;
}

std::vector<BatchRow> resolve_rows(const NoiseSchedule& schedule, const Request& request,
                                   std::size_t count) {
  std::vector<std::vector<Row>> solvers;
  for (const double eta : spread(request.eta, count)) {
    solvers.push_back(solver_rows(request.solver, schedule, request.num_inference_steps,
                                  request.timesteps, eta));
  }
  return join_rows(solvers);
}

void check_latents(const std::vector<float>& latents, const Shape& shape) {
  if (latents.empty()) return;
  if (latents.size() != count_values(shape)) {
    throw ShapeError("`latents` has " + std::to_string(latents.size()) + " values; " +
                     std::to_string(count_values(shape)) + " are accepted here, of shape " +
                     shape_text(shape) +
                     ". Pass latents of that shape, or other prompts, height or width.");
  }
  if (!std::all_of(latents.begin(), latents.end(), [](float x) { return std::isfinite(x); })) {
    throw InvalidArgumentError("`latents` contains NaN or infinity; only finite values run.");
  }
}

}  // namespace

std::vector<std::string> ResolvedRequest::texts() const {
  std::vector<std::string> texts;
  if (!guidance.empty()) texts = negative_prompts;
  texts.insert(texts.end(), prompts.begin(), prompts.end());
  return texts;
}

ResolvedRequest resolve_request(const ModelInfo& model, const NoiseSchedule& schedule,
                                const std::vector<std::string>& prompts, const Request& request) {
  check_settings(prompts, request, {model, schedule.num_train_timesteps()});
  const std::size_t count = prompts.size();
  const auto default_size = static_cast<int>(model.default_size());
  ResolvedRequest resolved;
  resolved.prompts = prompts;
  resolved.negative_prompts = spread(request.negative_prompt, count);
  resolved.height = request.height.value_or(default_size);
  resolved.width = request.width.value_or(default_size);
  resolved.latents_shape = {static_cast<std::int64_t>(count), model.latent_channels,
                            resolved.height / model.scale_factor,
                            resolved.width / model.scale_factor};
  count_values(resolved.latents_shape);
  check_latents(request.latents, resolved.latents_shape);
  resolved.rows = resolve_rows(schedule, request, count);
  resolved.guidance = resolve_guidance(request.guidance_scale, count);
  resolved.seeds = spread_seeds(request.seed, count);
  return resolved;
}

}  // namespace ldm_engine
