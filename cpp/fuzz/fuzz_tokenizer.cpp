// Any bytes as a text, after one byte that says how; and as a vocabulary.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "bundle/json.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "sampling/settings.hpp"
#include "sampling/tokenizer.hpp"

using namespace ldm_engine;

namespace {

constexpr int kVocabSize = 1 << 20;

/// What the bits say: 1 lower case, 2 how long, 8 and 16 accents, 32 and 64 what is left off, 128
/// added tokens.
const Tokenizer& tokenizer(std::uint8_t bits) {
  static std::unique_ptr<Tokenizer> made[256];
  auto& one = made[bits];
  if (one) return *one;
  TokenizerInfo info;
  info.lowercase = bits & 1;
  if (bits & 8) info.strip_accents = (bits & 16) != 0;
  info.handle_chinese_chars = !(bits & 32);
  info.clean_text = !(bits & 64);
  const auto vocabulary = std::filesystem::path(LDM_ENGINE_TEST_DATA) / "wordpiece_vocab.txt";
  static const std::string lines = read_file(vocabulary);
  static const std::int64_t next = std::count(lines.begin(), lines.end(), '\n');
  if (bits & 128) {
    info.added_tokens = {{"[SEP]", 3, true, false, true, true, true},
                         {"red", 6, false, true, true, false, true},
                         {"e\u0301", next, false, true, false, true, true},
                         {" e", next + 1, false, false, false, true, false}};
  }
  one = std::make_unique<Tokenizer>(vocabulary, bits & 2 ? 77 : 1, std::move(info), kVocabSize);
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
    check_text(Tokenizer(path, 77, {}, kVocabSize), content.substr(0, 200));
  } catch (const BundleError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  check_text(tokenizer(data[0]), text);
  if (data[0] & 4) check_vocabulary(text);
  try {
    check_texts("prompt", {text});
  } catch (const InvalidArgumentError&) {
  }
  return 0;
}
