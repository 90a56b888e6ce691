// Memory as Linux counts it: what is free. Its twin is engine/ldm_engine/machine/memory.py.
#pragma once

#include <cstdint>
#include <optional>

namespace ldm_engine {

/// What this process may still take without swapping, or none where it is not reported: the
/// machine's, or what its control groups leave, whichever is less.
std::optional<std::int64_t> free_memory_bytes();

}  // namespace ldm_engine
