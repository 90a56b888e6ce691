// What is set for the images of one call. cpp/src/sampling/settings.cpp declares each setting's
// range, help text and place here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ldm_engine/errors.hpp"
#include "ldm_engine/image.hpp"

namespace ldm_engine {

/// Whether a Value is taken for a T: no bool for a number, no fraction for a whole number.
template <typename Value, typename T>
inline constexpr bool is_taken_v = std::is_convertible_v<Value, T>;
template <typename Value>
inline constexpr bool is_taken_v<Value, double> =
    std::is_convertible_v<Value, double> && !std::is_same_v<std::decay_t<Value>, bool>;
template <typename Value>
inline constexpr bool is_taken_v<Value, std::int64_t> =
    std::is_integral_v<std::decay_t<Value>> && !std::is_same_v<std::decay_t<Value>, bool>;

/// One value for all images of a batch, or one an image.
template <typename T>
struct PerImage {
  std::vector<T> values;
  bool is_list = false;  ///< one an image

  PerImage() = default;
  /// One value for all. Throws InvalidArgumentError for a whole number that T cannot hold.
  template <typename Value, typename = std::enable_if_t<is_taken_v<Value, T>>>
  PerImage(Value&& value) : values{converted(std::forward<Value>(value))} {}
  PerImage(std::initializer_list<T> list) : values(list), is_list(true) {}
  PerImage(std::vector<T> list) : values(std::move(list)), is_list(true) {}

 private:
  template <typename Value>
  static T converted(Value&& value) {
    if constexpr (std::is_integral_v<T>) {
      const T kept = static_cast<T>(value);
      if (static_cast<std::decay_t<Value>>(kept) != value || (kept < 0) != (value < 0)) {
        throw InvalidArgumentError("A whole number of a request is " + std::to_string(value) +
                                   ", which is too large.");
      }
      return kept;
    } else {
      return T(std::forward<Value>(value));
    }
  }
};

/// What a callback is given after each step.
struct StepInfo {
  int index;          ///< 0, 1, ...
  int timestep;       ///< of the training schedule
  float* latents;     ///< the live array [B, C, h, w]; may be edited in place
  std::size_t count;  ///< its number of values
  int steps;          ///< of the run
};

/// Called after each step; true stops the run.
using StepCallback = std::function<bool(const StepInfo&)>;

/// As num_inference_steps: the fewest of the bundle's fitted solvers whose held-out pictures were as
/// near to the converged ones as with 50 steps of ddim.
inline constexpr int kAutoSteps = std::numeric_limits<int>::min();

/// The settings of one call; the defaults are those of Python's call.
struct Request {
  std::optional<int> height;  ///< pixels; none: that of `image`, or as the model was trained
  std::optional<int> width;   ///< likewise
  int num_inference_steps = 50;           ///< 1 to 1000, each a call of the UNet; or kAutoSteps
  PerImage<double> guidance_scale = 1.0;  ///< classifier-free guidance; 1.0 is off
  PerImage<double> eta = 0.0;             ///< 0 (deterministic) to 1 (as noisy as DDPM)
  PerImage<std::int64_t> seed;  ///< one s for s, s + 1, ...; one an image; none: at random
  PerImage<std::string> negative_prompt = std::string();  ///< what to guide away from
  std::string solver = "ddim";  ///< or "dpmsolver++" or "fitted"; both take no eta
  std::vector<int> timesteps;   ///< of the training schedule, descending, one a step; empty: as the
                                ///< solver spaces its steps
  std::string solver_table;  ///< of a fitted solver, as recipes name it; empty: the bundle's
  /// Pictures to start from, of the size to render: none, one for all, or one an image.
  std::vector<Image> image;
  /// Masks of these, as many: what is white is painted anew, grown to cells of
  /// Info::scale_factor pixels; all else stays, byte for byte.
  std::vector<Image> mask_image;
  /// Above 0 to 1, how much of a picture is painted anew: of N steps the last int(N * strength) are
  /// taken. None: 0.8, and 1 with a mask.
  std::optional<double> strength;
  std::string image_sha256;    ///< what a recipe has of the one picture, which it must be; or empty
  std::string mask_sha256;     ///< likewise of the one mask
  std::vector<float> latents;  ///< [B, C, h, w] in place of the seeds' first draw; or empty
  StepCallback on_step_end;    ///< may be empty
};

}  // namespace ldm_engine
