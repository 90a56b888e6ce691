// The pipeline: prompts in, images out, over the programs of a bundle.
#include "ldm_engine/pipeline.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>

#include "ldm_engine_version.hpp"
#include "machine/clock.hpp"
#include "sampling/encoding.hpp"
#include "sampling/inputs.hpp"
#include "sampling/kept_text.hpp"
#include "sampling/latest.hpp"
#include "sampling/loop.hpp"
#include "sampling/opening.hpp"
#include "sampling/pixels.hpp"
#include "sampling/programs.hpp"
#include "sampling/request.hpp"

namespace ldm_engine {
namespace {

using TextIds = std::vector<std::int64_t>;
using TextValues = Latest<TextIds>::Values;
using TextKeys = std::map<std::string, TextValues>;  // text -> keys and values [T, .]

constexpr std::size_t kKeptTextBytes = std::size_t{64} << 20;
constexpr std::size_t kKeptPictureBytes = std::size_t{4} << 20;

/// What a pipeline and its clones have in common.
struct Shared {
  explicit Shared(const Opened& from)
      : opened(from),
        tokenizer(opened.bundle.path / kVocabulary, model().token_length,
                  opened.bundle.tokenizer, model().vocab_size),
        info{model().source,
             opened.bundle.digest(),
             opened.runtime.name(),
             opened.options.precision,
             opened.memory,
             opened.options.threads,
             static_cast<int>(model().default_size()),
             static_cast<int>(model().pixel_multiple()),
             model().token_length,
             model().latent_channels,
             model().scale_factor,
             opened.no_pictures().empty() ? opened.bundle.program_digest("vae_encoder") : ""} {}

  const ModelInfo& model() const { return opened.bundle.model; }

  const Opened opened;
  const Tokenizer tokenizer;
  const Info info;
  std::mutex mutex;             // of whoever encodes
  TextValues unconditional_kv;  // [T, .], encoded at most once
  Latest<TextIds> texts{kKeptTextBytes};
  Latest<std::string> pictures{kKeptPictureBytes};  // by the sha256 of their pixels
};

Acceptance acceptance_of(const Opened& opened) {
  return {opened.bundle.model, opened.schedule, opened.tables, opened.no_pictures()};
}

/// Latents [B, C, h, w] of pictures, and what of them stays if they have masks.
struct Encoded {
  std::vector<float> latents;
  std::vector<std::uint8_t> keep;  // [B, h, w], or empty
};

/// Make of the noise in `latents` noised pictures, and return what is known of them.
std::optional<Known> begin_from(Encoded pictures, const NoiseSchedule& schedule,
                                const std::vector<BatchRow>& rows, const Tensor& latents) {
  if (pictures.latents.empty()) return std::nullopt;
  const auto as_float = [&](int timestep) {
    const auto [of_image, of_noise] = schedule.level(timestep);
    return std::pair(static_cast<float>(of_image), static_cast<float>(of_noise));
  };
  float* const x = latents.floats();
  std::optional<Known> known;
  if (!pictures.keep.empty()) {
    known = Known{std::move(pictures.keep), pictures.latents, {x, x + latents.count()}, {}};
    for (std::size_t i = 1; i < rows.size(); ++i) {
      known->levels.push_back(as_float(rows[i].timestep));
    }
    known->levels.emplace_back(1.0F, 0.0F);
  }
  const auto [of_image, of_noise] = as_float(rows.front().timestep);
  for (std::size_t i = 0; i < latents.count(); ++i) {
    x[i] = x[i] * of_noise + pictures.latents[i] * of_image;
  }
  return known;
}

/// Marks a pipeline as in use for as long as it lives; throws Error if it is in use already.
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

}  // namespace

class Pipeline::Impl {
 public:
  Impl(std::shared_ptr<Shared> shared, Programs programs)
      : shared_(std::move(shared)), programs_(std::move(programs)) {}

  static std::unique_ptr<Impl> open(const Opened& opened) {
    opened.check_programs();
    auto shared = std::make_shared<Shared>(opened);
    Programs programs(
        // The programs live no longer than the pipeline, which holds `shared`.
        [common = shared.get()](const std::string& name) {
          return common->opened.open_program(name);
        },
        opened.memory == "resident");
    return std::make_unique<Impl>(std::move(shared), std::move(programs));
  }

  std::unique_ptr<Impl> clone() const { return std::make_unique<Impl>(shared_, programs_.clone()); }

  void close() {
    if (programs_.are_inherited()) return;
    const InUse in_use(in_use_);
    programs_.close();
  }

  const Info& info() const { return shared_->info; }

