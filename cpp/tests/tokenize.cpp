// Prints the ids of texts: each line of standard input is a text as JSON, or the folder of a bundle
// in a JSON object, whose tokenizer takes the lines after it. A line of output is the ids, then
// how many bytes of the text were cut off.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "sampling/tokenizer.hpp"

using namespace ldm_engine;

int main() {
  std::ios::sync_with_stdio(false);
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<std::int64_t> ids;
  for (std::string line; std::getline(std::cin, line);) {
    const nlohmann::json given = nlohmann::json::parse(line);
    if (given.is_object()) {
      const Bundle bundle = open_bundle(given.at("folder").get<std::string>());
      tokenizer =
          std::make_unique<Tokenizer>(bundle.path / kVocabulary, bundle.model.token_length,
                                      bundle.tokenizer, bundle.model.vocab_size);
      ids.resize(static_cast<std::size_t>(bundle.model.token_length));
      continue;
    }
    const auto cut = tokenizer->encode(given.get_ref<const std::string&>(), ids.data());
    for (const std::int64_t id : ids) std::cout << id << ' ';
    std::cout << (cut ? cut->size() : 0) << '\n';
  }
}
