// Which runtimes were built in, and which one a bundle gets on this machine.
// Its twin is engine/ldm_engine/runtimes/choice.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "ldm_engine/options.hpp"
#include "runtimes/base.hpp"

namespace ldm_engine {

/// The runtimes of this build, in the order in which "auto" prefers them.
const std::vector<std::unique_ptr<Runtime>>& built_in_runtimes();

/// The runtime called `name`, or for "auto" the first that can open `bundle` here.
/// Throws InvalidArgumentError or RuntimeUnavailableError.
const Runtime& choose_runtime(const Bundle& bundle, const std::string& name,
                              const std::string& precision);

/// Check device and threads, and fill in the thread count; the precision was chosen for before.
/// Throws InvalidArgumentError, or RuntimeUnavailableError if no runtime offers that device.
RuntimeOptions resolve_options(const Options& options);

}  // namespace ldm_engine
