// Manifests that the tests make.
#pragma once

#include <string>

#include "bundle/json.hpp"
#include "bundle/manifest.hpp"

/// The text of a manifest with its own hash in it.
inline std::string sealed(ldm_engine::Json content) {
  const std::string zeros(64, '0');
  content["manifest_sha256"] = zeros;
  const std::string text = content.dump(2) + "\n";
  content["manifest_sha256"] = ldm_engine::seal_of_manifest(text, zeros);
  return content.dump(2) + "\n";
}
