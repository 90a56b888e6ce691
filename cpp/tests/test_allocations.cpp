// One step allocates nothing on the heap in our code.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "counting.hpp"
#include "folders.hpp"
#include "loop.hpp"
#include "manifest.hpp"
#include "runtime.hpp"

using namespace ldm_engine;

namespace {

/// A real program; while its library computes, nothing is counted.
class UncountedProgram : public Program {
 public:
  UncountedProgram(const Bundle& bundle, std::unique_ptr<Program> inner)
      : Program("unet", bundle), inner_(std::move(inner)) {}

  void run() override {
    count_allocations(false);
    for (const Tensor& tensor : inputs()) copy(tensor, inner_->input(tensor.name()));
    inner_->run();
    for (const Tensor& tensor : outputs()) copy(inner_->output(tensor.name()), tensor);
    count_allocations(true);
  }
  std::unique_ptr<Program> clone() const override { return nullptr; }

 protected:
  void bind() override {
    Shapes shapes = input_shapes();
    for (const Tensor& tensor : outputs()) shapes[tensor.name()] = tensor.shape();
    inner_->allocate(shapes);
  }

 private:
  static void copy(const Tensor& from, const Tensor& to) {
    std::copy_n(from.floats(), from.count(), to.floats());
  }
  std::unique_ptr<Program> inner_;
};

}  // namespace

TEST_CASE("the counter counts") {
  if (!can_count_allocations()) return;
  const std::size_t before = allocations_counted();
  count_allocations(true);
  // Called as functions, so that no compiler may leave them out.
  ::operator delete(::operator new(100));
  void* const volatile memory = std::malloc(100);
  std::free(memory);
  count_allocations(false);
  CHECK(allocations_counted() - before == 2);
}

TEST_CASE("a step allocates nothing") {
  REQUIRE_BUNDLE(folder);
  if (!can_count_allocations()) return;
  const Bundle bundle = open_bundle(folder);
  const Runtime& runtime = choose_runtime(bundle, "auto", "fp32");
  UncountedProgram unet(bundle, runtime.open(bundle, "unet", resolve_options({})));
  const ModelInfo& model = bundle.model;
  const Shape latents = {2, model.latent_channels, model.sample_size, model.sample_size};
  Shape noise_pred = latents;
  noise_pred[0] = 4;
  unet.allocate({{"latents", latents},
                 {"time_shift", {1, model.time_shift_width}},
                 {"text_kv", {4, model.token_length, model.text_kv_width}},
                 {"noise_pred", noise_pred}});
  const DDIMScheduler scheduler(read_vectors("scheduler_configs.json").at("config"));
  const std::vector<BatchStep> steps = scheduler.batch_steps(8, {0.3, 1.0});
  const std::vector<float> time_shift(8 * static_cast<std::size_t>(model.time_shift_width));
  const std::vector<float> guidance = {2.0F, 6.0F};
  std::vector<NoiseStream> noise = {NoiseStream(0), NoiseStream(1)};
  std::vector<float> fresh_noise(count_values(latents) / 2);
  std::vector<double> steps_ms;
  steps_ms.reserve(steps.size());
  int called = 0;
  const StepCallback on_step_end = [&](const StepInfo&) { return ++called < 0; };
  const LoopInputs inputs = {steps,       time_shift.data(), guidance, noise,
                             fresh_noise, on_step_end,       steps_ms};
  const std::size_t before = allocations_counted();
  count_allocations(true);
  const int done = run_loop(unet, inputs);
  count_allocations(false);
  CHECK(done == 8);
  CHECK(called == 8);
  CHECK(allocations_counted() == before);
}
