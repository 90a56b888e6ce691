#include <doctest/doctest.h>

#include "bundle/contract.hpp"

using namespace ldm_engine;

TEST_CASE("tensors are computed from the model's facts") {
  ModelInfo model;
  model.latent_channels = 4;
  model.token_length = 77;
  model.text_kv_width = 24'960;
  model.time_shift_width = 20'160;
  for (const ProgramContract& program : program_contracts()) {
    const Tensors tensors = program.tensors(model);
    CAPTURE(program.name);
    REQUIRE(tensors.inputs.size() == program.inputs.size());
    if (program.name == std::string("unet")) {
      CHECK(tensors.inputs[0] == TensorSpec{"latents", "float32", {-1, 4, -1, -1}});
      CHECK(tensors.inputs[1] == TensorSpec{"time_shift", "float32", {1, 20'160}});
      CHECK(tensors.inputs[2] == TensorSpec{"text_kv", "float32", {-1, 77, 24'960}});
    }
    if (program.name == std::string("vae_encoder")) {
      CHECK(program.is_optional);
      CHECK(tensors.inputs[0] == TensorSpec{"image", "float32", {-1, -1, -1, 3}});
      CHECK(tensors.outputs[0] == TensorSpec{"latents", "float32", {-1, 4, -1, -1}});
    }
  }
  CHECK(required_programs() ==
        std::vector<std::string>{"text_encoder", "time_encoder", "unet", "vae_decoder"});
}
