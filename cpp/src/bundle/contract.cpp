// The table of programs: their tensors as functions of the model's facts.
#include "bundle/contract.hpp"

#include <sstream>

namespace ldm_engine {
namespace {

constexpr char kFloat[] = "float32";
constexpr char kWhole[] = "int64";

/// The size that a letter or a number of the table stands for, -1 for any.
std::int64_t size_of(const std::string& symbol, const ModelInfo& model) {
  if (symbol == "T") return model.token_length;
  if (symbol == "K") return model.text_kv_width;
  if (symbol == "R") return model.time_shift_width;
  if (symbol == "C") return model.latent_channels;
  const bool is_number = symbol.find_first_not_of("0123456789") == std::string::npos;
  return is_number ? std::stoll(symbol) : -1;
}

std::vector<TensorSpec> sized(const std::vector<SymbolicTensor>& tensors, const ModelInfo& model) {
  std::vector<TensorSpec> specs;
  for (const SymbolicTensor& tensor : tensors) {
    TensorSpec spec{tensor.name, tensor.dtype, {}};
    std::istringstream symbols(tensor.sizes);
    for (std::string symbol; symbols >> symbol;) spec.shape.push_back(size_of(symbol, model));
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace

const std::vector<ProgramContract>& program_contracts() {
  constexpr bool kRequired = false, kOptional = true;
  static const std::vector<ProgramContract> table = {
      {"text_encoder", kRequired, {{"input_ids", kWhole, "N T"}}, {{"text_kv", kFloat, "N T K"}}},
      {"time_encoder", kRequired, {{"timesteps", kFloat, "S"}}, {{"time_shift", kFloat, "S R"}}},
      {"unet",
       kRequired,
       {{"latents", kFloat, "B C h w"},
        {"time_shift", kFloat, "1 R"},
        {"text_kv", kFloat, "rows T K"}},
       {{"noise_pred", kFloat, "rows C h w"}}},
      {"vae_decoder", kRequired, {{"latents", kFloat, "B C h w"}}, {{"image", kFloat, "B H W 3"}}},
      {"vae_encoder", kOptional, {{"image", kFloat, "B H W 3"}}, {{"latents", kFloat, "B C h w"}}},
  };
  return table;
}

const std::vector<std::string>& required_programs() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> required;
    for (const ProgramContract& program : program_contracts()) {
      if (!program.is_optional) required.emplace_back(program.name);
    }
    return required;
  }();
  return names;
}

Tensors ProgramContract::tensors(const ModelInfo& model) const {
  return {sized(inputs, model), sized(outputs, model)};
}

}  // namespace ldm_engine
