// The pipeline: prompts in, images out, over the four programs of a bundle.
#include "ldm_engine/pipeline.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>

#include "clock.hpp"
#include "cpu.hpp"
#include "json.hpp"
#include "ldm_engine_version.hpp"
#include "loop.hpp"
#include "manifest.hpp"
#include "pixels.hpp"
#include "programs.hpp"
#include "request.hpp"
#include "runtime.hpp"
#include "tokenizer.hpp"

namespace ldm_engine {
namespace {

using TextKeys = std::map<std::string, std::vector<float>>;  // text -> keys and values [T, .]

/// The runtime that `options` ask for; throws what Pipeline does for those that are refused.
const Runtime& check_options(const Bundle& bundle, const Options& options) {
  const Runtime& runtime = choose_runtime(bundle, options.runtime, options.precision);
  resolve_options(options);
  if (options.memory != "resident" && options.memory != "sequential" && options.memory != "auto") {
    throw InvalidArgumentError("`memory` is " + in_quotes(options.memory) +
                               "; 'resident', 'sequential' or 'auto' is accepted.");
  }
  return runtime;
}

Bundle checked_bundle(const std::filesystem::path& path, const Options& options) {
  Bundle bundle = open_bundle(path);
  const Runtime& runtime = check_options(bundle, options);
  if (options.check_hashes) {
    bundle.check_changed_files(needed_files(bundle, runtime, options.precision));
  }
  return bundle;
}

/// The memory mode in use: with "auto" the one that suits the machine.
std::string resolve_memory(const Bundle& bundle, const Runtime& runtime, const Options& options) {
  if (options.memory != "auto") return options.memory;
  std::int64_t needed = 0;
  for (const char* name : kPrograms) {
    needed += weight_bytes(bundle, runtime, name, options.precision);
  }
  const std::optional<std::int64_t> free = free_memory_bytes();
  return !free || needed <= *free / 2 ? "resident" : "sequential";
}

DDIMScheduler read_scheduler(const Bundle& bundle) {
  const std::filesystem::path path = bundle.path / kSchedulerConfig;
  return DDIMScheduler(parse_json_object(read_file(path), path));
}

/// What a pipeline and its clones have in common.
struct Shared {
  Shared(const std::filesystem::path& path, const Options& told)
      : bundle(checked_bundle(path, told)),
        scheduler(read_scheduler(bundle)),
        tokenizer(bundle.path / kVocabulary, bundle.model.token_length, bundle.model.lowercase,
                  bundle.model.vocab_size),
        runtime(choose_runtime(bundle, told.runtime, told.precision)),
        options(resolve_options(told)),
        info{bundle.model.source,
             bundle.digest(),
             runtime.name(),
             options.precision,
             resolve_memory(bundle, runtime, told),
             options.threads,
             static_cast<int>(bundle.model.default_size()),
             static_cast<int>(bundle.model.pixel_multiple()),
             bundle.model.token_length,
             bundle.model.latent_channels,
             bundle.model.scale_factor} {}

  const Bundle bundle;
  const DDIMScheduler scheduler;
  const Tokenizer tokenizer;
  const Runtime& runtime;
  const RuntimeOptions options;
  const Info info;
  std::mutex mutex;
  std::vector<float> unconditional_kv;  // [T, .], encoded at most once
};

/// Marks a pipeline as in use for as long as it lives.
class InUse {
 public:
  explicit InUse(std::atomic_flag& flag) : flag_(flag) {
    if (flag_.test_and_set()) {
      throw Error(
          "This pipeline is already rendering, in another thread or for the call whose callback "
          "this is. Give each its own with pipe.clone().");
    }
  }
  ~InUse() { flag_.clear(); }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic_flag& flag_;
};

std::string truncation_warning(const std::string& text, const std::string& cut, int token_length) {
  constexpr std::size_t kStart = 40;  // characters
  return "The prompt " + in_quotes(text, kStart) + " is longer than " +
         std::to_string(token_length) +
         " tokens. This end of it was cut off and has no effect: " + in_quotes(cut, cut.size());
}

}  // namespace

class Pipeline::Impl {
 public:
  Impl(std::shared_ptr<Shared> shared, Programs programs)
      : shared_(std::move(shared)), programs_(std::move(programs)) {}

