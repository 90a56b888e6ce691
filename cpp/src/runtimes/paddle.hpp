// Paddle Inference on CPU; its library's headers are included by paddle.cpp alone.
// Its twin is engine/ldm_engine/runtimes/paddle.py.
#pragma once

#include <memory>

#include "runtimes/base.hpp"

namespace ldm_engine {

/// Only where the build was given PADDLE_INFERENCE_DIR.
std::unique_ptr<Runtime> make_paddle_runtime();

}  // namespace ldm_engine
