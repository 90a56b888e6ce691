#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "manifests.hpp"
#include "runtimes/base.hpp"
#include "sampling/request.hpp"
#include "sampling/solvers_file.hpp"

using namespace ldm_engine;

namespace {

/// "nan" and "inf" stand for the numbers that JSON does not have.
double number(const Json& value) {
  if (value == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (value == "inf") return std::numeric_limits<double>::infinity();
  return value.get<double>();
}

template <typename T, typename Read>
PerImage<T> per_image(const Json& value, const Read& read) {
  if (!value.is_array()) return PerImage<T>(read(value));
  std::vector<T> values;
  for (const Json& entry : value) values.push_back(read(entry));
  return PerImage<T>(std::move(values));
}

std::string text(const Json& value) { return value.get<std::string>(); }

/// A picture of one colour, or a mask of which a corner is white.
Image picture(const Json& value) {
  Image image;
  image.height = value.at("height").get<int>();
  image.width = value.at("width").get<int>();
  image.rgb.assign(static_cast<std::size_t>(image.height * image.width * 3),
                   value.value("value", std::uint8_t{0}));
  const Json white = value.value("white", Json());
  for (int y = 0; !white.is_null() && y < white[0].get<int>(); ++y) {
    for (int i = 0; i < 3 * white[1].get<int>(); ++i) {
      image.rgb[static_cast<std::size_t>(y * image.width * 3 + i)] = 255;
    }
  }
  return image;
}

std::vector<Image> pictures(const Json& value) {
  if (!value.is_array()) return {picture(value)};
  std::vector<Image> images;
  for (const Json& entry : value) images.push_back(picture(entry));
  return images;
}

Request request_of(const Json& arguments) {
  const auto whole = [](const Json& value) { return value.get<std::int64_t>(); };
  Request request;
  request.seed = 5;
  for (const auto& [name, value] : arguments.items()) {
    if (name == "height") request.height = value.get<int>();
    if (name == "width") request.width = value.get<int>();
    if (name == "num_inference_steps") {
      request.num_inference_steps = value == "auto" ? kAutoSteps : value.get<int>();
    }
    if (name == "solver_table") request.solver_table = value.get<std::string>();
    if (name == "solver") request.solver = value.get<std::string>();
    if (name == "timesteps") request.timesteps = value.get<std::vector<int>>();
    if (name == "guidance_scale") request.guidance_scale = per_image<double>(value, number);
    if (name == "eta") request.eta = per_image<double>(value, number);
    if (name == "seed") request.seed = per_image<std::int64_t>(value, whole);
    if (name == "negative_prompt") request.negative_prompt = per_image<std::string>(value, text);
    if (name == "image") request.image = pictures(value);
    if (name == "mask_image") request.mask_image = pictures(value);
    if (name == "strength") request.strength = number(value);
    if (name == "image_sha256") request.image_sha256 = value.get<std::string>();
    if (name == "mask_sha256") request.mask_sha256 = value.get<std::string>();
    if (name == "latents") {
      request.latents.assign(count_values(value.at("shape").get<Shape>()),
                             static_cast<float>(number(value.at("value"))));
    }
  }
  return request;
}

ModelInfo model_of(const Json& raw) {
  ModelInfo model;
  model.latent_channels = raw.at("latent_channels").get<int>();
  model.scale_factor = raw.at("scale_factor").get<int>();
  model.size_multiple = raw.at("size_multiple").get<int>();
  model.sample_size = raw.at("sample_size").get<int>();
  return model;
}

/// The class and the text of what a request is refused with, or nothing.
std::pair<std::string, std::string> refusal(const ModelInfo& model, const NoiseSchedule& schedule,
                                            const Tables& tables, const Json& arguments,
                                            ResolvedRequest& resolved) {
  const auto prompts = arguments.value("prompt", std::vector<std::string>{"a"});
  try {
    const Request request = request_of(arguments);
    resolved = resolve_request({model, schedule, tables, ""}, prompts, request);
  } catch (const ShapeError& error) {
    return {"ShapeError", error.what()};
  } catch (const InvalidArgumentError& error) {
    return {"InvalidArgumentError", error.what()};
  }
  return {};
}

/// The latent cells that stay of the first image.
std::ptrdiff_t kept(const ResolvedRequest& resolved) {
  if (resolved.inputs.empty()) return 0;
  const std::vector<std::uint8_t>& keep = resolved.inputs.front().keep;
  return std::count(keep.begin(), keep.end(), 1);
}

}  // namespace

TEST_CASE("requests are accepted and refused as in Python") {
  const Json vectors = read_vectors("requests.json");
  const ModelInfo model = model_of(vectors.at("model"));
  const NoiseSchedule schedule(vectors.at("scheduler"));
  const Json file = read_vectors("solvers_files.json");
  const std::string text = sealed(file.at("base"), kSolversSeal);
  const Tables tables = {
      parse_tables("solvers.json", text, file.at("bundle").get<std::string>(), schedule), ""};
  for (const Json& entry : vectors.at("cases")) {
    CAPTURE(entry.dump());
    ResolvedRequest resolved;
    const auto refused = refusal(model, schedule, tables, entry.at("arguments"), resolved);
    CAPTURE(refused.second);
    const std::string kind =
        entry.at("error").is_null() ? "" : entry.at("error").get<std::string>();
    CHECK(refused.first == kind);
    CHECK(refused.second.find(entry.value("says", "")) != std::string::npos);
    const Json facts = {
        {"seeds", resolved.seeds},
        {"height", resolved.height},
        {"width", resolved.width},
        {"guidance", resolved.guidance.empty() ? Json() : Json(resolved.guidance)},
        {"texts", resolved.texts()},
        {"steps", resolved.rows.size()},
        {"kept", kept(resolved)},
    };
    const Json expected = entry.value("expected", Json::object());
    for (const auto& [name, value] : expected.items()) {
      CHECK(facts.at(name) == value);
    }
  }
}

TEST_CASE("prompts must be UTF-8") {
  const Json vectors = read_vectors("requests.json");
  const ModelInfo model = model_of(vectors.at("model"));
  const NoiseSchedule schedule(vectors.at("scheduler"));
  const Tables tables;
  CHECK_THROWS_AS(resolve_request({model, schedule, tables, ""}, {"fine", "\xff"}, {}),
                  InvalidArgumentError);
}
