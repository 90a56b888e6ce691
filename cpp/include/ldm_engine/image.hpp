// One picture in memory, and PNG files: those it becomes, and those it comes from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ldm_engine/visibility.h"

namespace ldm_engine {

/// A text that a PNG file carries under a keyword, as UTF-8.
struct ImageText {
  std::string keyword;
  std::string text;
};

/// An 8-bit RGB image.
struct LDM_ENGINE_API Image {
  int width = 0;                  ///< pixels
  int height = 0;                 ///< pixels
  std::vector<std::uint8_t> rgb;  ///< [height, width, 3], rows from the top
  std::string sha256{};  ///< of the file that it was read from, until `rgb` is changed; else empty

  /// Read a PNG file: of 8 bits or less, opaque, upright, and in sRGB as far as it says.
  /// Throws InvalidArgumentError for any other, and Error if it cannot be read.
  static Image load_png(const std::filesystem::path& path);

  /// The picture that the bytes of a PNG file hold, which errors call `name`. Throws likewise.
  static Image decode_png(const std::string& content, const std::string& name = "the PNG file");

  /// The bytes of a PNG file.
  std::string encode_png(const std::vector<ImageText>& texts = {}) const;

  /// Write a PNG file, replacing what has that name: whole or not at all.
  /// Throws OutputError if it cannot be written.
  void save_png(const std::filesystem::path& path, const std::vector<ImageText>& texts = {}) const;
};

}  // namespace ldm_engine
