// OpenVINO on CPU; its library's headers are included by openvino.cpp alone.
// Its twin is engine/ldm_engine/runtimes/openvino.py.
#pragma once

#include <memory>

#include "runtimes/base.hpp"

namespace ldm_engine {

std::unique_ptr<Runtime> make_openvino_runtime();

}  // namespace ldm_engine
