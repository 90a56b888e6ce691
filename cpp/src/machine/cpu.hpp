// What the processor offers: cores and instructions.
// Its twin is engine/ldm_engine/machine/cpu.py.
#pragma once

namespace ldm_engine {

/// Cores that this process may use.
int available_threads();

/// Whether the CPU multiplies bfloat16 numbers by itself, rather than by detour over fp32.
bool supports_bf16();

}  // namespace ldm_engine
