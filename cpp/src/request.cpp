// One call's settings: everything the caller asked for, checked, with its defaults filled in.
#include "request.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "ldm_engine/errors.hpp"
#include "noise.hpp"
#include "program.hpp"
#include "tokenizer.hpp"

namespace ldm_engine {
namespace {

constexpr double kMaxGuidance = 10'000;  // far beyond use; keeps float32 finite

void check_not_empty(const char* name, const std::vector<std::string>& texts) {
  if (texts.empty()) {
    throw InvalidArgumentError(std::string("`") + name +
                               "` is an empty list; give at least one text.");
  }
  check_texts(name, texts);
}

/// One value an image. `what` and `whole` word the error: "numbers", "images".
template <typename T>
std::vector<T> one_an_image(const char* name, const PerImage<T>& given, std::size_t count,
                            const char* what, const char* whole, const char* one) {
  if (given.values.size() == count) return given.values;
  if (given.is_list || given.values.size() != 1) {
    throw InvalidArgumentError(std::string("`") + name + "` lists " +
                               std::to_string(given.values.size()) + " " + what + " for " +
                               std::to_string(count) + " " + whole +
                               "; give one an image, or one " + one + " for all.");
  }
  return std::vector<T>(count, given.values.front());
}

int resolve_size(const char* name, const std::optional<int>& given, const ModelInfo& model) {
  if (!given) return static_cast<int>(model.default_size());
  const std::int64_t multiple = model.pixel_multiple();
  if (*given <= 0 || *given > kMaxSize || *given % multiple != 0) {
    throw ShapeError(
        std::string("`") + name + "` is " + std::to_string(*given) + "; multiples of " +
        std::to_string(multiple) + " up to " + std::to_string(kMaxSize) +
        " pixels are accepted: the autoencoder shrinks by " + std::to_string(model.scale_factor) +
        ", and the UNet's levels by " + std::to_string(model.size_multiple) +
        " more. The model was trained at " + std::to_string(model.default_size()) + ".");
  }
  return *given;
}

std::vector<float> resolve_guidance(const PerImage<double>& given, std::size_t count) {
  for (const double scale : given.values) {
    if (!(std::abs(scale) <= kMaxGuidance)) {
      throw InvalidArgumentError("`guidance_scale` is " + number_text(scale) +
                                 "; a number, or a list of one an image, is accepted, between "
                                 "-10000 and 10000. 1.0 turns guidance off.");
    }
  }
  const std::vector<double> scales =
      one_an_image("guidance_scale", given, count, "numbers", "images", "number");
  if (std::all_of(scales.begin(), scales.end(), [](double scale) { return scale == 1.0; })) {
    return {};
  }
  std::vector<float> guidance;
  for (const double scale : scales) guidance.push_back(static_cast<float>(scale));
  return guidance;
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

ResolvedRequest resolve_request(const ModelInfo& model, const DDIMScheduler& scheduler,
                                const std::vector<std::string>& prompts, const Request& request) {
  check_not_empty("prompt", prompts);
  const std::size_t count = prompts.size();
  ResolvedRequest resolved;
  resolved.prompts = prompts;
  resolved.height = resolve_size("height", request.height, model);
  resolved.width = resolve_size("width", request.width, model);
  resolved.latents_shape = {static_cast<std::int64_t>(count), model.latent_channels,
                            resolved.height / model.scale_factor,
                            resolved.width / model.scale_factor};
  check_not_empty("negative_prompt", request.negative_prompt.values);
  resolved.negative_prompts =
      one_an_image("negative_prompt", request.negative_prompt, count, "texts", "prompts", "text");
  const std::vector<double> etas =
      one_an_image("eta", request.eta, count, "numbers", "images", "number");
  resolved.steps = scheduler.batch_steps(request.num_inference_steps, etas);
  resolved.guidance = resolve_guidance(request.guidance_scale, count);
  resolved.seeds = resolve_seeds(request.seed, count);
  count_values(resolved.latents_shape);
  check_latents(request.latents, resolved.latents_shape);
  return resolved;
}

}  // namespace ldm_engine
