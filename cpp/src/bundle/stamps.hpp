// Files verified and unchanged since; they are not hashed again.
// Its twin is engine/ldm_engine/bundle/stamps.py, which keeps the same notes.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "machine/files.hpp"

namespace ldm_engine {

/// The files among `hashes` in `folder` that were not verified to have these hashes since they last
/// changed.
///
/// Damage on the disk itself, without a write, is not noticed; `ldm-engine verify` reads all.
std::vector<std::string> changed_files(const std::filesystem::path& folder,
                                       const std::map<std::string, std::string>& hashes);

/// The stamps of the files `names`; take them before reading the files.
std::map<std::string, Stamp> stamp_files(const std::filesystem::path& folder,
                                         const std::vector<std::string>& names);

/// Note that the files that had these `stamps` have their `hashes`.
void remember_files(const std::filesystem::path& folder,
                    const std::map<std::string, std::string>& hashes,
                    const std::map<std::string, Stamp>& stamps);

}  // namespace ldm_engine
