// Pictures to start from: checked, and what of them stays, as latents and as pixels.
// Its twin is engine/ldm_engine/sampling/inputs.py, with the pictures' part of rules.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bundle/model.hpp"
#include "ldm_engine/image.hpp"
#include "ldm_engine/request.hpp"

namespace ldm_engine {

/// What one image starts from.
struct Input {
  const Image* picture;            ///< of the request, as large as the image
  std::vector<std::uint8_t> keep;  ///< [h, w], 1 for latent cells that stay; empty: none do
  std::size_t cell;                ///< pixels that one spans in each direction

  /// Put what stays into the image `pixels` [H, W, 3], as the bytes of the picture.
  void paste(float* pixels) const;
};

/// sha256 of the file that a picture was read from, or of its pixels and their shape.
std::string picture_sha256(const Image& picture);

/// sha256 of a picture's pixels and their shape.
std::string pixels_sha256(const Image& picture);

/// Likewise of a mask: without a file, of its values 0 and 255.
std::string mask_sha256(const Image& mask);

/// Fill in the sizes that `request` has from its pictures, and its strength; note which pictures
/// they are. What it notes already must hold.
/// Throws InvalidArgumentError (ShapeError for sizes); `no_pictures` says why none can be taken.
void settle_pictures(Request& request, std::size_t count, const ModelInfo& model,
                     const std::string& no_pictures);

/// Calls of the UNet: of a picture's steps the last ones.
/// Throws InvalidArgumentError if that is none, or `strength` does not go with the solver.
int steps_to_run(const Request& request);

/// The inputs of the images of a request that was settled, or none; they point into it.
std::vector<Input> make_inputs(const Request& request, std::size_t count, const ModelInfo& model);

}  // namespace ldm_engine
