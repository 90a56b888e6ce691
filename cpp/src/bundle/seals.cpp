// JSON documents sealed with their own hash, so that a change of any byte shows.
#include "bundle/seals.hpp"

#include "machine/sha256.hpp"

namespace ldm_engine {

std::string seal_of(std::string_view text, const std::string& key, const std::string& recorded) {
  const std::string begin = "\"" + key + "\": \"";
  const std::string sealed = begin + recorded + "\"";
  const std::size_t at = text.find(sealed);
  if (at == std::string_view::npos) return sha256_of_text(text);
  const std::string unsealed = begin + std::string(64, '0') + "\"";
  Sha256 hash;
  hash.update(text.data(), at);
  hash.update(unsealed.data(), unsealed.size());
  const std::string_view rest = text.substr(at + sealed.size());
  hash.update(rest.data(), rest.size());
  return hash.hex();
}

bool is_sealed(std::string_view text, const Json& content, const std::string& key) {
  const auto found = content.find(key);
  if (found == content.end() || !found->is_string()) return false;
  const auto recorded = found->get<std::string>();
  return seal_of(text, key, recorded) == recorded;
}

}  // namespace ldm_engine