  static std::unique_ptr<Impl> open(const std::filesystem::path& path, const Options& options) {
    auto shared = std::make_shared<Shared>(path, options);
    const bool is_resident = shared->info.memory == "resident";
    Programs programs(
        // The programs live no longer than the pipeline, which holds `shared`.
        [common = shared.get()](const std::string& name) {
          return common->runtime.open(common->bundle, name, common->options);
        },
        is_resident);
    return std::make_unique<Impl>(std::move(shared), std::move(programs));
  }

  std::unique_ptr<Impl> clone() const { return std::make_unique<Impl>(shared_, programs_.clone()); }

  const Info& info() const { return shared_->info; }

  /// `on_step_end` takes the place of the request's.
  Result generate(const std::vector<std::string>& prompts, const Request& request,
                  const StepCallback& on_step_end) {
    const Clock clock;
    const ResolvedRequest resolved = resolve_request(model(), shared_->scheduler, prompts, request);
    const InUse in_use(in_use_);
    Result result;
    result.seeds = resolved.seeds;
    const std::vector<float> latents = denoise(resolved, request.latents, on_step_end, result);
    check_finite(latents.data(), latents.size() / result.seeds.size(), result.seeds, "the UNet");
    const Clock decoding;
    decode(latents, resolved, result);
    result.timings.decode_ms = decoding.elapsed_ms();
    result.timings.total_ms = clock.elapsed_ms();
    return result;
  }

 private:
  const ModelInfo& model() const { return shared_->bundle.model; }

  /// The final latents [B, C, h, w].
  std::vector<float> denoise(const ResolvedRequest& resolved, const std::vector<float>& given,
                             const StepCallback& on_step_end, Result& result) {
    const Clock text_clock;
    const std::vector<std::string> rows = resolved.texts();
    const TextKeys texts = encode_texts(rows, result.warnings);
    result.timings.text_ms = text_clock.elapsed_ms();
    const Clock time_clock;
    encode_time(resolved.steps);
    result.timings.time_ms = time_clock.elapsed_ms();
    const Clock loop_clock;
    Program& unet = programs_["unet"];
    allocate_unet(unet, resolved.latents_shape, rows.size());
    const Tensor& text_kv = unet.input("text_kv");
    float* row_kv = text_kv.floats();
    for (const std::string& row : rows) {
      const std::vector<float>& kv = texts.at(row);
      row_kv = std::copy(kv.begin(), kv.end(), row_kv);
    }
    const Tensor& latents = unet.input("latents");
    const std::size_t size = latents.count() / resolved.seeds.size();
    std::vector<NoiseStream> noise(resolved.seeds.begin(), resolved.seeds.end());
    for (std::size_t i = 0; i < noise.size(); ++i) noise[i].fill(latents.floats() + i * size, size);
    std::copy(given.begin(), given.end(), latents.floats());
    std::vector<float> fresh_noise(size);
    result.timings.steps_ms.reserve(resolved.steps.size());
    result.num_steps_run =
        run_loop(unet, {resolved.steps, time_shift_.data(), resolved.guidance, noise, fresh_noise,
                        on_step_end, result.timings.steps_ms});
    result.timings.denoise_ms = loop_clock.elapsed_ms();
    return {latents.floats(), latents.floats() + latents.count()};
  }

  void allocate_unet(Program& unet, const Shape& latents, std::size_t rows) {
    Shape noise_pred = latents;
    noise_pred[0] = static_cast<std::int64_t>(rows);
    unet.allocate({{"latents", latents},
                   {"time_shift", {1, model().time_shift_width}},
                   {"text_kv", {noise_pred[0], model().token_length, model().text_kv_width}},
                   {"noise_pred", noise_pred}});
  }

  /// Keys and values [T, .] of each distinct text.
  ///
  /// One text at a time, so that an image does not depend on what else is in the batch.
  TextKeys encode_texts(const std::vector<std::string>& texts, std::vector<std::string>& warnings) {
    TextKeys encoded;
    for (const std::string& text : texts) {
      if (encoded.count(text)) continue;
      encoded[text] = text.empty() ? encode_unconditional(warnings) : encode_text(text, warnings);
    }
    return encoded;
  }

  /// The keys and values of the empty text; one encoding serves all clones.
  const std::vector<float>& encode_unconditional(std::vector<std::string>& warnings) {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->unconditional_kv.empty()) shared_->unconditional_kv = encode_text("", warnings);
    return shared_->unconditional_kv;
  }

