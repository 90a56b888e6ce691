// What an engine must know of a model and its tokenizer, whatever the weights.
// Its twin is engine/ldm_engine/bundle/model.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ldm_engine {

/// Largest image height and width, in pixels; attention over more would need terabytes.
inline constexpr int kMaxSize = 8192;

/// The model's sizes.
struct ModelInfo {
  std::string source;  ///< the checkpoint's id or folder name, for people
  int latent_channels = 0;
  int scale_factor = 0;   ///< pixels a latent cell spans in each direction
  int size_multiple = 0;  ///< latent height and width are multiples of this
  int sample_size = 0;    ///< default latent height and width
  int token_length = 0;
  int vocab_size = 0;
  int time_shift_width = 0;
  int text_kv_width = 0;

  /// Image height and width are multiples of this.
  std::int64_t pixel_multiple() const { return std::int64_t{size_multiple} * scale_factor; }
  /// Image height and width where the caller gives none, in pixels.
  std::int64_t default_size() const { return std::int64_t{sample_size} * scale_factor; }
};

/// A token that is found in a text as a whole, before the rest is divided into words.
struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool special = false;      ///< no part of the language, such as `[SEP]`; changes no id
  bool normalized = true;    ///< found in the normalized text, else in the text as it was given
  bool single_word = false;  ///< found only where no letter, digit or mark touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
};

/// Found in texts as they stand, where nothing else is said.
inline constexpr const char* kDefaultAddedTokens[] = {"[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"};

/// How texts become ids, apart from the vocabulary.
struct TokenizerInfo {
  std::string kind = "wordpiece";  ///< the only one so far
  bool lowercase = true;
  std::optional<bool> strip_accents;  ///< none: where it lower-cases
  bool handle_chinese_chars = true;   ///< each CJK ideograph is a word of its own
  bool clean_text = true;             ///< drop control characters, make all white space blanks
  int max_input_chars_per_word = 100;  ///< longer words are unknown
  std::string continuing_subword_prefix = "##";
  std::string unk_token = "[UNK]";
  std::string cls_token = "[CLS]";
  std::string sep_token = "[SEP]";
  std::string pad_token = "[PAD]";
  /// None: those of kDefaultAddedTokens that the vocabulary has.
  std::optional<std::vector<AddedToken>> added_tokens;
};

/// What the bundle's digest holds of its tokenizer: nothing where only `lowercase` is said.
std::string digest_line(const TokenizerInfo& info);

}  // namespace ldm_engine
