// Text as BERT's tokenizer sees it: cleaned, CJK set apart, and for uncased models decomposed,
// without accents, in small letters.
#pragma once

#include <vector>

#include "machine/utf8.hpp"

namespace ldm_engine {

/// What BertNormalizer of the `tokenizers` library makes of `text`. Every result keeps the place
/// of the character that it came from.
std::vector<Character> normalize_text(const std::vector<Character>& text, bool lowercase);

/// Whether the pre-tokenizer makes this character a word of its own.
bool is_punctuation(char32_t code_point);

/// Unicode white space, of the kinds that a vocabulary's lines are trimmed of.
bool is_white_space(char32_t code_point);

}  // namespace ldm_engine
