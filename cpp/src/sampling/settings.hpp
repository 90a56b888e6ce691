// THE list of what may be set for an image: each setting is declared here, once. The call's checks,
// ldm-generate's options and the recipe are made from it. Its twin is
// engine/ldm_engine/sampling/settings.py; tests/data/settings.json holds both to the same list.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "bundle/contract.hpp"
#include "bundle/json.hpp"
#include "ldm_engine/request.hpp"

namespace ldm_engine {

inline constexpr char kAutoWord[] = "auto";

/// What a bundle accepts of a setting by itself.
struct Limits {
  const ModelInfo& model;
  int max_steps;  ///< timesteps that the model was trained with
};

/// Where a Request holds a setting; none: the prompts stand beside it in a call.
using SettingField = std::variant<std::monostate, int Request::*, std::optional<int> Request::*,
                                  PerImage<double> Request::*, PerImage<std::int64_t> Request::*,
                                  PerImage<std::string> Request::*, std::string Request::*,
                                  std::vector<int> Request::*, std::optional<double> Request::*,
                                  std::vector<Image> Request::*>;

/// One thing that may be set for an image. Its default is that of a Request.
struct Setting {
  const char* name;
  SettingField field;
  /// Whether recipes written before the setting existed are right without it: none then holds its
  /// default.
  bool is_later;
  const char* help;                       ///< of ldm-generate's option; empty: it has none
  const char* command_default = nullptr;  ///< of ldm-generate, where it is another one
  const char* accepted = "";  ///< ends the range's error, with {minimum} and {maximum} filled in
  std::optional<double> minimum = {};
  std::optional<double> maximum = {};
  int Limits::*model_maximum = nullptr;  ///< in the place of `maximum`
  /// Throws unless it accepts the value; for what a range cannot say.
  void (*check)(const Setting& setting, std::int64_t value, const Limits& limits) = nullptr;
  std::vector<std::string> choices = {};  ///< of a text, if it is one of a few
  const char* auto_word = "";  ///< of a number that may be kAutoSteps: what commands call that
  const char* short_name = "";  ///< of the option, where that is another name

  const char* option() const { return *short_name ? short_name : name; }
};

/// All settings, in the order of recipes.
const std::vector<Setting>& settings();

/// The value of a setting: null for none, one for all images, or a list.
Json setting_value(const Setting& setting, const Request& request);

/// Check every setting of a call for these prompts, each by itself.
/// Throws InvalidArgumentError, or ShapeError for sizes.
void check_settings(const std::vector<std::string>& prompts, const Request& request,
                    const Limits& limits);

/// Throws InvalidArgumentError, which calls them `name`, unless all `texts` are valid UTF-8.
void check_texts(const char* name, const std::vector<std::string>& texts);

/// Throws InvalidArgumentError unless `seed` is one that a noise stream can begin with.
void check_seed(std::int64_t seed);

/// The seed of each image: a list as it is, one number s as s, s + 1, ..., nothing at random.
/// Throws InvalidArgumentError if one lies outside 0 .. 2**32 - 1, or the list has another length.
std::vector<std::uint32_t> spread_seeds(const PerImage<std::int64_t>& seed, std::size_t count);

/// One checked value for each of `count` images.
template <typename T>
std::vector<T> spread(const PerImage<T>& given, std::size_t count) {
  return given.is_list ? given.values : std::vector<T>(count, given.values.front());
}

}  // namespace ldm_engine
