// The recipe that an image file carries: all that is needed to render it again, pixel for pixel.
// Its twin is engine/ldm_engine/sampling/recipes.py; `ldm-engine generate --from-image` reads what
// this writes.
#pragma once

#include <string>
#include <vector>

#include "ldm_engine/image.hpp"
#include "ldm_engine/request.hpp"

namespace ldm_engine {

struct Info;

/// The texts of the PNG file of one image.
///
/// `request` has the image's own values, its seed and size filled in; `info` says what rendered it,
/// as one of `batch_size` rows of the UNet: some runtimes round differently with another count.
/// With `mark` one of the texts states that a model made the image.
std::vector<ImageText> recipe_texts(const std::string& prompt, const Request& request,
                                    const Info& info, int batch_size, bool mark);

}  // namespace ldm_engine
