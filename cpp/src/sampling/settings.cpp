// THE list of what may be set for an image: each setting is declared here, once.
#include "sampling/settings.hpp"

#include <algorithm>
#include <limits>
#include <random>

#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"
#include "machine/utf8.hpp"
#include "sampling/fitted.hpp"
#include "sampling/solvers.hpp"

namespace ldm_engine {
namespace {

constexpr std::int64_t kMaxSeed = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t kSha256Digits = 64;
constexpr double kMaxGuidance = 10'000;  // far beyond use; keeps float32 finite

void check_size(const Setting& setting, std::int64_t value, const Limits& limits) {
  const ModelInfo& model = limits.model;
  const std::int64_t multiple = model.pixel_multiple();
  if (value > 0 && value <= kMaxSize && value % multiple == 0) return;
  throw ShapeError("`" + std::string(setting.name) + "` is " + std::to_string(value) +
                   "; multiples of " + std::to_string(multiple) + " up to " +
                   std::to_string(kMaxSize) + " pixels are accepted: the autoencoder shrinks by " +
                   std::to_string(model.scale_factor) + ", and the UNet's levels by " +
                   std::to_string(model.size_multiple) + " more. The model was trained at " +
                   std::to_string(model.default_size()) + ".");
}

void check_any_seed(const Setting&, std::int64_t value, const Limits&) { check_seed(value); }

/// `text` with the numbers of a range filled in.
std::string filled(std::string text, double minimum, double maximum) {
  for (const auto& [place, number] :
       {std::pair{"{minimum}", minimum}, std::pair{"{maximum}", maximum}}) {
    const std::size_t at = text.find(place);
    if (at != std::string::npos) text.replace(at, std::string(place).size(), number_text(number));
  }
  return text;
}

std::string value_text(double value) { return number_text(value); }
std::string value_text(std::int64_t value) { return std::to_string(value); }

/// What a list of values of a type is called in the error of one that has the wrong length.
struct ListWords {
  const char* values;
  const char* images;
  const char* remedy;
};

ListWords words_of(double) {
  return {"numbers", "images", "give one an image, or one number for all."};
}
ListWords words_of(const std::string&) {
  return {"texts", "prompts", "give one an image, or one text for all."};
}
ListWords words_of(std::int64_t) {
  return {"seeds", "images", "give one an image, or one number s for the seeds s, s + 1, ..."};
}

template <typename T>
void check_length(const char* name, const PerImage<T>& given, std::size_t count) {
  if (!given.is_list || given.values.size() == count) return;
  const ListWords words = words_of(T());
  throw InvalidArgumentError("`" + std::string(name) + "` lists " +
                             std::to_string(given.values.size()) + " " + words.values + " for " +
                             std::to_string(count) + " " + words.images + "; " + words.remedy);
}

void check_not_empty(const char* name, const std::vector<std::string>& texts) {
  if (!texts.empty()) return;
  throw InvalidArgumentError("`" + std::string(name) +
                             "` is an empty list; give at least one text.");
}

/// Refuses U+0000, the mark of UTF-16 that was read as UTF-8.
void check_no_zeros(const char* name, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (text.find('\0') == std::string::npos) continue;
    throw InvalidArgumentError(std::string("`") + name + "` holds " + in_quotes(text) +
                               ", with the character U+0000; text without it is accepted. Decode "
                               "the input as what it is, UTF-16 perhaps.");
  }
}

void check_descending(const char* name, const std::vector<int>& timesteps, int count) {
  int earlier = count;
  for (const int timestep : timesteps) {
    if (timestep < 0 || timestep >= earlier) {
      throw InvalidArgumentError("`" + std::string(name) + "` holds " + std::to_string(timestep) +
                                 "; a descending list of whole numbers from " +
                                 std::to_string(count - 1) +
                                 " to 0 is accepted, such as 999, 749, 499, 249.");
    }
    earlier = timestep;
  }
}

void check_digest(const char* name, const std::string& digest) {
  const std::size_t digits =
      std::string(name) == "solver_table" ? kTableDigestDigits : kSha256Digits;
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digest.empty() ||
      (digest.size() == digits && std::all_of(digest.begin(), digest.end(), is_hex))) {
    return;
  }
  throw InvalidArgumentError("`" + std::string(name) + "` is " + in_quotes(digest) + "; the " +
                             std::to_string(digits) + " digits that a recipe has are accepted.");
}

