// JSON documents sealed with their own hash, so that a change of any byte shows.
// Its twin is engine/ldm_engine/bundle/seals.py.
#pragma once

#include <string>
#include <string_view>

#include "bundle/json.hpp"

namespace ldm_engine {

/// The sha256 of a document's text with zeros in the place of the 64 digits `recorded` under `key`.
std::string seal_of(std::string_view text, const std::string& key, const std::string& recorded);

/// Whether `text`, which was read as `content`, has the hash that it holds under `key`.
bool is_sealed(std::string_view text, const Json& content, const std::string& key);

}  // namespace ldm_engine
