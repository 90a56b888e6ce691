// One call of an encoder, and the UNet's shapes: how programs are fed before the loop begins.
#include "sampling/encoding.hpp"

#include <algorithm>

#include "machine/messages.hpp"

namespace ldm_engine {
namespace {

std::string truncation_warning(const std::string& text, const std::string& cut, int token_length) {
  constexpr std::size_t kStart = 40, kCut = 200;  // characters
  return "The prompt " + in_quotes(text, kStart) + " is longer than " +
         std::to_string(token_length) +
         " tokens. This end of it was cut off and has no effect: " + in_quotes(cut, kCut);
}

std::vector<float> values(const Tensor& tensor) {
  return {tensor.floats(), tensor.floats() + tensor.count()};
}

}  // namespace

std::vector<std::int64_t> ids_of(const Tokenizer& tokenizer, const ModelInfo& model,
                                 const std::string& text, std::vector<std::string>& warnings) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(model.token_length));
  const auto cut = tokenizer.encode(text, ids.data());
  if (cut) warnings.push_back(truncation_warning(text, *cut, model.token_length));
  return ids;
}

std::vector<float> encode_text(Program& program, const ModelInfo& model,
                               const std::vector<std::int64_t>& ids) {
  const std::int64_t tokens = model.token_length;
  program.allocate({{"input_ids", {1, tokens}}, {"text_kv", {1, tokens, model.text_kv_width}}});
  std::copy(ids.begin(), ids.end(), program.input("input_ids").integers());
  program.run();
  return values(program.output("text_kv"));
}

std::vector<float> encode_time(Program& program, const ModelInfo& model,
                               const std::vector<int>& timesteps) {
  const auto count = static_cast<std::int64_t>(timesteps.size());
  program.allocate({{"timesteps", {count}}, {"time_shift", {count, model.time_shift_width}}});
  std::transform(timesteps.begin(), timesteps.end(), program.input("timesteps").floats(),
                 [](int timestep) { return static_cast<float>(timestep); });
  program.run();
  return values(program.output("time_shift"));
}

std::vector<float> encode_picture(Program& program, const ModelInfo& model, const Image& picture) {
  const int factor = model.scale_factor;
  program.allocate(
      {{"image", {1, picture.height, picture.width, 3}},
       {"latents", {1, model.latent_channels, picture.height / factor, picture.width / factor}}});
  std::transform(picture.rgb.begin(), picture.rgb.end(), program.input("image").floats(),
                 [](std::uint8_t byte) { return static_cast<float>(byte) / 255.0F; });
  program.run();
  return values(program.output("latents"));
}

Shapes unet_shapes(const ModelInfo& model, const Shape& latents, std::size_t rows) {
  Shape noise_pred = latents;
  noise_pred[0] = static_cast<std::int64_t>(rows);
  return {{"latents", latents},
          {"time_shift", {1, model.time_shift_width}},
          {"text_kv", {noise_pred[0], model.token_length, model.text_kv_width}},
          {"noise_pred", noise_pred}};
}

}  // namespace ldm_engine
