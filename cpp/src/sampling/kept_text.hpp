// The encoded empty text, which every guided picture needs, kept on disk for the next process.
// Its twin is engine/ldm_engine/sampling/kept_text.py, which keeps the same files for OpenVINO.
#pragma once

#include <functional>
#include <vector>

#include "sampling/opening.hpp"

namespace ldm_engine {

/// Keys and values [T, .] of the empty text, read or else made by `encode`.
///
/// They are kept for exactly the bundle, library, precision, threads and kind of processor that
/// they were encoded with, and only where the bundle's files are checked: pictures are the same
/// with them and without.
std::vector<float> unconditional_kv(const Opened& opened,
                                    const std::function<std::vector<float>()>& encode);

}  // namespace ldm_engine
