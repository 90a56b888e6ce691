// One call's settings as arrays: checked, one value an image, with their defaults filled in.
#include "sampling/request.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "bundle/bundle.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"
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

/// Put solver and steps in the place of kAutoSteps.
void choose_steps(Request& request, const Tables& tables, double scale) {
  if (request.num_inference_steps != kAutoSteps) return;
  const auto refuse = [](const char* name, const std::string& given) {
    throw InvalidArgumentError(std::string("`num_inference_steps` is auto and `") + name + "` is " +
                               given + "; auto chooses it. Leave `" + name +
                               "` out, or give a number of steps.");
  };
  if (request.solver != kSolvers.front() && request.solver != kFitted) {
    refuse("solver", in_quotes(request.solver));
  }
  if (!request.timesteps.empty()) refuse("timesteps", "given");
  request.num_inference_steps = tables.fewest(scale).steps();
  request.solver = kFitted;
}

void check_eta(const Request& request) {
  const std::vector<double>& etas = request.eta.values;
  const auto noisy = std::find_if(etas.begin(), etas.end(), [](double eta) { return eta != 0; });
  if (request.solver == kSolvers.front() || noisy == etas.end()) return;
  throw InvalidArgumentError("`eta` is " + number_text(*noisy) + " with the solver " +
                             request.solver +
                             ", which adds no noise; 0 is accepted, or the solver ddim.");
}

/// Note which table makes the pictures; what was noted of one made before must hold.
void check_table(Request& request, const std::optional<Table>& table) {
  const std::string digest = table ? table->digest() : "";
  if (!request.solver_table.empty() && request.solver_table != digest) {
    throw InvalidArgumentError(
        "`solver_table` is " + request.solver_table + ", and " +
        (table ? "the bundle's own is " + digest : "the solver is " + request.solver) +
        ": the pixels would differ. Leave it out, or bring back the " + kSolversFile +
        " that the picture was made with.");
  }
  request.solver_table = digest;
}

void check_timesteps(Request& request) {
  const std::size_t count = request.timesteps.size();
  if (count == 0) return;
  if (request.solver == kFitted) {
    throw InvalidArgumentError(
        "`timesteps` is given with the solver fitted, which brings its own; leave it out.");
  }
  int& steps = request.num_inference_steps;
  if (steps != Request().num_inference_steps && static_cast<std::size_t>(steps) != count) {
    throw InvalidArgumentError("`timesteps` lists " + std::to_string(count) +
                               " and `num_inference_steps` is " + std::to_string(steps) +
                               "; give the same number, or leave one of them out.");
  }
  steps = static_cast<int>(count);
}

/// The one guidance of all images, where the solver has weights that belong to one.
double common_guidance(const std::vector<double>& scales) {
  if (std::adjacent_find(scales.begin(), scales.end(), std::not_equal_to<>()) == scales.end()) {
    return scales.front();
  }
  throw InvalidArgumentError(
      "`guidance_scale` lists several numbers with the solver fitted, whose weights belong to one "
      "guidance; one for all images of a call is accepted.");
}

/// `request`, each setting of which was checked, with all that follows from others filled in; and
/// the table of its solver, if it is a fitted one.
std::pair<Request, std::optional<Table>> settled(Request request, const Acceptance& accepted,
                                                 std::size_t count) {
  const Tables& tables = accepted.tables;
  const bool is_fitted = request.num_inference_steps == kAutoSteps || request.solver == kFitted;
  const double scale = is_fitted ? common_guidance(spread(request.guidance_scale, count)) : 1;
  choose_steps(request, tables, scale);
  check_eta(request);
  std::optional<Table> table;
  if (request.solver == kFitted) table = tables.find(scale, request.num_inference_steps);
  check_table(request, table);
  check_timesteps(request);
  settle_pictures(request, count, accepted.model, accepted.no_pictures);
  return {std::move(request), std::move(table)};
}

std::vector<BatchRow> resolve_rows(const NoiseSchedule& schedule, const Request& request,
                                   const std::optional<Table>& table, std::size_t count) {
  std::vector<std::vector<Row>> solvers;
  for (const double eta : spread(request.eta, count)) {
    solvers.push_back(table ? table->rows(schedule)
                            : solver_rows(request.solver, schedule, request.num_inference_steps,
                                          request.timesteps, eta, steps_to_run(request)));
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

ResolvedRequest resolve_request(const Acceptance& accepted, const std::vector<std::string>& prompts,
                                const Request& given) {
  const ModelInfo& model = accepted.model;
  check_settings(prompts, given, {model, accepted.schedule.num_train_timesteps()});
  const std::size_t count = prompts.size();
  const auto [request, table] = settled(given, accepted, count);
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
  steps_to_run(request);  // refuses strengths that do not go with the steps
  resolved.rows = resolve_rows(accepted.schedule, request, table, count);
  resolved.guidance = resolve_guidance(request.guidance_scale, count);
  resolved.seeds = spread_seeds(request.seed, count);
  resolved.num_inference_steps = request.num_inference_steps;
  resolved.solver = request.solver;
  resolved.solver_table = request.solver_table;
  resolved.inputs = make_inputs(given, count, model);
  resolved.strength = request.strength;
  resolved.image_sha256 = request.image_sha256;
  resolved.mask_sha256 = request.mask_sha256;
  return resolved;
}

}  // namespace ldm_engine
