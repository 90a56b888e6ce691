// What the processor offers: cores and instructions.
// Its twin is engine/ldm_engine/machine/cpu.py.
#pragma once

#include <string>

namespace ldm_engine {

/// Cores that this process may use: those it may run on, or fewer where a quota is less.
///
/// A quota of a fraction of a core counts as a whole one.
int available_threads();

/// Whether the CPU multiplies bfloat16 numbers by itself, rather than by detour over fp32.
bool supports_bf16();

/// Eight hex digits that tell kinds of processors apart, whose results may differ; nothing if the
/// system does not tell.
std::string processor();

}  // namespace ldm_engine
