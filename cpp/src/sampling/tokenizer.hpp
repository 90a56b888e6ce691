// Text to input_ids: BERT WordPiece, padded to the model's token length, without any mask.
// Its twin is engine/ldm_engine/sampling/tokenizer.py; tests/data/tokenizer.json holds both to the
// same ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bundle/model.hpp"
#include "machine/utf8.hpp"

namespace ldm_engine {

/// WordPiece as in BERT, with the vocabulary and the options of a bundle.
class Tokenizer {
 public:
  /// Throws BundleError if the vocabulary cannot be read, lacks a special token, or has ids that
  /// the text encoder does not embed, or if an added token cannot be found in texts
  /// or has another id than the bundle says.
  Tokenizer(const std::filesystem::path& vocabulary, int token_length, TokenizerInfo info,
            int vocab_size);
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Write [CLS] text [SEP] and padding to `input_ids` [token_length]. Returns the end of the
  /// text that was cut off because there are more tokens than the model takes, or none.
  std::optional<std::string> encode(std::string_view text, std::int64_t* input_ids) const;

  int token_length() const { return token_length_; }

 private:
  struct Token {
    std::int64_t id;
    std::size_t source;  // the byte of the text at which it begins
  };
  /// An added token by the characters that it is found by.
  struct Pattern {
    std::u32string characters;
    AddedToken token;
  };
  using Text = std::vector<Character>;

  void read(const std::filesystem::path& vocabulary);
  void find_special_ids(const std::filesystem::path& vocabulary);
  void make_patterns(const std::filesystem::path& vocabulary);
  void check_ids(const std::filesystem::path& vocabulary, int vocab_size) const;
  const Pattern* longest_at(const std::vector<Pattern>& patterns, const Text& text,
                            std::size_t at) const;
  template <typename AddPlain>
  void add_around_patterns(const std::vector<Pattern>& patterns, const Text& text,
                           std::vector<Token>& tokens, const AddPlain& add_plain) const;
  void add_words(const Text& text, std::vector<Token>& tokens) const;
  void add_word(const Character* begin, const Character* end, std::vector<Token>& tokens) const;
  bool is_full(const std::vector<Token>& tokens) const;
  std::optional<std::int64_t> find(std::string_view piece) const;

  int token_length_;
  TokenizerInfo info_;
  std::string content_;                                        // of the vocabulary file
  std::unordered_map<std::string_view, std::int64_t> pieces_;  // views of content_
  std::vector<Pattern> given_patterns_;       // found in the text as it was given
  std::vector<Pattern> normalized_patterns_;  // found in what is left of it, normalized
  std::int64_t cls_ = 0, sep_ = 0, pad_ = 0, unknown_ = 0;
};

}  // namespace ldm_engine
