// Text as BERT's tokenizer sees it: cleaned, CJK set apart, decomposed and without accents, in small
// letters; each where a bundle says so.
#pragma once

#include <vector>

#include "bundle/model.hpp"
#include "machine/utf8.hpp"

namespace ldm_engine {

/// What BertNormalizer of the `tokenizers` library makes of `text`. Every result keeps the place
/// of the character that it came from.
std::vector<Character> normalize_text(const std::vector<Character>& text, const TokenizerInfo& info);

/// Whether the pre-tokenizer makes this character a word of its own.
bool is_punctuation(char32_t code_point);

/// Whether a token that must stand alone is not found beside this character.
bool is_word_character(char32_t code_point);

/// Unicode white space, which parts words and which a vocabulary's lines are trimmed of.
bool is_white_space(char32_t code_point);

}  // namespace ldm_engine
