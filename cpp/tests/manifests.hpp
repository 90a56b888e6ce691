// Manifests, and files sealed like them, that the tests make.
#pragma once

#include <string>

#include "bundle/json.hpp"
#include "bundle/manifest.hpp"
#include "bundle/seals.hpp"

/// The text of a document with its own hash in it, by default of a manifest.
inline std::string sealed(ldm_engine::Json content,
                          const char* key = ldm_engine::kManifestSeal) {
  const std::string zeros(64, '0');
  content[key] = zeros;
  const std::string text = content.dump(2) + "\n";
  content[key] = ldm_engine::seal_of(text, key, zeros);
  return content.dump(2) + "\n";
}
