// Any bytes as a text, after one byte that says how; and as a vocabulary.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "sampling/settings.hpp"
#include "sampling/tokenizer.hpp"

using namespace ldm_engine;

namespace {

constexpr int kVocabSize = 1 << 20;

const Tokenizer& tokenizer(bool lowercase, int token_length) {
  static std::unique_ptr<Tokenizer> made[2][2];
  auto& one = made[lowercase][token_length > 1];
  if (!one) {
    one = std::make_unique<Tokenizer>(
        std::filesystem::path(LDM_ENGINE_TEST_DATA) / "wordpiece_vocab.txt", token_length,
        lowercase, kVocabSize);
  }
  return *one;
}

void check_text(const Tokenizer& tokens, const std::string& text) {
  std::int64_t ids[77];
  const auto cut = tokens.encode(text, ids);
  for (int i = 0; i < tokens.token_length(); ++i) {
    if (ids[i] < 0 || ids[i] >= kVocabSize) std::abort();
  }
  if (cut && cut->size() > text.size()) std::abort();
}

void check_vocabulary(const std::string& content) {
  static const std::string path =
      (std::filesystem::temp_directory_path() / ("fuzz-vocab-" + std::to_string(::getpid())))
          .string();
  try {
    write_atomically(path, content);
    check_text(Tokenizer(path, 77, true, kVocabSize), content.substr(0, 200));
  } catch (const BundleError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  check_text(tokenizer(data[0] & 1, data[0] & 2 ? 77 : 1), text);
  if (data[0] & 4) check_vocabulary(text);
  try {
    check_texts("prompt", {text});
  } catch (const InvalidArgumentError&) {
  }
  return 0;
}
