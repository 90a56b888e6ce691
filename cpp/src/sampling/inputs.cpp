// Pictures to start from: checked, and what of them stays, as latents and as pixels.
#include "sampling/inputs.hpp"

#include <algorithm>

#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"
#include "machine/sha256.hpp"
#include "sampling/solvers.hpp"

namespace ldm_engine {
namespace {

constexpr int kWhiteFrom = 128;  // of 255; what is as light as that is painted anew
constexpr double kStrength = 0.8, kStrengthWithMask = 1.0;

std::string picture_size(const Image& picture) {
  return std::to_string(picture.width) + "x" + std::to_string(picture.height);
}

/// 255 where a mask is white, 0 elsewhere; grey as Pillow makes it of RGB.
std::vector<std::uint8_t> white_of(const Image& mask) {
  std::vector<std::uint8_t> white(mask.rgb.size() / 3);
  for (std::size_t i = 0; i < white.size(); ++i) {
    const std::uint8_t* rgb = &mask.rgb[3 * i];
    const int grey = (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16;
    white[i] = grey < kWhiteFrom ? 0 : 255;
  }
  return white;
}

std::string sha256_of_pixels(const std::string& shape, const std::vector<std::uint8_t>& pixels) {
  Sha256 hash;
  hash.update(shape.data(), shape.size());
  hash.update(pixels.data(), pixels.size());
  return hash.hex();
}

void check_pictures(const char* name, const std::vector<Image>& pictures, std::size_t count) {
  if (pictures.size() > 1 && pictures.size() != count) {
    throw InvalidArgumentError(std::string("`") + name + "` lists " +
                               std::to_string(pictures.size()) + " pictures for " +
                               std::to_string(count) +
                               " images; give one an image, or one for all.");
  }
  for (const Image& picture : pictures) {
    const bool has_sizes = picture.width > 0 && picture.height > 0;
    if (has_sizes && picture.rgb.size() == static_cast<std::size_t>(picture.width) *
                                               static_cast<std::size_t>(picture.height) * 3) {
      continue;
    }
    throw ShapeError(std::string("`") + name + "` has a picture of " + picture_size(picture) +
                     " pixels and " + std::to_string(picture.rgb.size()) +
                     " bytes; three bytes a pixel are accepted.");
  }
}

int nearest_side(int side, int multiple) {
  const int rounded = std::max((side + multiple / 2) / multiple, 1) * multiple;
  return std::min(rounded, kMaxSize / multiple * multiple);
}

/// Pictures are of one size, which is that of the images.
void settle_size(Request& request, const ModelInfo& model) {
  const Image& first = request.image.front();
  const auto multiple = static_cast<int>(model.pixel_multiple());
  for (const Image& picture : request.image) {
    const bool is_accepted = picture.width % multiple == 0 && picture.height % multiple == 0 &&
                             std::max(picture.width, picture.height) <= kMaxSize;
    const int height = request.height.value_or(first.height);
    const int width = request.width.value_or(first.width);
    if (is_accepted && picture.height == height && picture.width == width) continue;
    const Image wanted = {is_accepted ? width : nearest_side(picture.width, multiple),
                          is_accepted ? height : nearest_side(picture.height, multiple),
                          {},
                          {}};
    throw ShapeError("`image` has " + picture_size(picture) + " pixels (width x height), and " +
                     (is_accepted ? "those of the size to render are accepted"
                                  : "sides that are multiples of " + std::to_string(multiple) +
                                        " up to " + std::to_string(kMaxSize) + " are accepted") +
                     ". Crop and resize it before, to " + picture_size(wanted) +
                     " for example; Python does so by itself.");
  }
  request.height = first.height;
  request.width = first.width;
}

void check_masks(const Request& request) {
  for (std::size_t i = 0; i < request.mask_image.size(); ++i) {
    const Image& mask = request.mask_image[i];
    const Image& picture = request.image.front();  // they are all of its size
    if (mask.width != picture.width || mask.height != picture.height) {
      throw ShapeError("The mask has " + picture_size(mask) + " pixels and `image` " +
                       picture_size(picture) + "; a mask of the same size is accepted.");
    }
    const std::vector<std::uint8_t> white = white_of(mask);
    if (std::all_of(white.begin(), white.end(), [](int value) { return value == 0; })) {
      throw InvalidArgumentError(
          "`mask` has nothing white, so nothing would be painted. Make white what is to be painted "
          "anew, and black what stays.");
    }
  }
}

void settle_noted(const char* name, std::string& noted, const std::vector<std::string>& found) {
  for (const std::string& hash : found) {
    if (noted.empty() || noted == hash) continue;
    throw InvalidArgumentError(std::string("`") + name + "` is " + noted +
                               ", and what is given has " + hash +
                               ": the pixels would differ. Give the file that the picture was made "
                               "from.");
  }
  if (found.empty() && !noted.empty()) {
    throw InvalidArgumentError(std::string("`") + name + "` is " + noted +
                               ", and none is given: the pixels would differ. Give the file that "
                               "the picture was made from.");
  }
  noted = found.size() == 1 ? found.front() : "";  // of several, none stands for all
}

template <typename Hash>
std::vector<std::string> hashes(const std::vector<Image>& pictures, const Hash& hash) {
  std::vector<std::string> found;
  for (const Image& picture : pictures) found.push_back(hash(picture));
  return found;
}

}  // namespace

void Input::paste(float* pixels) const {
  if (keep.empty()) return;
  const auto width = static_cast<std::size_t>(picture->width);
  const auto height = static_cast<std::size_t>(picture->height);
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      if (!keep[y / cell * (width / cell) + x / cell]) continue;
      const std::size_t at = (y * width + x) * 3;
      for (std::size_t c = at; c < at + 3; ++c) {
        pixels[c] = static_cast<float>(picture->rgb[c]) / 255.0F;
      }
    }
  }
}

