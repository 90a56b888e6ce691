// The names of picture files.
#include "images.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace {

constexpr std::size_t kMaxSlug = 60;

bool is_slug_letter(char letter) {
  return (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9');
}

}  // namespace

std::string slug(const std::string& text) {
  struct Free {
    void operator()(utf8proc_uint8_t* data) const { std::free(data); }
  };
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &mapped,
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT));
  const std::unique_ptr<utf8proc_uint8_t, Free> decomposed(mapped);
  std::string words;
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    const utf8proc_uint8_t byte = decomposed.get()[i];
    if (byte >= 0x80) continue;  // what is left of a letter without its accents is ASCII
    const char letter = static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
    if (is_slug_letter(letter)) {
      words += letter;
    } else if (!words.empty() && words.back() != '-') {
      words += '-';
    }
  }
  words.resize(std::min(words.size(), kMaxSlug));
  while (!words.empty() && words.back() == '-') words.pop_back();
  return words.empty() ? "image" : words;
}
