// How values are written in error messages: in quotes, listed, as numbers.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ldm_engine {

/// `text` in quotes: valid UTF-8, without control characters, and cut off after so many characters.
std::string in_quotes(std::string_view text, std::size_t most = 200);

/// `items` with `separator` between them.
std::string joined(const std::vector<std::string>& items, const char* separator = ", ");

/// A number with all of its digits, or with so many, in any locale.
std::string number_text(double value);
std::string number_text(double value, int digits);

}  // namespace ldm_engine
