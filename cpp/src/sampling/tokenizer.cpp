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
constexpr std::size_t kMaxWordCharacters = 100;  // longer words are unknown, as in BERT
constexpr char kContinued[] = "##";

std::string_view without_trailing_space(std::string_view line) {
  const std::vector<Character> characters = decode_utf8_leniently(line);
  std::size_t end = line.size();
  for (auto at = characters.rbegin(); at != characters.rend(); ++at) {
    if (!is_white_space(at->code_point)) break;
    end = at->source;
  }
  return line.substr(0, end);
}

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& vocabulary, int token_length, bool lowercase,
                     int vocab_size)
    : token_length_(token_length), lowercase_(lowercase) {
  read(vocabulary);
  std::vector<std::string> missing;
  for (const auto& [name, id] : {std::pair{"[CLS]", &cls_}, std::pair{"[SEP]", &sep_},
                                 std::pair{"[PAD]", &pad_}, std::pair{"[UNK]", &unknown_}}) {
    const std::optional<std::int64_t> found = find(name);
    if (!found) missing.emplace_back(name);
    *id = found.value_or(0);
  }
  if (!missing.empty()) {
    throw BundleError(vocabulary.string() + " lacks the special tokens " + joined(missing) + "." +
                      kRemedy);
  }
  for (const char* name : {"[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"}) {
    if (find(name)) specials_.emplace_back(name);
  }
  std::int64_t largest = 0;
  for (const auto& [piece, id] : pieces_) largest = std::max(largest, id);
  if (largest >= vocab_size) {
    throw BundleError(vocabulary.string() + " gives ids up to " + std::to_string(largest) +
                      ", the text encoder embeds " + std::to_string(vocab_size) + "." + kRemedy);
  }
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

std::optional<std::string> Tokenizer::encode(std::string_view text, std::int64_t* input_ids) const {
  std::vector<Token> tokens = {{cls_, 0}};
  std::vector<Character> plain;
  const std::vector<Character> characters = decode_utf8_leniently(text);
  // Special tokens are found in the text as it was given, before it is normalized.
  for (std::size_t i = 0; i < characters.size() && !is_full(tokens);) {
    const std::string_view rest = text.substr(characters[i].source);
    const auto special =
        std::find_if(specials_.begin(), specials_.end(),
                     [&](std::string_view name) { return rest.substr(0, name.size()) == name; });
    if (special == specials_.end()) {
      plain.push_back(characters[i++]);
      continue;
    }
    add_plain(plain, tokens);
    plain.clear();
    tokens.push_back({*find(*special), characters[i].source});
    i += special->size();  // its characters are ASCII
  }
  add_plain(plain, tokens);
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

void Tokenizer::add_plain(const std::vector<Character>& text, std::vector<Token>& tokens) const {
  const std::vector<Character> normalized = normalize_text(text, lowercase_);
  const Character* const end = normalized.data() + normalized.size();
  for (const Character* at = normalized.data(); at != end && !is_full(tokens);) {
    const Character* word = at++;
    if (word->code_point == U' ') continue;
    if (!is_punctuation(word->code_point)) {
      at = std::find_if(at, end, [](const Character& c) {
        return c.code_point == U' ' || is_punctuation(c.code_point);
      });
    }
    add_word(word, at, tokens);
  }
}

void Tokenizer::add_word(const Character* begin, const Character* end,
                         std::vector<Token>& tokens) const {
  const std::size_t first = tokens.size();
  const std::size_t source = begin->source;
  if (end - begin <= static_cast<std::ptrdiff_t>(kMaxWordCharacters)) {
    std::string piece;
    while (begin != end) {
      // The longest piece in the vocabulary that the rest begins with.
      const Character* piece_end = end;
      std::optional<std::int64_t> id;
      for (; piece_end != begin; --piece_end) {
        piece = tokens.size() > first ? kContinued : "";
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