std::string picture_sha256(const Image& picture) {
  return picture.sha256.empty() ? pixels_sha256(picture) : picture.sha256;
}

std::string pixels_sha256(const Image& picture) {
  return sha256_of_pixels(
      std::to_string(picture.height) + "x" + std::to_string(picture.width) + "x3\n", picture.rgb);
}

std::string mask_sha256(const Image& mask) {
  if (!mask.sha256.empty()) return mask.sha256;
  return sha256_of_pixels(std::to_string(mask.height) + "x" + std::to_string(mask.width) + "\n",
                          white_of(mask));
}

void settle_pictures(Request& request, std::size_t count, const ModelInfo& model,
                     const std::string& no_pictures) {
  check_pictures("image", request.image, count);
  check_pictures("mask", request.mask_image, count);
  settle_noted("image_sha256", request.image_sha256, hashes(request.image, picture_sha256));
  settle_noted("mask_sha256", request.mask_sha256, hashes(request.mask_image, mask_sha256));
  if (request.image.empty()) {
    const char* given = !request.mask_image.empty() ? "mask" : request.strength ? "strength" : "";
    if (!*given) return;
    throw InvalidArgumentError(std::string("`") + given +
                               "` is given without an `image`. Give the picture that it is about.");
  }
  if (!no_pictures.empty()) {
    throw InvalidArgumentError("`image` is given, and cannot be encoded. " + no_pictures);
  }
  if (!request.latents.empty()) {
    throw InvalidArgumentError(
        "`latents` is given beside `image`, whose own latents the steps begin with; one of them is "
        "accepted.");
  }
  settle_size(request, model);
  check_masks(request);
  if (!request.strength) {
    request.strength = request.mask_image.empty() ? kStrength : kStrengthWithMask;
  }
}

int steps_to_run(const Request& request) {
  const int steps = request.num_inference_steps;
  if (request.image.empty()) return steps;
  const double strength = *request.strength;
  if (request.solver == kFitted && strength < 1) {
    throw InvalidArgumentError("`strength` is " + number_text(strength) +
                               " with the solver fitted, whose steps belong together; 1 is "
                               "accepted, or the solver dpmsolver++ or ddim with a number of "
                               "steps.");
  }
  const int last = static_cast<int>(steps * strength);
  if (last < 1) {
    throw InvalidArgumentError("`strength` is " + number_text(strength) + " of " +
                               std::to_string(steps) +
                               " steps, which is less than one. Give a strength of " +
                               number_text((1000 + steps - 1) / steps / 1000.0) +
                               " or more, or more steps.");
  }
  return last;
}

std::vector<Input> make_inputs(const Request& request, std::size_t count, const ModelInfo& model) {
  std::vector<Input> inputs;
  const auto cell = static_cast<std::size_t>(model.scale_factor);
  for (std::size_t i = 0; i < count && !request.image.empty(); ++i) {
    const Image& picture = request.image[request.image.size() == 1 ? 0 : i];
    Input input = {&picture, {}, cell};
    if (!request.mask_image.empty()) {
      const Image& mask = request.mask_image[request.mask_image.size() == 1 ? 0 : i];
      const auto width = static_cast<std::size_t>(mask.width);
      const auto height = static_cast<std::size_t>(mask.height);
      input.keep.assign((height / cell) * (width / cell), 1);
      const std::vector<std::uint8_t> white = white_of(mask);
      for (std::size_t y = 0; y < height; ++y) {
        for (std::size_t x = 0; x < width; ++x) {
          if (white[y * width + x]) input.keep[y / cell * (width / cell) + x / cell] = 0;
        }
      }
    }
    inputs.push_back(std::move(input));
  }
  return inputs;
}

}  // namespace ldm_engine
