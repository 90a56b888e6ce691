// What this machine offers: cores, instructions, free memory. Its twin is
// engine/ldm_engine/machine/cpu.py.
#pragma once

#include <cstdint>
#include <optional>

namespace ldm_engine {

/// Cores that this process may use.
int available_threads();

/// Whether the CPU multiplies bfloat16 numbers by itself, rather than by detour over fp32.
bool supports_bf16();

/// What this process may still take without swapping, or none where that cannot be told: the
/// machine's or, inside a container, its control group's (version 2), whichever is less.
std::optional<std::int64_t> free_memory_bytes();

}  // namespace ldm_engine
