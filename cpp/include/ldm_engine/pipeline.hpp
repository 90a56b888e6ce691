// The pipeline: prompts in, images out, over the programs of a bundle.
// Its twin is LDMTextToImagePipeline in engine/ldm_engine/sampling/pipeline.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ldm_engine/errors.hpp"
#include "ldm_engine/image.hpp"
#include "ldm_engine/options.hpp"
#include "ldm_engine/request.hpp"
#include "ldm_engine/visibility.h"

namespace ldm_engine {

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
  int num_steps_run = 0;             ///< fewer than requested if the callback stopped the run
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
  int default_size = 0;     ///< image height and width by default, in pixels
  int pixel_multiple = 0;   ///< image height and width are multiples of this
  int token_length = 0;     ///< tokens a prompt
  int latent_channels = 0;  ///< C of latents [B, C, h, w]
  int scale_factor = 0;     ///< pixels a latent cell spans in each direction
  std::string encoder;      ///< one hash over the program that encodes pictures; empty: none can be
};

/// A bundle that was read, and a choice of how to run it; nothing large is loaded.
///
/// From here requests can be checked and pipelines made, without reading the bundle once more.
class LDM_ENGINE_API Opening {
 public:
  /// Read a bundle folder, as `ldm-engine export` wrote it.
  ///
  /// Throws BundleNotFoundError, BundleError (unfinished, damaged or of another format version),
  /// ConfigError (its scheduler config is not supported), InvalidArgumentError, or
  /// RuntimeUnavailableError (the runtime, device or precision is not available here).
  explicit Opening(const std::filesystem::path& bundle, const Options& options = {});

  /// The request as it will be rendered, with steps and solver in the place of kAutoSteps, and the
  /// strength and hashes of pictures. Throws what Pipeline::generate would refuse these arguments
  /// with.
  Request check(const std::vector<std::string>& prompts, const Request& request = {}) const;

 private:
  friend class Pipeline;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Renders images from text with the programs of a bundle.
///
/// A pipeline serves one thread at a time; clone() gives another thread its own handles. Every use
/// of one that was moved from throws Error.
class LDM_ENGINE_API Pipeline {
 public:
  /// Load the programs of a bundle folder. Throws what Opening does, and BundleError for a file
  /// that does not have its recorded sha256.
  explicit Pipeline(const std::filesystem::path& bundle, const Options& options = {});
  explicit Pipeline(const Opening& opening);
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

  /// Free this pipeline's programs now rather than at destruction; its clones keep theirs. A second
  /// call does nothing. generate() and clone() then throw ClosedError.
  /// Throws Error if this pipeline is rendering.
  void close();

 private:
  class Impl;
  explicit Pipeline(std::unique_ptr<Impl> impl);
  Impl& impl() const;
  std::unique_ptr<Impl> impl_;
};

/// Refuse what opening `bundle` with these `options`, or this request, would be refused for, before
/// anything large is read: Opening and its check() in one call, with what they throw.
LDM_ENGINE_API void check_request(const std::filesystem::path& bundle, const Options& options,
                                  const std::vector<std::string>& prompts,
                                  const Request& request = {});

/// The version of this library.
LDM_ENGINE_API const char* version();

}  // namespace ldm_engine
