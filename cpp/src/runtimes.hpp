// The runtimes that a build may hold; each is one file that includes its library's headers.
#pragma once

#include <memory>

#include "runtime.hpp"

namespace ldm_engine {

std::unique_ptr<Runtime> make_openvino_runtime();

/// Only where the build was given PADDLE_INFERENCE_DIR.
std::unique_ptr<Runtime> make_paddle_runtime();

}  // namespace ldm_engine
