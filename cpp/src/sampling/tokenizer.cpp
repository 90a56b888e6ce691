// Text to input_ids: BERT WordPiece, padded to the model's token length, without any mask.
#include "sampling/tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "bundle/json.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"
#include "sampling/text_normalization.hpp"

namespace ldm_engine {
namespace {

constexpr char kRemedy[] = " Use the vocabulary published with the checkpoint.";

std::string_view without_trailing_space(std::string_view line) {
  const std::vector<Character> characters = decode_utf8_leniently(line);
  std::size_t end = line.size();
  for (auto at = characters.rbegin(); at != characters.rend(); ++at) {
    if (!is_white_space(at->code_point)) break;
    end = at->source;
  }
  return line.substr(0, end);
}

std::u32string code_points(const std::vector<Character>& text) {
  std::u32string result;
  result.reserve(text.size());
  for (const Character& character : text) result += character.code_point;
  return result;
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& vocabulary, int token_length, TokenizerInfo info,
                     int vocab_size)
    : token_length_(token_length), info_(std::move(info)) {
  read(vocabulary);
  if (!info_.added_tokens) {
    info_.added_tokens.emplace();
    for (const char* name : kDefaultAddedTokens) {
      const std::optional<std::int64_t> id = find(name);
      if (id) info_.added_tokens->push_back({name, *id, true, false, false, false, false});
    }
  }
  find_special_ids(vocabulary);
  make_patterns(vocabulary);
  check_ids(vocabulary, vocab_size);
}

void Tokenizer::read(const std::filesystem::path& vocabulary) {
  content_ = read_file(vocabulary);
  if (const auto invalid = find_invalid_utf8(content_)) {
    throw BundleError(vocabulary.string() + " is not a WordPiece vocabulary: byte " +
                      std::to_string(*invalid) + " is not valid UTF-8." + kRemedy);
  }
  const std::string_view content = content_;
  std::int64_t id = 0;
  for (std::size_t start = 0; start < content.size(); ++id) {
    const std::size_t end = std::min(content.find('\n', start), content.size());
    // The later of two equal lines counts.
    pieces_[without_trailing_space(content.substr(start, end - start))] = id;
    start = end + 1;
  }
}

void Tokenizer::find_special_ids(const std::filesystem::path& vocabulary) {
  const auto find_any = [&](const std::string& name) {
    for (const AddedToken& token : *info_.added_tokens) {
      if (token.content == name) return std::optional(token.id);
    }
    return find(name);
  };
  std::vector<std::string> missing;
  const auto keep = [&](const std::string& name, std::optional<std::int64_t> found,
                        std::int64_t& id) {
    if (!found) missing.push_back(name);
    id = found.value_or(0);
  };
  keep(info_.cls_token, find_any(info_.cls_token), cls_);
  keep(info_.sep_token, find_any(info_.sep_token), sep_);
  keep(info_.pad_token, find_any(info_.pad_token), pad_);
  // Only the vocabulary's own gives an id to words that are unknown.
  keep(info_.unk_token, find(info_.unk_token), unknown_);
  if (!missing.empty()) {
    throw BundleError(vocabulary.string() + " lacks the special tokens " + joined(missing) + "." +
                      kRemedy);
  }
}

void Tokenizer::check_ids(const std::filesystem::path& vocabulary, int vocab_size) const {
  std::vector<AddedToken> tokens = *info_.added_tokens;
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  std::int64_t largest = 0;
  for (const auto& [piece, id] : pieces_) largest = std::max(largest, id);
  // Those that the vocabulary lacks are numbered as they come, behind it.
  auto next = static_cast<std::int64_t>(pieces_.size());
  for (const AddedToken& token : tokens) {
    const std::int64_t id = find(token.content).value_or(next);
    if (id != token.id) {
      throw BundleError(vocabulary.string() + " gives the added token " +
                        in_quotes(token.content) + " the id " + std::to_string(id) +
                        "; the bundle says " + std::to_string(token.id) + "." + kRemedy);
    }
    next = std::max(next, id + 1);
    largest = std::max(largest, id);
  }
  if (largest >= vocab_size) {
    throw BundleError(vocabulary.string() + " gives ids up to " + std::to_string(largest) +
                      ", the text encoder embeds " + std::to_string(vocab_size) + "." + kRemedy);
  }
}

void Tokenizer::make_patterns(const std::filesystem::path& vocabulary) {
  for (const AddedToken& token : *info_.added_tokens) {
    const Text content = decode_utf8_leniently(token.content);
    std::u32string pattern =
        code_points(token.normalized ? normalize_text(content, info_) : content);
    if (pattern.empty()) continue;
    if (token.lstrip && std::all_of(pattern.begin(), pattern.end(), is_white_space)) {
      throw BundleError("The tokenizer of " + vocabulary.string() + " adds " +
                        in_quotes(token.content) +
                        " with `lstrip`, which is white space alone; other text is accepted. "
                        "Use a tokenizer without it.");
    }
    auto& patterns = token.normalized ? normalized_patterns_ : given_patterns_;
    patterns.push_back({std::move(pattern), token});
  }
}

std::optional<std::string> Tokenizer::encode(std::string_view text, std::int64_t* input_ids) const {
  std::vector<Token> tokens = {{cls_, 0}};
  add_around_patterns(given_patterns_, decode_utf8_leniently(text), tokens, [&](const Text& given) {
    add_around_patterns(normalized_patterns_, normalize_text(given, info_), tokens,
                        [&](const Text& plain) { add_words(plain, tokens); });
  });
  if (!is_full(tokens)) tokens.push_back({sep_, text.size()});

  const auto length = static_cast<std::size_t>(token_length_);
  std::optional<std::string> cut;
  if (tokens.size() > length) {
    cut.emplace(text.substr(tokens[length - 1].source));
    tokens.resize(length);
    tokens.back().id = sep_;
  }
  std::fill_n(input_ids, length, pad_);
  std::transform(tokens.begin(), tokens.end(), input_ids,
                 [](const Token& token) { return token.id; });
  return cut;
}

const Tokenizer::Pattern* Tokenizer::longest_at(const std::vector<Pattern>& patterns,
                                                const Text& text, std::size_t at) const {
  const Pattern* longest = nullptr;
  for (const Pattern& pattern : patterns) {
    const std::size_t size = pattern.characters.size();
    if (size > text.size() - at || (longest && size <= longest->characters.size())) continue;
    const bool is_here = std::equal(pattern.characters.begin(), pattern.characters.end(),
                                    text.begin() + static_cast<std::ptrdiff_t>(at),
                                    [](char32_t a, const Character& b) { return a == b.code_point; });
    if (is_here) longest = &pattern;
  }
  return longest;
}

/// Add the tokens that are found in `text` by their patterns, leftmost and then longest first, and
/// let `add_plain` add what lies between them.
template <typename AddPlain>
void Tokenizer::add_around_patterns(const std::vector<Pattern>& patterns, const Text& text,
                                    std::vector<Token>& tokens, const AddPlain& add_plain) const {
  const auto is_white = [&](std::size_t i) { return is_white_space(text[i].code_point); };
  const auto is_word = [&](std::size_t i) { return is_word_character(text[i].code_point); };
  const auto add_between = [&](std::size_t from, std::size_t to) {
    if (from >= to) return;
    const auto at = [&](std::size_t i) { return text.begin() + static_cast<std::ptrdiff_t>(i); };
    add_plain(Text(at(from), at(to)));
  };
  std::size_t done = 0;
  for (std::size_t i = 0; i < text.size() && !is_full(tokens);) {
    const Pattern* const pattern = longest_at(patterns, text, i);
    if (!pattern) {
      ++i;
      continue;
    }
    std::size_t begin = i, end = i + pattern->characters.size();
    i = end;  // the next is looked for there, whether this one is taken or not
    const AddedToken& token = pattern->token;
    const bool touches = (begin > 0 && is_word(begin - 1)) || (end < text.size() && is_word(end));
    if (token.single_word && touches) continue;
    if (token.lstrip) {
      while (begin > 0 && is_white(begin - 1)) --begin;
      begin = std::max(begin, done);
    }
    while (token.rstrip && end < text.size() && is_white(end)) ++end;
    add_between(done, begin);
    if (!is_full(tokens)) tokens.push_back({token.id, text[begin].source});
    done = end;
  }
  if (!is_full(tokens)) add_between(done, text.size());
}

void Tokenizer::add_words(const Text& text, std::vector<Token>& tokens) const {
  const Character* const end = text.data() + text.size();
  for (const Character* at = text.data(); at != end && !is_full(tokens);) {
    const Character* word = at++;
    if (is_white_space(word->code_point)) continue;
    if (!is_punctuation(word->code_point)) {
      at = std::find_if(at, end, [](const Character& c) {
        return is_white_space(c.code_point) || is_punctuation(c.code_point);
      });
    }
    add_word(word, at, tokens);
  }
}

void Tokenizer::add_word(const Character* begin, const Character* end,
                         std::vector<Token>& tokens) const {
  const std::size_t first = tokens.size();
  const std::size_t source = begin->source;
  if (end - begin <= info_.max_input_chars_per_word) {
    std::string piece;
    while (begin != end) {
      // The longest piece in the vocabulary that the rest begins with.
      const Character* piece_end = end;
      std::optional<std::int64_t> id;
      for (; piece_end != begin; --piece_end) {
        piece = tokens.size() > first ? info_.continuing_subword_prefix : "";
        for (const Character* c = begin; c != piece_end; ++c) append_utf8(c->code_point, piece);
        id = find(piece);
        if (id) break;
      }
      if (!id) break;
      tokens.push_back({*id, begin->source});
      begin = piece_end;
    }
    if (begin == end) return;
  }
  tokens.resize(first);
  tokens.push_back({unknown_, source});
}

bool Tokenizer::is_full(const std::vector<Token>& tokens) const {
  return tokens.size() > static_cast<std::size_t>(token_length_);
}

std::optional<std::int64_t> Tokenizer::find(std::string_view piece) const {
  const auto found = pieces_.find(piece);
  return found == pieces_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace ldm_engine
