// bundle.json read with distrust, in every format version ever written; docs/bundle-format.md
// documents it. Its twin is engine/ldm_engine/bundle/manifest.py; tests/data/manifests.json holds
// what both accept and refuse.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "bundle/bundle.hpp"
#include "bundle/json.hpp"

namespace ldm_engine {

inline constexpr char kManifestSeal[] = "manifest_sha256";  ///< the key of its own hash

/// The description of the bundle in a folder; the files it lists are not opened yet.
///
/// Throws BundleNotFoundError if there is no such folder, and BundleError if the manifest is
/// missing, broken, altered, or of another format version.
Bundle open_bundle(const std::filesystem::path& folder);

/// The bundle that the `text` of a manifest in `folder` describes. Throws BundleError.
Bundle parse_manifest(const std::filesystem::path& folder, std::string_view text);

}  // namespace ldm_engine
