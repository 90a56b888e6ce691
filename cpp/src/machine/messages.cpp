// How values are written in error messages: in quotes, listed, as numbers.
#include "machine/messages.hpp"

#include <array>
#include <charconv>

#include "machine/utf8.hpp"

namespace ldm_engine {

std::string in_quotes(std::string_view text, std::size_t most) {
  std::string result = "'";
  std::size_t count = 0;
  for (const Character& character : decode_utf8_leniently(text)) {
    if (++count > most) {
      result += "…";
      break;
    }
    const bool is_control = character.code_point < 0x20 || character.code_point == 0x7F;
    append_utf8(is_control ? 0xFFFD : character.code_point, result);
  }
  return result + "'";
}

std::string joined(const std::vector<std::string>& items, const char* separator) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : separator) + item;
  return text;
}

std::string number_text(double value) {
  std::array<char, 40> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end.ptr};
}

std::string number_text(double value, int digits) {
  std::array<char, 40> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value,
                                 std::chars_format::general, digits);
  return {text.data(), end.ptr};
}

}  // namespace ldm_engine