  /// Keys and values [T, .] of one text.
  std::vector<float> encode_text(const std::string& text, std::vector<std::string>& warnings) {
    Program& program = programs_["text_encoder"];
    const std::int64_t tokens = model().token_length;
    program.allocate({{"input_ids", {1, tokens}}, {"text_kv", {1, tokens, model().text_kv_width}}});
    const auto cut = shared_->tokenizer.encode(text, program.input("input_ids").integers());
    if (cut) warnings.push_back(truncation_warning(text, *cut, model().token_length));
    program.run();
    const Tensor& text_kv = program.output("text_kv");
    return {text_kv.floats(), text_kv.floats() + text_kv.count()};
  }

  /// Sets `time_shift_` [S, .], which is kept for as long as the schedule stays the same.
  void encode_time(const std::vector<BatchStep>& steps) {
    std::vector<int> timesteps;
    for (const BatchStep& step : steps) timesteps.push_back(step.timestep);
    if (timesteps == timesteps_) return;
    Program& program = programs_["time_encoder"];
    const auto count = static_cast<std::int64_t>(steps.size());
    program.allocate({{"timesteps", {count}}, {"time_shift", {count, model().time_shift_width}}});
    std::transform(timesteps.begin(), timesteps.end(), program.input("timesteps").floats(),
                   [](int timestep) { return static_cast<float>(timestep); });
    program.run();
    const Tensor& time_shift = program.output("time_shift");
    time_shift_.assign(time_shift.floats(), time_shift.floats() + time_shift.count());
    timesteps_ = std::move(timesteps);
  }

  /// One image at a time: memory does not grow with the batch.
  void decode(const std::vector<float>& latents, const ResolvedRequest& resolved, Result& result) {
    Program& program = programs_["vae_decoder"];
    Shape one = resolved.latents_shape;
    one[0] = 1;
    program.allocate({{"latents", one}, {"image", {1, resolved.height, resolved.width, 3}}});
    const Tensor& input = program.input("latents");
    const Tensor& image = program.output("image");
    for (std::size_t i = 0; i < resolved.seeds.size(); ++i) {
      std::copy_n(latents.data() + i * input.count(), input.count(), input.floats());
      program.run();
      check_finite(image.floats(), image.count(), {resolved.seeds[i]}, "the decoder");
      if (is_flat(image.floats(), image.count())) {
        result.warnings.push_back("The image of seed " + std::to_string(resolved.seeds[i]) +
                                  " has a single colour; something is likely wrong with the "
                                  "model, the prompt or the guidance.");
      }
      result.images.push_back(to_image(image.floats(), resolved.height, resolved.width));
    }
  }

  std::shared_ptr<Shared> shared_;
  Programs programs_;
  std::atomic_flag in_use_ = ATOMIC_FLAG_INIT;
  std::vector<int> timesteps_;     // of time_shift_
  std::vector<float> time_shift_;  // [S, .]
};

namespace {

/// Run `work`; what it cannot get memory for is told as an Error.
template <typename Work>
auto with_memory(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {
  }
  throw Error(
      "There is not enough memory for this. Ask for a smaller height, width or batch, or open the "
      "bundle with memory=\"sequential\".");
}

}  // namespace

Pipeline::Pipeline(const std::filesystem::path& bundle, const Options& options)
    : impl_(with_memory([&] { return Impl::open(bundle, options); })) {}

Pipeline::Pipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pipeline::~Pipeline() = default;
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

Pipeline::Impl& Pipeline::impl() const {
  if (!impl_) throw Error("This pipeline was moved from; use the one that it was moved to.");
  return *impl_;
}

Result Pipeline::generate(const std::vector<std::string>& prompts, const Request& request) {
  std::exception_ptr thrown;  // by the callback, whose lack of memory is not ours
  StepCallback on_step_end;
  if (request.on_step_end) {
    on_step_end = [&](const StepInfo& step) {
      try {
        return request.on_step_end(step);
      } catch (...) {
        thrown = std::current_exception();
        throw;
      }
    };
  }
  try {
    return with_memory([&] { return impl().generate(prompts, request, on_step_end); });
  } catch (...) {
    if (thrown) std::rethrow_exception(thrown);
    throw;
  }
}

Pipeline Pipeline::clone() const { return Pipeline(impl().clone()); }

const Info& Pipeline::info() const { return impl().info(); }

void check_request(const std::filesystem::path& bundle, const Options& options,
                   const std::vector<std::string>& prompts, const Request& request) {
  with_memory([&] {
    const Bundle opened = open_bundle(bundle);
    resolve_request(opened.model, read_scheduler(opened), prompts, request);
    check_options(opened, options);
  });
}

const char* version() { return LDM_ENGINE_VERSION; }

}  // namespace ldm_engine
