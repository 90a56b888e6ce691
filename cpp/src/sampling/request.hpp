// One call's settings as arrays: checked, one value an image, with their defaults filled in.
// Its twin is engine/ldm_engine/sampling/request.py; tests/data/requests.json holds what both
// refuse.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle/contract.hpp"
#include "ldm_engine/request.hpp"
#include "sampling/fitted.hpp"
#include "sampling/inputs.hpp"
#include "sampling/schedule.hpp"
#include "sampling/solvers.hpp"

namespace ldm_engine {

/// A checked request for B images.
struct ResolvedRequest {
  std::vector<std::string> prompts;           ///< B
  std::vector<std::string> negative_prompts;  ///< B; empty text is the unconditional one
  int height = 0;                             ///< pixels
  int width = 0;
  int num_inference_steps = 0;       ///< also where the request says auto, as the next two
  std::string solver;
  std::string solver_table;          ///< of a fitted solver; else empty
  std::vector<BatchRow> rows;        ///< of the solver, one a step
  std::vector<float> guidance;       ///< [B], or empty: no guidance
  std::vector<std::uint32_t> seeds;  ///< B
  Shape latents_shape;               ///< [B, C, h, w]
  std::vector<Input> inputs;         ///< B pictures to start from, or none; of the given request
  std::optional<double> strength;    ///< as the next two of a picture that is started from
  std::string image_sha256;
  std::string mask_sha256;

  /// The texts of the UNet's rows, B or with guidance 2B: [unconditional, text].
  std::vector<std::string> texts() const;
};

/// What a bundle that was opened accepts.
struct Acceptance {
  const ModelInfo& model;
  const NoiseSchedule& schedule;
  const Tables& tables;
  std::string no_pictures;  ///< why no picture can be started from
};

/// Check what Pipeline::generate, which documents it, was given.
/// Throws InvalidArgumentError, ShapeError for sizes, or BundleError for tables that are no good.
ResolvedRequest resolve_request(const Acceptance& accepted, const std::vector<std::string>& prompts,
                                const Request& request);

}  // namespace ldm_engine
