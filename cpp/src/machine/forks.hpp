// What a forked child inherits of libraries with threads: it is neither used nor freed there.
// Its twin is engine/ldm_engine/machine/forks.py.
#pragma once

#include <string>

namespace ldm_engine {

/// A number that this process has in common with none that it was forked from.
int process_number();

/// Why a forked child cannot use `what`, and what to do.
std::string inherited(const std::string& what);

}  // namespace ldm_engine
