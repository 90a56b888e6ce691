// What an engine must know of a model and its tokenizer, whatever the weights.
// Its twin is engine/ldm_engine/bundle/model.py.
#pragma once

#include <cstdint>
#include <string>

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

/// How texts become ids, apart from the vocabulary.
struct TokenizerInfo {
  std::string kind;        ///< "wordpiece", the only one so far
  bool lowercase = false;  ///< lower-case letters, and strip their accents
};

}  // namespace ldm_engine
