// OpenVINO on CPU: weights mapped from the bundle, one compiled model for each set of shapes.
// Inputs and outputs are shared with the library, so that a step copies nothing. Its twin is
// engine/ldm_engine/runtimes/openvino.py, with the same settings and the same cache.
#include "runtimes/openvino.hpp"

#include <algorithm>
#include <functional>
#include <list>
#include <mutex>
#include <openvino/openvino.hpp>
#include <utility>

#include "ldm_engine/errors.hpp"
#include "machine/cache.hpp"
#include "machine/cpu.hpp"
#include "machine/forks.hpp"
#include "machine/messages.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

/// Compiled models of one program are kept while their weights together are below this; each has
/// its own copy of them, and the latest is always kept.
constexpr std::int64_t kKeptBytes = std::int64_t{4} << 30;
constexpr std::int64_t kKeptShapes = 4;
constexpr char kBlobs[] = ".blob";  // what OpenVINO calls the compiled models in its cache
constexpr char kFused[] = "-fused";  // see _FUSED in the twin

/// The version that the Python package of the same libraries has: "2026.4.1".
std::string library_version() {
  const std::string build = ov::get_openvino_version().buildNumber;
  return build.substr(0, build.find('-'));
}

/// The one ov::Core of this process, which is never freed.
///
/// Its CPU plugin gives the thread that first compiles an alternate stack for signals, and unmaps
/// that stack when the core goes: the next signal then ends the process with SIGSEGV.
/// Throws RuntimeUnavailableError in a process forked from one that used it: a compilation would
/// wait for threads that do not exist here.
ov::Core& shared_core() {
  static ov::Core* const core = new ov::Core;
  static const int process = process_number();
  if (process != process_number()) {
    throw RuntimeUnavailableError(
        "OpenVINO cannot be used: it was used before this process was forked, and its threads do "
        "not exist here. Open the first bundle after the fork, or execute a program of its own.");
  }
  return *core;
}

/// One program compiled for the shapes in use; shared by a program and its clones.
class CompiledModels {
 public:
  /// `find_files` returns graph and weights, or throws; `size` is that of a copy in bytes.
  CompiledModels(std::function<std::vector<fs::path>()> find_files, std::int64_t size,
                 ov::AnyMap config)
      : find_files_(std::move(find_files)),
        config_(std::move(config)),
        capacity_(static_cast<std::size_t>(std::clamp<std::int64_t>(
            kKeptBytes / std::max<std::int64_t>(1, size), 1, kKeptShapes))) {}

  /// The model for these input shapes, compiled unless it was among the latest.
  ov::CompiledModel get(const Shapes& shapes) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(compiled_.begin(), compiled_.end(),
                                    [&](const auto& entry) { return entry.first == shapes; });
    if (found != compiled_.end()) {
      compiled_.splice(compiled_.end(), compiled_, found);
    } else {
      while (compiled_.size() >= capacity_)
        compiled_.pop_front();  // before the new one takes memory
      compiled_.emplace_back(shapes, compile(shapes));
    }
    return compiled_.back().second;
  }

 private:
  ov::CompiledModel compile(const Shapes& shapes) {
    const std::vector<fs::path> files = find_files_();
    try {
      // Fixed shapes make faster code.
      const auto model = core_.read_model(files[0].string(), files[1].string());
      std::map<std::string, ov::PartialShape> sizes;
      for (const auto& [name, shape] : shapes) {
        sizes[name] = ov::PartialShape(shape);
      }
      model->reshape(sizes);
      ov::AnyMap config = config_;
      if (would_go_wrong(*model)) config["SNIPPETS_MODE"] = "DISABLE";
      return compile_cached(model, std::move(config));
    } catch (const std::exception& error) {
      std::vector<std::string> inputs;
      for (const auto& [name, shape] : shapes) inputs.push_back(name + " " + shape_text(shape));
      throw Error("OpenVINO cannot compile " + files[0].string() + " for " + joined(inputs) + ": " +
                  last_line(error.what()) +
                  " Run `ldm-engine verify` on the bundle; if it is whole, ask for a smaller "
                  "height, width or batch, or export it again with this version of OpenVINO.");
    }
  }

  /// Whether an attention [B, H, T, S] has as many queries as heads: fused in bf16 its outputs come
  /// out wrong; see the twin.
  bool would_go_wrong(const ov::Model& model) const {
    const auto precision = config_.at(ov::hint::inference_precision.name());
    if (precision.as<ov::element::Type>() != ov::element::bf16) return false;
    const auto ops = model.get_ops();
    return std::any_of(ops.begin(), ops.end(), [](const std::shared_ptr<ov::Node>& op) {
      const std::string kind = op->get_type_name();
      if (kind != "ScaledDotProductAttention" && kind != "Softmax") return false;
      const ov::Shape& queries = op->get_input_shape(0);  // [B, H, T, D], or scores
      return queries.size() == 4 && queries[1] == queries[2];
    });
  }

  ov::CompiledModel compile_cached(const std::shared_ptr<ov::Model>& model, ov::AnyMap config) {
    const auto folder = config.find(ov::cache_dir.name());
    if (folder == config.end()) return core_.compile_model(model, "CPU", config);
    const fs::path path = folder->second.as<std::string>();
    drop_unsealed(path, kBlobs);  // OpenVINO takes a damaged one for good
    try {
      ov::CompiledModel compiled = core_.compile_model(model, "CPU", config);
      seal_files(path, kBlobs);
      return compiled;
    } catch (const std::exception&) {
      // Whatever the reason, it may have been the cache.
      for (const char* key :
           {ov::cache_dir.name(), ov::cache_mode.name(), ov::weights_path.name()}) {
        config_.erase(key);
        config.erase(key);
      }
      return core_.compile_model(model, "CPU", config);
    }
  }

  ov::Core& core_ = shared_core();
  std::function<std::vector<fs::path>()> find_files_;
  ov::AnyMap config_;
  std::size_t capacity_;
  std::list<std::pair<Shapes, ov::CompiledModel>> compiled_;  // the latest last
  std::mutex mutex_;
};

