// Text as BERT's tokenizer sees it: cleaned, CJK set apart, decomposed and without accents, in small
// letters; each where a bundle says so.
#include "sampling/text_normalization.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>

namespace ldm_engine {
namespace {

/// First and last of a range, or a letter and another.
struct CodePointPair {
  char32_t first;
  char32_t second;
};

#include "bert_characters.inc"

/// Canonical decompositions have at most four characters.
constexpr int kMaxDecomposition = 32;

/// The first entry of a sorted table whose `second` is not below `code_point`, if it begins there.
template <std::size_t kCount>
bool is_in(const CodePointPair (&table)[kCount], char32_t code_point) {
  const auto found = std::lower_bound(
      std::begin(table), std::end(table), code_point,
      [](const CodePointPair& range, char32_t value) { return range.second < value; });
  return found != std::end(table) && found->first <= code_point;
}

char32_t small_letter(char32_t code_point) {
  const auto found = std::lower_bound(
      std::begin(kLowercase), std::end(kLowercase), code_point,
      [](const CodePointPair& pair, char32_t value) { return pair.first < value; });
  if (found != std::end(kLowercase) && found->first == code_point) return found->second;
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point)));
}

int combining_class(char32_t code_point) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point))->combining_class;
}

/// Unicode's canonical decomposition (NFD).
std::vector<Character> decompose(const std::vector<Character>& text) {
  std::vector<Character> result;
  result.reserve(text.size());
  utf8proc_int32_t parts[kMaxDecomposition];
  for (const Character& character : text) {
    int boundary = 0;
    const utf8proc_ssize_t count =
        is_in(kUndecomposed, character.code_point)
            ? 0
            : utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character.code_point), parts,
                                      kMaxDecomposition, UTF8PROC_DECOMPOSE, &boundary);
    if (count < 1 || count > kMaxDecomposition) {
      result.push_back(character);
      continue;
    }
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      result.push_back({static_cast<char32_t>(parts[i]), character.source});
    }
  }
  const auto combines = [](const Character& c) { return combining_class(c.code_point) != 0; };
  for (auto begin = result.begin(); begin != result.end();) {
    begin = std::find_if(begin, result.end(), combines);
    const auto end = std::find_if_not(begin, result.end(), combines);
    std::stable_sort(begin, end, [](const Character& a, const Character& b) {
      return combining_class(a.code_point) < combining_class(b.code_point);
    });
    begin = end;
  }
  return result;
}

std::vector<Character> in_small_letters(const std::vector<Character>& text) {
  std::vector<Character> result;
  result.reserve(text.size());
  for (const Character& character : text) {
    if (character.code_point == 0x130) {  // the one whose small letter is two: i and its dot
      result.push_back({U'i', character.source});
      result.push_back({0x307, character.source});
      continue;
    }
    result.push_back({small_letter(character.code_point), character.source});
  }
  return result;
}

}  // namespace

std::vector<Character> normalize_text(const std::vector<Character>& text,
                                      const TokenizerInfo& info) {
  std::vector<Character> result;
  result.reserve(text.size());
  for (const Character& character : text) {
    if (info.clean_text && is_in(kRemoved, character.code_point)) continue;
    const bool is_apart = info.handle_chinese_chars && is_in(kIdeographs, character.code_point);
    if (is_apart) result.push_back({U' ', character.source});
    const bool is_blank = info.clean_text && is_in(kSpaces, character.code_point);
    result.push_back({is_blank ? U' ' : character.code_point, character.source});
    if (is_apart) result.push_back({U' ', character.source});
  }
  if (info.strip_accents.value_or(info.lowercase)) {
    result = decompose(result);
    const auto is_accent = [](const Character& c) { return is_in(kAccents, c.code_point); };
    result.erase(std::remove_if(result.begin(), result.end(), is_accent), result.end());
  }
  return info.lowercase ? in_small_letters(result) : result;
}

bool is_punctuation(char32_t code_point) { return is_in(kPunctuation, code_point); }

bool is_word_character(char32_t code_point) { return is_in(kWordCharacters, code_point); }

bool is_white_space(char32_t code_point) {
  // Unicode's White_Space has three more than the normalizer, which removes them.
  return is_in(kSpaces, code_point) || code_point == 0xB || code_point == 0xC || code_point == 0x85;
}

}  // namespace ldm_engine
