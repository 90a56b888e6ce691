// The pipeline: prompts in, images out, over the four programs of a bundle.
// Its twin is LDMTextToImagePipeline in engine/ldm_engine/sampling/pipeline.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ldm_engine/errors.hpp"
#include "ldm_engine/image.hpp"
#include "ldm_engine/visibility.h"

namespace ldm_engine {

/// Where and how programs run.
struct Options {
  std::string runtime = "auto";    ///< "auto", "openvino" or, where it was built in, "paddle"
  std::string device = "cpu";      ///< "cpu"
  std::string precision = "fp32";  ///< "fp32", "bf16" or "int8"; never another than asked for
  std::optional<int> threads;      ///< cores to use; none: all that this process may use
  /// "resident" keeps all programs; "sequential" holds one at a time, which takes less memory and
  /// more time; "auto" does so where their weights are larger than half of the free memory.
  std::string memory = "resident";
  bool check_hashes = true;  ///< compare files with the manifest's sha256 when they have changed
  bool cache = true;         ///< keep compiled models in the user's cache folder
};

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
      const T held = static_cast<T>(value);
      if (static_cast<std::decay_t<Value>>(held) != value || (held < 0) != (value < 0)) {
        throw InvalidArgumentError("A whole number of a request is " + std::to_string(value) +
                                   ", which is too large.");
      }
      return held;
    } else {
      return T(std::forward<Value>(value));
    }
  }
};

/// What a callback is told after each step.
struct StepInfo {
  int index;          ///< 0, 1, ...
  int timestep;       ///< of the training schedule
  float* latents;     ///< the live array [B, C, h, w]; may be edited in place
  std::size_t count;  ///< its number of values
};

/// Called after each step; true stops the run.
using StepCallback = std::function<bool(const StepInfo&)>;

/// What is asked of one call; the defaults are those of Python's call.
struct Request {
  std::optional<int> height;              ///< pixels; none: the size the model was trained at
  std::optional<int> width;               ///< likewise
  int num_inference_steps = 50;           ///< DDIM steps, 1 to 1000
  PerImage<double> guidance_scale = 1.0;  ///< classifier-free guidance; 1.0 is off
  PerImage<double> eta = 0.0;             ///< 0 (deterministic) to 1 (as noisy as DDPM)
  PerImage<std::int64_t> seed;  ///< one s for s, s + 1, ...; one an image; none: at random
  PerImage<std::string> negative_prompt = std::string();  ///< what to guide away from
  std::vector<float> latents;  ///< [B, C, h, w] in place of the seeds' first draw; or empty
  StepCallback on_step_end;    ///< may be empty
};

/// How long the parts of a call took, in milliseconds.
struct Timings {
  double text_ms = 0;            ///< tokenizing and encoding the texts
  double time_ms = 0;            ///< encoding the schedule
  double denoise_ms = 0;         ///< the loop, compiling for a new shape included
  double decode_ms = 0;          ///< latents to pixels
  double total_ms = 0;           ///< the whole call
  std::vector<double> steps_ms;  ///< each step run
};

/// What a call returns.
struct Result {
  std::vector<Image> images;         ///< one a prompt
  std::vector<std::uint32_t> seeds;  ///< the seed of each image, also when none was given
  int num_steps_run = 0;             ///< fewer than asked for if the callback stopped the run
  Timings timings;
  std::vector<std::string> warnings;  ///< prompts that were cut off, images of a single colour
};

/// Facts about an opened bundle.
struct Info {
  std::string source;       ///< the checkpoint's id or folder name
  std::string digest;       ///< one hash over all files that make the pixels
  std::string runtime;      ///< in use
  std::string precision;    ///< in use
  std::string memory;       ///< "resident" or "sequential", whichever is in use
  int threads = 0;          ///< in use
  int default_size = 0;     ///< image height and width where none are asked for, in pixels
  int pixel_multiple = 0;   ///< image height and width are multiples of this
  int token_length = 0;     ///< tokens a prompt
  int latent_channels = 0;  ///< C of latents [B, C, h, w]
  int scale_factor = 0;     ///< pixels a latent cell spans in each direction
};

/// Renders images from text with the programs of a bundle.
///
/// A pipeline serves one thread at a time; clone() gives another thread its own handles. All that
/// is asked of one that was moved from throws Error.
class LDM_ENGINE_API Pipeline {
 public:
  /// Open a bundle folder, as `ldm-engine export` wrote it.
  ///
  /// Throws BundleNotFoundError, BundleError (unfinished, damaged or of another format version),
  /// ConfigError (its scheduler config is not supported), InvalidArgumentError, or
  /// RuntimeUnavailableError (the runtime, device or precision is not to be had here).
  explicit Pipeline(const std::filesystem::path& bundle, const Options& options = {});
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  /// Render one image a prompt.
  ///
  /// Throws InvalidArgumentError (ShapeError for sizes), NonFiniteError if an image came out as NaN
  /// or infinity, or Error if this pipeline is in use or a program cannot be run. What a callback
  /// throws passes through.
  Result generate(const std::vector<std::string>& prompts, const Request& request = {});

  /// Another pipeline for another thread, over the same weights if they are resident. Make clones
  /// in one thread, before the threads that use them start.
  Pipeline clone() const;

  /// What was opened, and what runs it.
  const Info& info() const;

 private:
  class Impl;
  explicit Pipeline(std::unique_ptr<Impl> impl);
  Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// Refuse what opening `bundle` with these `options`, or this request, would be refused for, before
/// anything large is read. Files are not compared with their hashes yet.
///
/// Throws what Pipeline and Pipeline::generate throw.
LDM_ENGINE_API void check_request(const std::filesystem::path& bundle, const Options& options,
                                  const std::vector<std::string>& prompts,
                                  const Request& request = {});

/// The version of this library.
LDM_ENGINE_API const char* version();

}  // namespace ldm_engine
