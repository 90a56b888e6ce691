// The user's cache folder: what can be recomputed, kept so that a second start is fast.
// Whatever is wrong with it, the engine works without it. Its twin is
// engine/ldm_engine/machine/cache.py, which uses the same folder in the same way.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace ldm_engine {

/// The folder of a `kind` of things, or of the one called `name`; none if it cannot be written.
///
/// Opening one removes those of its kind that nothing has used for a month. All lie in the folder
/// ldm-engine of $LDM_ENGINE_CACHE, $XDG_CACHE_HOME or ~/.cache; LDM_ENGINE_CACHE=off turns
/// caching off.
std::optional<std::filesystem::path> cache_folder(const std::string& kind,
                                                  const std::string& name = "");

/// Remove the files of `folder` with this `extension` that do not have the hash beside them. One
/// that was not written since its hash was found is not read.
void drop_unsealed(const std::filesystem::path& folder, const std::string& extension);

/// Write the hash of each new file of `folder` beside it, and keep only the latest files.
void seal_files(const std::filesystem::path& folder, const std::string& extension);

}  // namespace ldm_engine