  /// `on_step_end` takes the place of the request's.
  Result generate(const std::vector<std::string>& prompts, const Request& request,
                  const StepCallback& on_step_end) {
    const Clock clock;
    const Opened& opened = shared_->opened;
    const ResolvedRequest resolved = resolve_request(acceptance_of(opened), prompts, request);
    programs_.check_open();  // a forked child's locks may be held by threads that are not there
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
  const ModelInfo& model() const { return shared_->model(); }

  /// The final latents [B, C, h, w].
  std::vector<float> denoise(const ResolvedRequest& resolved, const std::vector<float>& given,
                             const StepCallback& on_step_end, Result& result) {
    const Clock text_clock;
    const std::vector<std::string> texts = resolved.texts();
    const TextKeys encoded = encode_texts(texts, result.warnings);
    result.timings.text_ms = text_clock.elapsed_ms();
    const Clock time_clock;
    encode_schedule(resolved.rows);
    result.timings.time_ms = time_clock.elapsed_ms();
    Encoded pictures = encode_pictures(resolved.inputs);
    const Clock loop_clock;
    Program& unet = programs_["unet"];
    unet.allocate(unet_shapes(model(), resolved.latents_shape, texts.size()));
    float* row_kv = unet.input("text_kv").floats();
    for (const std::string& text : texts) {
      const std::vector<float>& kv = *encoded.at(text);
      row_kv = std::copy(kv.begin(), kv.end(), row_kv);
    }
    const Tensor& latents = unet.input("latents");
    const std::size_t size = latents.count() / resolved.seeds.size();
    std::vector<NoiseStream> noise(resolved.seeds.begin(), resolved.seeds.end());
    for (std::size_t i = 0; i < noise.size(); ++i) noise[i].fill(latents.floats() + i * size, size);
    std::copy(given.begin(), given.end(), latents.floats());
    const std::optional<Known> known =
        begin_from(std::move(pictures), shared_->opened.schedule, resolved.rows, latents);
    LoopBuffers buffers(resolved.rows, noise.size(), size);
    result.num_steps_run = run_loop(
        unet,
        {resolved.rows, time_shift_.data(), resolved.guidance, noise, on_step_end,
         known ? &*known : nullptr},
        buffers);
    result.timings.steps_ms = std::move(buffers.steps_ms);
    result.timings.denoise_ms = loop_clock.elapsed_ms();
    return {latents.floats(), latents.floats() + latents.count()};
  }

  /// Keys and values [T, .] of each distinct text; the latest ones are kept.
  ///
  /// One text at a time, so that an image does not depend on what else is in the batch.
  TextKeys encode_texts(const std::vector<std::string>& texts, std::vector<std::string>& warnings) {
    TextKeys encoded;
    for (const std::string& text : texts) {
      if (encoded.count(text)) continue;
      const TextIds ids = ids_of(shared_->tokenizer, model(), text, warnings);
      const std::lock_guard lock(shared_->mutex);
      encoded[text] = text.empty() ? encode_unconditional(ids) : shared_->texts.get(ids, [&] {
        return encode_text(programs_["text_encoder"], model(), ids);
      });
    }
    return encoded;
  }

  /// The keys and values of the empty text; one encoding serves all clones. Holds the lock.
  TextValues encode_unconditional(const TextIds& ids) {
    if (!shared_->unconditional_kv) {
      shared_->unconditional_kv =
          std::make_shared<const std::vector<float>>(unconditional_kv(shared_->opened, [&] {
            return encode_text(programs_["text_encoder"], model(), ids);
          }));
    }
    return shared_->unconditional_kv;
  }

  /// One picture at a time; the latest ones are kept.
  Encoded encode_pictures(const std::vector<Input>& inputs) {
    Encoded encoded;
    for (const Input& input : inputs) {
      const Image& picture = *input.picture;
      const std::lock_guard lock(shared_->mutex);
      const auto values = shared_->pictures.get(pixels_sha256(picture), [&] {
        return encode_picture(programs_["vae_encoder"], model(), picture);
      });
      const std::vector<float>& latents = *values;
      encoded.latents.insert(encoded.latents.end(), latents.begin(), latents.end());
      encoded.keep.insert(encoded.keep.end(), input.keep.begin(), input.keep.end());
    }
    return encoded;
  }

  /// Sets `time_shift_` [S, .], which is kept for as long as the schedule stays the same.
  void encode_schedule(const std::vector<BatchRow>& rows) {
    std::vector<int> timesteps;
    for (const BatchRow& row : rows) timesteps.push_back(row.timestep);
    if (timesteps == timesteps_) return;
    time_shift_ = encode_time(programs_["time_encoder"], model(), timesteps);
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
      if (!resolved.inputs.empty()) resolved.inputs[i].paste(image.floats());
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

/// Run `work`; throws Error where it cannot get memory.
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

struct Opening::Impl {
  Opened opened;
};

Opening::Opening(const std::filesystem::path& bundle, const Options& options)
    : impl_(
          with_memory([&] { return std::make_shared<Impl>(Impl{open_to_run(bundle, options)}); })) {
}

Request Opening::check(const std::vector<std::string>& prompts, const Request& request) const {
  const Opened& opened = impl_->opened;
  return with_memory([&] {
    const ResolvedRequest resolved = resolve_request(acceptance_of(opened), prompts, request);
    Request settled = request;
    settled.num_inference_steps = resolved.num_inference_steps;
    settled.solver = resolved.solver;
    settled.solver_table = resolved.solver_table;
    settled.strength = resolved.strength;
    settled.image_sha256 = resolved.image_sha256;
    settled.mask_sha256 = resolved.mask_sha256;
    return settled;
  });
}

Pipeline::Pipeline(const std::filesystem::path& bundle, const Options& options)
    : Pipeline(Opening(bundle, options)) {}

Pipeline::Pipeline(const Opening& opening)
    : impl_(with_memory([&] { return Impl::open(opening.impl_->opened); })) {}

Pipeline::Pipeline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Pipeline::~Pipeline() = default;
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;

Pipeline::Impl& Pipeline::impl() const {
  if (!impl_) throw Error("This pipeline was moved from; use the one that it was moved to.");
  return *impl_;
}

void Pipeline::close() {
  if (impl_) impl_->close();
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
  Opening(bundle, options).check(prompts, request);
}

const char* version() { return LDM_ENGINE_VERSION; }

}  // namespace ldm_engine