/// Checks one setting of a call, whatever the type of its field.
struct Check {
  const Setting& setting;
  const std::vector<std::string>& prompts;
  const Request& request;
  const Limits& limits;

  void operator()(std::monostate) const { check_all(prompts); }
  void operator()(std::string Request::*field) const {
    const std::vector<std::string>& choices = setting.choices;
    if (choices.empty()) return check_digest(setting.name, request.*field);
    if (std::find(choices.begin(), choices.end(), request.*field) != choices.end()) return;
    throw InvalidArgumentError("`" + std::string(setting.name) + "` is " +
                               in_quotes(request.*field) + "; " + joined(choices) +
                               " is accepted.");
  }
  void operator()(std::vector<int> Request::*field) const {
    check_descending(setting.name, request.*field, limits.max_steps);
  }
  void operator()(std::optional<double> Request::*field) const {
    const std::optional<double>& strength = request.*field;
    if (!strength || (*strength > 0 && *strength <= 1)) return;
    throw InvalidArgumentError("`" + std::string(setting.name) + "` is " + number_text(*strength) +
                               "; a number above 0 (as the picture is) up to 1 (little of it is "
                               "left) is accepted.");
  }
  void operator()(std::vector<Image> Request::*) const {}  // settle_pictures does
  void operator()(int Request::*field) const {
    if (!*setting.auto_word || request.*field != kAutoSteps) check_value(std::int64_t{request.*field});
  }
  void operator()(std::optional<int> Request::*field) const {
    if (request.*field) check_value(std::int64_t{*(request.*field)});
  }
  void operator()(PerImage<std::int64_t> Request::*field) const { check_list(request.*field); }
  void operator()(PerImage<double> Request::*field) const { check_list(request.*field); }
  void operator()(PerImage<std::string> Request::*field) const {
    check_all((request.*field).values);
    check_length(setting.name, request.*field, prompts.size());
  }

  void check_all(const std::vector<std::string>& texts) const {
    check_not_empty(setting.name, texts);
    check_texts(setting.name, texts);
    check_no_zeros(setting.name, texts);
  }

  template <typename T>
  void check_list(const PerImage<T>& given) const {
    for (const T value : given.values) check_value(value);
    check_length(setting.name, given, prompts.size());
  }

  template <typename T>
  void check_value(T value) const {
    if constexpr (std::is_integral_v<T>) {
      if (setting.check) return setting.check(setting, value, limits);
    }
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const double low = setting.minimum.value_or(-kInfinity);
    const double high =
        setting.model_maximum ? limits.*setting.model_maximum : setting.maximum.value_or(kInfinity);
    const auto number = static_cast<double>(value);
    if (number >= low && number <= high) return;  // which NaN is not
    throw InvalidArgumentError("`" + std::string(setting.name) + "` is " + value_text(value) +
                               "; " + filled(setting.accepted, low, high));
  }
};

/// The value of a setting as JSON, whatever the type of its field.
struct Show {
  const Request& request;

  Json operator()(std::monostate) const { return nullptr; }
  Json operator()(int Request::*field) const {
    return request.*field == kAutoSteps ? Json(kAutoWord) : Json(request.*field);
  }
  Json operator()(std::string Request::*field) const {
    return (request.*field).empty() ? Json() : Json(request.*field);
  }
  Json operator()(std::vector<int> Request::*field) const {
    return (request.*field).empty() ? Json() : Json(request.*field);
  }
  Json operator()(std::optional<int> Request::*field) const {
    return request.*field ? Json(*(request.*field)) : Json();
  }
  Json operator()(std::optional<double> Request::*field) const {
    return request.*field ? Json(*(request.*field)) : Json();
  }
  Json operator()(std::vector<Image> Request::*) const { return nullptr; }  // its hash says which
  template <typename T>
  Json operator()(PerImage<T> Request::*field) const {
    const PerImage<T>& given = request.*field;
    if (given.is_list) return given.values;
    return given.values.empty() ? Json() : Json(given.values.front());
  }
};

constexpr bool kInEveryRecipe = false, kLater = true;

}  // namespace

