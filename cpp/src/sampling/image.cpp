// One picture as a PNG file, by libpng.
#include "ldm_engine/image.hpp"

#include <png.h>

#include <csetjmp>
#include <cstring>
#include <memory>

#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"

namespace ldm_engine {
namespace {

/// libpng's state of one file; its errors jump back into write().
struct Writer {
  Writer() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, jump, ignore_warning);
    if (png) info = png_create_info_struct(png);
  }
  ~Writer() { png_destroy_write_struct(&png, &info); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  /// libpng's own would print the message.
  [[noreturn]] static void jump(png_structp png, png_const_charp) { png_longjmp(png, 1); }
  static void ignore_warning(png_structp, png_const_charp) {}

  png_structp png = nullptr;
  png_infop info = nullptr;
};

void append(png_structp png, png_bytep data, png_size_t size) {
  bool is_full = false;
  try {
    static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<char*>(data), size);
  } catch (const std::exception&) {
    is_full = true;
  }
  if (is_full) png_error(png, "no memory");
}

void flush(png_structp) {}

/// libpng's own form of `texts`; it takes pointers that it does not write through.
std::vector<png_text> text_chunks(const std::vector<ImageText>& texts) {
  std::vector<png_text> chunks(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::memset(&chunks[i], 0, sizeof(png_text));
    chunks[i].compression = PNG_ITXT_COMPRESSION_NONE;
    chunks[i].key = const_cast<char*>(texts[i].keyword.c_str());
    chunks[i].text = const_cast<char*>(texts[i].text.c_str());
    chunks[i].itxt_length = texts[i].text.size();
  }
  return chunks;
}

/// Nothing with a destructor may live here: an error jumps out of it.
bool write(const Writer& writer, const Image& image, const std::vector<png_text>& texts,
           std::string& content) {
  if (!writer.png || !writer.info || setjmp(png_jmpbuf(writer.png))) return false;
  png_set_write_fn(writer.png, &content, append, flush);
  png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_set_text(writer.png, writer.info, texts.data(), static_cast<int>(texts.size()));
  png_write_info(writer.png, writer.info);
  for (int row = 0; row < image.height; ++row) {
    png_write_row(writer.png, image.rgb.data() + static_cast<std::size_t>(row) *
                                                     static_cast<std::size_t>(image.width) * 3);
  }
  png_write_end(writer.png, nullptr);
  return true;
}

}  // namespace

std::string Image::encode_png(const std::vector<ImageText>& texts) const {
  const bool has_sizes = width > 0 && height > 0;
  if (!has_sizes ||
      rgb.size() != static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3) {
    throw InvalidArgumentError("An image of " + std::to_string(width) + "x" +
                               std::to_string(height) + " has " + std::to_string(rgb.size()) +
                               " bytes; three a pixel are accepted.");
  }
  const Writer writer;
  std::string content;
  if (!write(writer, *this, text_chunks(texts), content)) {
    throw OutputError("libpng could not encode the image; its sizes or texts are too large.");
  }
  return content;
}

void Image::save_png(const std::filesystem::path& path, const std::vector<ImageText>& texts) const {
  write_atomically(path, encode_png(texts));
}

}  // namespace ldm_engine
