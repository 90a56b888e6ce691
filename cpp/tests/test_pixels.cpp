#include <doctest/doctest.h>

#include <limits>

#include "bundle/json.hpp"
#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "sampling/pixels.hpp"

using namespace ldm_engine;

TEST_CASE("halves are rounded to even, as NumPy does") {
  const float pixels[] = {0.0F, 0.5F / 255, 1.5F / 255, 1.0F, 2.0F, -1.0F};
  const Image image = to_image(pixels, 1, 2);
  CHECK(image.rgb == std::vector<std::uint8_t>{0, 0, 2, 255, 255, 0});
}

TEST_CASE("NaN and infinity are reported with their seeds") {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {0, 1, infinity, 0};
  CHECK_NOTHROW(check_finite(values.data(), 2, {7}, "the UNet"));
  try {
    check_finite(values.data(), 2, {7, 8}, "the UNet");
    FAIL("accepted");
  } catch (const NonFiniteError& error) {
    CHECK(std::string(error.what()).find("(seeds 8)") != std::string::npos);
  }
}

TEST_CASE("an image of one colour is flat") {
  const std::vector<float> flat = {0.1F, 0.2F, 0.3F, 0.1F, 0.2F, 0.301F};
  const std::vector<float> other = {0.1F, 0.2F, 0.3F, 0.1F, 0.2F, 0.35F};
  CHECK(is_flat(flat.data(), flat.size()));
  CHECK_FALSE(is_flat(other.data(), other.size()));
}

TEST_CASE("an image becomes a PNG file, which replaces another") {
  const TemporaryFolder folder;
  const Image image{2, 1, {255, 0, 0, 0, 0, 255}};
  const auto path = folder.path() / "picture.png";
  image.save_png(path, {{"Description", "caf\xc3\xa9"}});
  image.save_png(path);
  CHECK(read_file(path).substr(1, 3) == "PNG");
  CHECK_THROWS_AS(image.save_png(folder.path() / "none" / "picture.png"), OutputError);
  CHECK_THROWS_AS((Image{2, 2, {0, 0, 0}}.encode_png()), InvalidArgumentError);
  CHECK_THROWS_AS(Image{}.encode_png(), InvalidArgumentError);
  CHECK_THROWS_AS((Image{-1, -1, {0, 0, 0}}.encode_png()), InvalidArgumentError);
}

TEST_CASE("a PNG file becomes the picture that it was made of") {
  const TemporaryFolder folder;
  Image image{8, 9, {}};
  for (int i = 0; i < 8 * 9 * 3; ++i) image.rgb.push_back(static_cast<std::uint8_t>(i));
  const auto path = folder.path() / "picture.png";
  image.save_png(path);
  const Image read = Image::load_png(path);
  CHECK(read.width == 8);
  CHECK(read.height == 9);
  CHECK(read.rgb == image.rgb);
  CHECK(read.sha256.size() == 64);
  const std::string content = image.encode_png();
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{40}, content.size() / 2}) {
    CHECK_THROWS_AS(Image::decode_png(content.substr(0, size)), InvalidArgumentError);
  }
  CHECK_THROWS_AS(Image::decode_png(std::string(5000, 'x')), InvalidArgumentError);
  CHECK_THROWS_AS(Image::decode_png(Image{2, 2, std::vector<std::uint8_t>(12)}.encode_png()),
                  InvalidArgumentError);
  CHECK_THROWS_AS(Image::load_png(folder.path() / "none.png"), Error);
  CHECK_THROWS_AS(Image::load_png(folder.path()), Error);
}
