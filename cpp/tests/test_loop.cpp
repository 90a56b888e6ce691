#include <doctest/doctest.h>

#include <algorithm>
#include <optional>

#include "folders.hpp"
#include "sampling/loop.hpp"

using namespace ldm_engine;

namespace {

/// A UNet whose predictions were recorded.
class RecordedUNet : public Program {
 public:
  RecordedUNet(const Bundle& bundle, std::vector<std::vector<float>> predictions)
      : Program("unet", bundle), predictions_(std::move(predictions)) {}

  void compute() override {
    const std::vector<float>& prediction = predictions_.at(steps_++);
    std::copy(prediction.begin(), prediction.end(), output("noise_pred").floats());
  }
  std::unique_ptr<Program> clone() const override { return nullptr; }

 protected:
  void bind() override {}

 private:
  std::vector<std::vector<float>> predictions_;
  std::size_t steps_ = 0;
};

std::vector<Row> rows_of(const Json& rows) {
  std::vector<Row> made;
  for (const Json& row : rows) {
    made.push_back({row.at("timestep").get<int>(), row.at("p").get<double>(),
                    row.at("q").get<double>(), row.at("a").get<double>(),
                    row.at("b").get<std::vector<double>>(), row.at("s").get<double>()});
  }
  return made;
}

/// A bundle in memory, of a model for which latents of this shape are made.
Bundle bundle_for(const Shape& latents) {
  Bundle bundle;
  bundle.model.latent_channels = static_cast<int>(latents[1]);
  bundle.model.token_length = bundle.model.text_kv_width = bundle.model.time_shift_width = 1;
  for (const ProgramContract& program : program_contracts()) {
    bundle.programs[program.name].tensors = program.tensors(bundle.model);
  }
  return bundle;
}

std::optional<Known> known_of(const Json& vector, const std::vector<float>& noise) {
  const Json& known = vector.at("known");
  if (known.is_null()) return std::nullopt;
  Known made = {known.at("keep").get<std::vector<std::uint8_t>>(),
                known.at("image").get<std::vector<float>>(), noise, {}};
  for (const Json& level : known.at("levels")) {
    made.levels.emplace_back(level[0].get<float>(), level[1].get<float>());
  }
  return made;
}

}  // namespace

TEST_CASE("latents are those of the shared vectors, to the last bit") {
  for (const Json& vector : read_vectors("loop.json")) {
    const auto shape = vector.at("shape").get<Shape>();
    const Bundle bundle = bundle_for(shape);
    const bool is_guided = !vector.at("guidance").is_null();
    CAPTURE(is_guided);
    RecordedUNet unet(bundle, vector.at("noise_pred").get<std::vector<std::vector<float>>>());
    Shape noise_pred = shape;
    noise_pred[0] *= is_guided ? 2 : 1;
    unet.allocate({{"latents", shape},
                   {"time_shift", {1, 1}},
                   {"text_kv", {noise_pred[0], 1, 1}},
                   {"noise_pred", noise_pred}});
    const auto first = vector.at("latents").get<std::vector<float>>();
    const Tensor& latents = unet.input("latents");
    std::copy(first.begin(), first.end(), latents.floats());
    std::vector<std::vector<Row>> solvers;
    for (const Json& image : vector.at("rows")) solvers.push_back(rows_of(image));
    const std::vector<BatchRow> rows = join_rows(solvers);
    const auto guidance =
        is_guided ? vector.at("guidance").get<std::vector<float>>() : std::vector<float>();
    std::vector<NoiseStream> noise;
    for (const Json& seed : vector.at("seeds")) noise.emplace_back(seed.get<std::uint32_t>());
    const std::vector<float> time_shift(rows.size());
    LoopBuffers buffers(rows, noise.size(), latents.count() / noise.size());
    CHECK(buffers.history.size() == 3);
    const std::optional<Known> known = known_of(vector, first);
    const LoopInputs inputs = {rows,  time_shift.data(), guidance,
                               noise, {},                known ? &*known : nullptr};
    CHECK(run_loop(unet, inputs, buffers) == 5);
    const std::vector<float> result(latents.floats(), latents.floats() + latents.count());
    CHECK(result == vector.at("expected").get<std::vector<float>>());
  }
}
