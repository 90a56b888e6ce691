// Text as BERT's tokenizer sees it: cleaned, CJK set apart, decomposed and without accents, in small
// letters; each where a bundle says so.
#include "sampling/text_normalization.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace ldm_engine {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

/// Capitals at even distances, each as far from its small letter.
struct Letters {
  char32_t first;
  char32_t last;
  char32_t step;
  std::int32_t shift;
};

#include "bert_characters.inc"

/// Canonical decompositions have at most four characters.
constexpr int kMaxDecomposition = 32;

/// The entry of a sorted table whose range holds `code_point`, if one does.
template <typename Range, std::size_t kCount>
const Range* find_range(const Range (&table)[kCount], char32_t code_point) {
  const auto found = std::lower_bound(
      std::begin(table), std::end(table), code_point,
      [](const Range& range, char32_t value) { return range.last < value; });
  return found != std::end(table) && found->first <= code_point ? found : nullptr;
}

template <std::size_t kCount>
bool is_in(const CodePointRange (&table)[kCount], char32_t code_point) {
  return find_range(table, code_point) != nullptr;
}

char32_t small_letter(char32_t code_point) {
  const Letters* const letters = find_range(kLowercase, code_point);
  if (!letters || (code_point - letters->first) % letters->step != 0) return code_point;
  return static_cast<char32_t>(static_cast<std::int32_t>(code_point) + letters->shift);
}

/// 0 for what the tokenizer's Unicode does not reorder, whatever utf8proc's says.
int combining_class(char32_t code_point) {
  if (!is_in(kNormalized, code_point)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point))->combining_class;
}

/// Unicode's canonical decomposition (NFD), of what the tokenizer's Unicode knows.
std::vector<Character> decompose(const std::vector<Character>& text) {
  std::vector<Character> result;
  result.reserve(text.size());
  utf8proc_int32_t parts[kMaxDecomposition];
  for (const Character& character : text) {
    int boundary = 0;
    const utf8proc_ssize_t count =
        is_in(kNormalized, character.code_point)
            ? utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character.code_point), parts,
                                      kMaxDecomposition, UTF8PROC_DECOMPOSE, &boundary)
            : 0;
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