const std::vector<Setting>& settings() {
  static const std::vector<Setting> list = {
      {"prompt", std::monostate(), kInEveryRecipe, ""},
      {"negative_prompt", &Request::negative_prompt, kInEveryRecipe, "What to guide away from."},
      {"seed", &Request::seed, kInEveryRecipe,
       "Images get the seeds S, S+1, ... Default: at random.", nullptr, "", 0, kMaxSeed, nullptr,
       check_any_seed},
      {"num_inference_steps", &Request::num_inference_steps, kInEveryRecipe,
       "Denoising steps, each a call of the UNet; auto for the fewest of a solver fitted to the "
       "bundle with which pictures are as near to the converged ones as with 50 of ddim.",
       nullptr, "a whole number from {minimum} to {maximum} is accepted, or auto.", 1, std::nullopt,
       &Limits::max_steps, nullptr, {}, kAutoWord},
      {"guidance_scale", &Request::guidance_scale, kInEveryRecipe,
       "How closely to follow the prompt; 1.0 is off.", "6.0",
       "a number, or a list of one an image, is accepted, between {minimum} and {maximum}. 1.0 "
       "turns guidance off.",
       -kMaxGuidance, kMaxGuidance},
      {"eta", &Request::eta, kInEveryRecipe,
       "Noise added at each step: 0 (deterministic) to 1 (as noisy as DDPM).", nullptr,
       "a number from 0 (deterministic) to 1 (as noisy as DDPM) is accepted.", 0, 1},
      {"solver", &Request::solver, kLater,
       "How the steps are taken: ddim; dpmsolver++, which needs fewer; or fitted, which needs the "
       "fewest, for bundles that `ldm-engine fit` was run on.",
       nullptr, "",
       std::nullopt, std::nullopt, nullptr, nullptr, kSolvers},
      {"timesteps", &Request::timesteps, kLater,
       "Timesteps of the training schedule to step over, descending, with commas. Default: as the "
       "solver spaces its steps."},
      {"solver_table", &Request::solver_table, kLater, ""},
      {"image", &Request::image, kLater,
       "Picture to start from: a PNG file of the size to render."},
      {"mask_image", &Request::mask_image, kLater,
       "Mask of that picture, white where it is to be painted anew: a PNG file.", nullptr, "",
       std::nullopt, std::nullopt, nullptr, nullptr, {}, "", "mask"},
      {"strength", &Request::strength, kLater,
       "How much of the picture is painted anew: of N steps the last N times this are taken. "
       "Default: 0.8, and 1 with a mask."},
      {"image_sha256", &Request::image_sha256, kLater, ""},
      {"mask_sha256", &Request::mask_sha256, kLater, ""},
      {"height", &Request::height, kInEveryRecipe, "Height in pixels. Default: as trained.",
       nullptr, "", std::nullopt, std::nullopt, nullptr, check_size},
      {"width", &Request::width, kInEveryRecipe, "Width in pixels. Default: as trained.", nullptr,
       "", std::nullopt, std::nullopt, nullptr, check_size},
  };
  return list;
}

Json setting_value(const Setting& setting, const Request& request) {
  return std::visit(Show{request}, setting.field);
}

void check_settings(const std::vector<std::string>& prompts, const Request& request,
                    const Limits& limits) {
  for (const Setting& setting : settings()) {
    std::visit(Check{setting, prompts, request, limits}, setting.field);
  }
}

void check_texts(const char* name, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    if (const auto invalid = find_invalid_utf8(text)) {
      throw InvalidArgumentError(std::string("`") + name + "` holds " + in_quotes(text) +
                                 ", which is not valid UTF-8 at byte " + std::to_string(*invalid) +
                                 ". Give text in UTF-8.");
    }
  }
}

void check_seed(std::int64_t seed) {
  if (seed >= 0 && seed <= kMaxSeed) return;
  throw InvalidArgumentError("`seed` asks for " + std::to_string(seed) +
                             "; whole numbers from 0 to 4294967295 (2**32 - 1) are accepted "
                             "for every image.");
}

std::vector<std::uint32_t> spread_seeds(const PerImage<std::int64_t>& seed, std::size_t count) {
  std::vector<std::uint32_t> seeds;
  if (!seed.is_list && seed.values.empty()) {
    std::random_device source;
    for (std::size_t i = 0; i < count; ++i) seeds.push_back(source());
    return seeds;
  }
  check_length("seed", seed, count);
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t value = seed.is_list ? seed.values[i] : seed.values.front();
    check_seed(value);
    if (!seed.is_list) value += static_cast<std::int64_t>(i);
    check_seed(value);
    seeds.push_back(static_cast<std::uint32_t>(value));
  }
  return seeds;
}

}  // namespace ldm_engine
