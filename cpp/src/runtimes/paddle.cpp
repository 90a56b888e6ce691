// Paddle Inference on CPU with oneDNN. NOT YET BUILT: this project has had no C++ package of Paddle
// to build it with; it follows its twin, engine/ldm_engine/runtimes/paddle.py, setting by setting.
#include "runtimes/paddle.hpp"

#include <paddle_inference_api.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "ldm_engine/errors.hpp"

namespace ldm_engine {
namespace {

std::vector<int> int_shape(const Tensor& tensor) {
  return {tensor.shape().begin(), tensor.shape().end()};
}

/// One predictor. Inputs are shared with it; its outputs are copied.
class PaddleProgram : public Program {
 public:
  PaddleProgram(const std::string& name, const Bundle& bundle,
                std::unique_ptr<paddle_infer::Predictor> predictor)
      : Program(name, bundle), predictor_(std::move(predictor)) {}

  void compute() override {
    try {
      if (!predictor_->Run()) throw std::runtime_error("Run() failed.");
      copy_outputs();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error("Paddle could not run the program " + name() + ": " + last_line(error.what()) +
                  " Check the bundle with `ldm-engine verify`.");
    }
  }

  std::unique_ptr<Program> clone() const override {
    try {
      return std::make_unique<PaddleProgram>(name(), bundle(), predictor_->Clone());
    } catch (const std::exception& error) {
      throw Error("Paddle could not clone the program " + name() + ": " + last_line(error.what()) +
                  " Open the bundle again instead.");
    }
  }

 protected:
  void bind() override {
    try {
      share_inputs();
    } catch (const std::exception& error) {
      throw BundleError("The program " + name() +
                        " cannot be given its tensors: " + last_line(error.what()) +
                        " The bundle does not fit its manifest: export it again.");
    }
  }

 private:
  void copy_outputs() {
    for (const Tensor& tensor : outputs()) {
      const auto handle = predictor_->GetOutputHandle(tensor.name());
      if (handle->shape() != int_shape(tensor)) {
        throw BundleError("`" + tensor.name() + "` of program " + name() +
                          " came out with another shape than the inputs lead to, " +
                          shape_text(tensor.shape()) +
                          ". The bundle does not fit its manifest: export it again.");
      }
      handle->CopyToCpu(tensor.floats());
    }
  }

  void share_inputs() {
    for (const Tensor& tensor : inputs()) {
      const auto handle = predictor_->GetInputHandle(tensor.name());
      if (tensor.is_float()) {
        handle->ShareExternalData(tensor.floats(), int_shape(tensor),
                                  paddle_infer::PlaceType::kCPU);
      } else {
        handle->ShareExternalData(tensor.integers(), int_shape(tensor),
                                  paddle_infer::PlaceType::kCPU);
      }
    }
  }

  std::unique_ptr<paddle_infer::Predictor> predictor_;
};

void configure(paddle_infer::Config& config, const std::string& precision, int threads) {
  config.DisableGpu();
  config.DisableGlogInfo();
  config.EnableNewIR(true);
  config.EnableNewExecutor(true);
  config.EnableMKLDNN();
  config.SetMkldnnCacheCapacity(1);
  config.SetCpuMathLibraryNumThreads(threads);
  config.DeletePass("inplace_pass");  // silently wrong with oneDNN; see the twin
  config.EnableMemoryOptim(true);
  if (precision == "bf16") {
    config.EnableMkldnnBfloat16();
    config.DeletePass("conv_elementwise_add_onednn_fuse_pass");
  }
}

class PaddleRuntime : public Runtime {
 public:
  std::string name() const override { return "paddle"; }
  std::string version() const override { return ""; }
  std::string format() const override { return "paddle"; }
  std::vector<std::string> precisions() const override { return {"fp32", "bf16"}; }

  std::unique_ptr<Program> open(const Bundle& bundle, const std::string& program,
                                const RuntimeOptions& options) const override {
    const auto files = bundle.program_files(program, format());
    try {
      paddle_infer::Config config(files[0].string(), files[1].string());
      configure(config, program_precision(program, options.precision), options.threads);
      return std::make_unique<PaddleProgram>(program, bundle,
                                             std::make_unique<paddle_infer::Predictor>(config));
    } catch (const std::exception& error) {
      throw Error("Paddle cannot load " + files[0].string() + ": " + last_line(error.what()) +
                  " Run `ldm-engine verify` on the bundle; if it is whole, export it again with "
                  "this version of Paddle.");
    }
  }
};

}  // namespace

std::unique_ptr<Runtime> make_paddle_runtime() { return std::make_unique<PaddleRuntime>(); }

}  // namespace ldm_engine
