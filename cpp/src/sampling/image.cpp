// One picture as a PNG file, written and read by libpng.
#include "ldm_engine/image.hpp"

#include <png.h>

#include <csetjmp>
#include <cstring>
#include <memory>
#include <optional>

#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace {

constexpr png_uint_32 kMinSide = 8;          // pixels of a picture that is given
constexpr png_uint_32 kMaxPixels = 1U << 26;  // of one; of a file that says more nothing is read
constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{256} << 20;
constexpr char kWrongSize[] = "";

/// Kinds of chunks that make of the pixels another picture.
constexpr std::pair<const char*, const char*> kUnsupported[] = {
    {"acTL", "holds several pictures"},
    {"iCCP", "has a colour profile"},
    {"eXIf", "has Exif data, which may turn it"},
    {"tRNS", "has a transparent colour"},
};
constexpr std::size_t kSignature = 8, kChunkHead = 8, kChunkEnd = 4;  // bytes

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

/// Likewise of a file that is read.
struct Reader {
  Reader() {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, Writer::jump,
                                 Writer::ignore_warning);
    if (png) info = png_create_info_struct(png);
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  png_structp png = nullptr;
  png_infop info = nullptr;
};

/// What is left to read of a file.
struct Rest {
  const char* data;
  std::size_t size;
};

void take(png_structp png, png_bytep data, png_size_t size) {
  auto& rest = *static_cast<Rest*>(png_get_io_ptr(png));
  if (size > rest.size) png_error(png, "cut off");
  std::memcpy(data, rest.data, size);
  rest.data += size;
  rest.size -= size;
}

/// Why the picture would not be what its pixels are, or nothing. No destructors, as in write().
const char* unsupported(const Reader& reader) {
  png_structp png = reader.png;
  png_infop info = reader.info;
  const png_uint_32 width = png_get_image_width(png, info);
  const png_uint_32 height = png_get_image_height(png, info);
  if (width < kMinSide || height < kMinSide || width > kMaxPixels / height) {
    return kWrongSize;
  }
  if (png_get_bit_depth(png, info) > 8) return "has 16 bits a channel";
  if (png_get_color_type(png, info) & PNG_COLOR_MASK_ALPHA) return "has an alpha channel";
  return nullptr;
}

/// Likewise by the chunks of a file, of which libpng passes some over; nothing of one that is no
/// PNG file.
const char* unsupported_chunk(const std::string& content) {
  for (std::size_t at = kSignature; at + kChunkHead <= content.size();) {
    const std::string kind = content.substr(at + kChunkHead - 4, 4);
    for (const auto& [name, fault] : kUnsupported) {
      if (kind == name) return fault;
    }
    std::size_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      length = length << 8 | static_cast<unsigned char>(content[at + i]);
    }
    at += kChunkHead + length + kChunkEnd;
  }
  return nullptr;
}

/// Nothing with a destructor may live here: an error jumps out of it.
bool read(const Reader& reader, Rest& rest, Image& image, const char*& fault) {
  if (!reader.png || !reader.info || setjmp(png_jmpbuf(reader.png))) return false;
  png_set_read_fn(reader.png, &rest, take);
  png_read_info(reader.png, reader.info);
  fault = unsupported(reader);
  if (fault) return true;
  png_set_expand(reader.png);
  png_set_gray_to_rgb(reader.png);
  const int passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  image.width = static_cast<int>(png_get_image_width(reader.png, reader.info));
  image.height = static_cast<int>(png_get_image_height(reader.png, reader.info));
  const std::size_t row_bytes = static_cast<std::size_t>(image.width) * 3;
  if (png_get_rowbytes(reader.png, reader.info) != row_bytes) return false;
  image.rgb.resize(row_bytes * static_cast<std::size_t>(image.height));
  for (int pass = 0; pass < passes; ++pass) {
    for (int row = 0; row < image.height; ++row) {
      png_read_row(reader.png, image.rgb.data() + static_cast<std::size_t>(row) * row_bytes,
                   nullptr);
    }
  }
  png_read_end(reader.png, nullptr);
  return true;
}

}  // namespace

Image Image::load_png(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::file_size(path, error) > kMaxFileBytes && !error) {
    throw InvalidArgumentError("The picture " + path.string() + " has more than " +
                               std::to_string(kMaxFileBytes >> 20) +
                               " MiB; PNG files of less are accepted.");
  }
  const std::optional<std::string> content = read_whole(path);
  if (!content) {
    throw Error("The picture " + path.string() + " cannot be read. Give the path of a PNG file.");
  }
  return decode_png(*content, path.string());
}

Image Image::decode_png(const std::string& content, const std::string& name) {
  const Reader reader;
  Rest rest = {content.data(), content.size()};
  Image image;
  const char* fault = unsupported_chunk(content);
  if (!fault && !read(reader, rest, image, fault)) {
    throw InvalidArgumentError(name + " is no PNG file that can be read, or it is cut off or "
                                      "damaged. Give a PNG file of 8 bits.");
  }
  if (fault == kWrongSize) {
    throw ShapeError(name + " has a size that is not accepted: from 8 pixels a side to 64 million "
                            "in all are.");
  }
  if (fault) {
    throw InvalidArgumentError(name + " " + fault +
                               "; an opaque PNG file of 8 bits without such is accepted here. Save "
                               "it so, or give it to ldm-engine in Python, which reads all kinds.");
  }
  image.sha256 = sha256_of_text(content);
  return image;
}

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
