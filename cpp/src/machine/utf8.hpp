// UTF-8 as Unicode defines it: no surrogates, no overlong forms, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ldm_engine {

/// A code point and the byte of the text at which it begins.
struct Character {
  char32_t code_point;
  std::size_t source;
};

/// Where `text` stops being valid UTF-8, or none.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

/// The characters of `text`; each byte that belongs to none becomes U+FFFD.
std::vector<Character> decode_utf8_leniently(std::string_view text);

/// Add the encoding of a code point (no surrogate) to `text`.
void append_utf8(char32_t code_point, std::string& text);

}  // namespace ldm_engine