/// One inference request. Clones share their compiled models, which run one request at a time.
class OpenVINOProgram : public Program {
 public:
  OpenVINOProgram(const std::string& name, const Bundle& bundle,
                  std::shared_ptr<CompiledModels> models)
      : Program(name, bundle), models_(std::move(models)) {}

  std::unique_ptr<Program> clone() const override {
    return std::make_unique<OpenVINOProgram>(name(), bundle(), models_);
  }

 protected:
  void compute() override {
    try {
      request_.infer();
    } catch (const std::exception& error) {
      throw Error("OpenVINO could not run the program " + name() + ": " + last_line(error.what()) +
                  " Check the bundle with `ldm-engine verify`.");
    }
  }

  void bind() override {
    try {
      connect();
    } catch (const ov::Exception& error) {
      throw BundleError("The program " + name() +
                        " cannot be given its tensors: " + last_line(error.what()) +
                        " The bundle does not fit its manifest: export it again.");
    }
  }

 private:
  void connect() {
    request_ = ov::InferRequest();  // frees what it holds before the next is made
    ov::CompiledModel compiled = models_->get(input_shapes());
    for (const Tensor& tensor : outputs()) {
      const ov::PartialShape shape = compiled.output(tensor.name()).get_partial_shape();
      if (shape != ov::PartialShape(tensor.shape())) {
        throw BundleError("`" + tensor.name() + "` of program " + name() + " has shape " +
                          shape.to_string() + "; the inputs lead to " + shape_text(tensor.shape()) +
                          ". The bundle does not fit its manifest: export it again.");
      }
    }
    request_ = compiled.create_infer_request();
    for (const std::vector<Tensor>* tensors : {&inputs(), &outputs()}) {
      for (const Tensor& tensor : *tensors) {
        const auto type = tensor.is_float() ? ov::element::f32 : ov::element::i64;
        const ov::Shape shape(tensor.shape().begin(), tensor.shape().end());
        request_.set_tensor(tensor.name(), ov::Tensor(type, shape, tensor.data()));
      }
    }
  }

  std::shared_ptr<CompiledModels> models_;
  ov::InferRequest request_;
};

/// Whether that is used, for all or for what is not quantized.
bool computes_in_bf16(const std::string& precision) {
  return precision == "bf16" || (precision == "int8" && supports_bf16());
}

ov::AnyMap settings(const std::string& precision, int threads) {
  const bool in_bf16 = computes_in_bf16(precision);
  return {
      // Left to itself, OpenVINO takes bf16 where the CPU has it.
      ov::hint::inference_precision(in_bf16 ? ov::element::bf16 : ov::element::f32),
      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
      ov::num_streams(1),
      ov::inference_num_threads(threads),
  };
}

class OpenVINORuntime : public Runtime {
 public:
  std::string name() const override { return "openvino"; }
  std::string version() const override { return library_version(); }
  std::string format() const override { return "openvino"; }
  std::vector<std::string> precisions() const override { return {"fp32", "bf16", "int8"}; }

  /// The UNet has a graph of its own for int8.
  std::string format_of(const std::string& program, const std::string& precision) const override {
    return program_precision(program, precision) == "int8" ? kInt8Format : format();
  }

  std::unique_ptr<Program> open(const Bundle& bundle, const std::string& program,
                                const RuntimeOptions& options) const override {
    const std::string format = format_of(program, options.precision);
    const std::string precision = program_precision(program, options.precision);
    ov::AnyMap config = settings(precision, options.threads);
    if (options.cache) add_cache(config, bundle, program, format, precision);
    auto models = std::make_shared<CompiledModels>(
        [&bundle, program, format] { return bundle.program_files(program, format); },
        weight_bytes(bundle, *this, program, options.precision), std::move(config));
    return std::make_unique<OpenVINOProgram>(program, bundle, std::move(models));
  }

 private:
  /// Where compiled models are kept: for this version, exactly these files, one precision.
  ///
  /// OpenVINO itself takes in bf16 what it wrote in fp32, which gives other results than its own.
  static void add_cache(ov::AnyMap& config, const Bundle& bundle, const std::string& program,
                        const std::string& format, const std::string& precision) {
    const std::string digest =
        bundle.files_digest(bundle.programs.at(program).formats.at(format).files).substr(0, 16);
    const auto folder =
        cache_folder("openvino", library_version() + "-" + digest + "-" + precision +
                                     (computes_in_bf16(precision) ? kFused : ""));
    if (!folder) return;
    // The cache then holds the graph as optimised, with what of the weights was folded, and maps
    // the bundle's weights for the rest.
    config.insert(ov::cache_dir(folder->string()));
    config.insert(ov::cache_mode(ov::CacheMode::OPTIMIZE_SIZE));
    config.insert(ov::weights_path(bundle.program_files(program, format)[1].string()));
  }
};

}  // namespace

std::unique_ptr<Runtime> make_openvino_runtime() { return std::make_unique<OpenVINORuntime>(); }

}  // namespace ldm_engine
