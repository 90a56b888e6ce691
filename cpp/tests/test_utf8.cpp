#include <doctest/doctest.h>

#include "folders.hpp"
#include "machine/utf8.hpp"

using namespace ldm_engine;

namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

}  // namespace

TEST_CASE("every code point goes through UTF-8 and back") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(c, text);
    const auto back = decode_utf8_leniently(text);
    const bool is_same = back.size() == 1 && back[0].code_point == c && !find_invalid_utf8(text);
    if (!is_same) FAIL(static_cast<int>(c));
  }
}

TEST_CASE("what is not UTF-8 is found") {
  const auto vectors = read_vectors("tokenizer.json");
  for (const auto& entry : vectors.at("invalid")) {
    CAPTURE(entry);
    CHECK(find_invalid_utf8(from_hex(entry.get<std::string>())));
  }
  CHECK(find_invalid_utf8("ab\xff") == 2U);
  CHECK_FALSE(find_invalid_utf8(""));
}

TEST_CASE("characters know the byte they begin at") {
  const auto characters = decode_utf8_leniently("a\xc3\xa9\xff\xf0\x9f\x98\x80z");
  REQUIRE(characters.size() == 5);
  CHECK(characters[1].code_point == 0xE9);
  CHECK(characters[2].code_point == 0xFFFD);
  CHECK(characters[3].source == 4);
  CHECK(characters[4].source == 8);
}
