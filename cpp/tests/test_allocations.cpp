// One step allocates nothing on the heap in our code.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "bundle/manifest.hpp"
#include "counting.hpp"
#include "folders.hpp"
#include "runtimes/choice.hpp"
#include "sampling/encoding.hpp"
#include "sampling/loop.hpp"

using namespace ldm_engine;

namespace {

/// A real program; while its library computes, nothing is counted.
class UncountedProgram : public Program {
 public:
  UncountedProgram(const Bundle& bundle, std::unique_ptr<Program> inner)
      : Program("unet", bundle), inner_(std::move(inner)) {}

  void compute() override {
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
  unet.allocate(unet_shapes(model, latents, 4));
  const NoiseSchedule schedule(read_vectors("scheduler_configs.json").at("config"));
  std::vector<BatchRow> rows = join_rows({ddim_rows(schedule, 8, 0.3), ddim_rows(schedule, 8, 1)});
  for (BatchRow& row : rows) {  // a solver that uses all that a row can hold
    row.p = 0.1F;
    for (std::vector<float>& b : row.b) b.resize(3, 0.01F);
  }
  const std::vector<float> time_shift(8 * static_cast<std::size_t>(model.time_shift_width));
  const std::vector<float> guidance = {2.0F, 6.0F};
  std::vector<NoiseStream> noise = {NoiseStream(0), NoiseStream(1)};
  LoopBuffers buffers(rows, 2, count_values(latents) / 2);
  int called = 0;
  const StepCallback on_step_end = [&](const StepInfo&) { return ++called < 0; };
  const std::size_t count = count_values(latents);
  const Known known = {std::vector<std::uint8_t>(count / static_cast<std::size_t>(latents[1]), 1),
                       std::vector<float>(count, 0.1F), std::vector<float>(count, 0.2F),
                       {8, {0.6F, 0.8F}}};
  const LoopInputs inputs = {rows, time_shift.data(), guidance, noise, on_step_end, &known};
  const std::size_t before = allocations_counted();
  count_allocations(true);
  const int done = run_loop(unet, inputs, buffers);
  count_allocations(false);
  CHECK(done == 8);
  CHECK(called == 8);
  CHECK(allocations_counted() == before);
}
