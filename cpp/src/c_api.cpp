// The C interface over the C++ one: checks what it is handed, and lets no exception out.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "bundle/model.hpp"
#include "ldm_engine.h"
#include "ldm_engine/pipeline.hpp"

struct ldm_engine_pipeline {
  explicit ldm_engine_pipeline(ldm_engine::Pipeline made) : pipeline(std::move(made)) {}
  ldm_engine::Pipeline pipeline;
};

struct ldm_engine_result {
  explicit ldm_engine_result(ldm_engine::Result made) : result(std::move(made)) {}
  ldm_engine::Result result;
};

namespace ldm_engine {
namespace {

// What the first version of the interface had, which never changes; later ones add fields behind.
constexpr std::size_t kFirstOptionsBytes = 56;
constexpr std::size_t kFirstRequestBytes = 120;
constexpr std::size_t kFirstTimingsBytes = 48;
constexpr std::size_t kFirstInfoBytes = 72;
constexpr std::size_t kLargestBytes = 4096;  // no version will have more: the size is not set
static_assert(sizeof(ldm_engine_options) >= kFirstOptionsBytes);
static_assert(sizeof(ldm_engine_request) >= kFirstRequestBytes);
static_assert(sizeof(ldm_engine_timings) >= kFirstTimingsBytes);
static_assert(sizeof(ldm_engine_info) >= kFirstInfoBytes);

thread_local std::string last_error;

std::int32_t fail(std::int32_t code, const char* message) noexcept {
  try {
    last_error = message;
  } catch (const std::exception&) {
    last_error.clear();
  }
  return code;
}

/// Run `work` and turn what it throws into a code.
template <typename Work>
std::int32_t guarded(const Work& work) noexcept {
  try {
    work();
    return LDM_ENGINE_OK;
  } catch (const ShapeError& error) {
    return fail(LDM_ENGINE_SHAPE, error.what());
  } catch (const InvalidArgumentError& error) {
    return fail(LDM_ENGINE_INVALID_ARGUMENT, error.what());
  } catch (const BundleNotFoundError& error) {
    return fail(LDM_ENGINE_BUNDLE_NOT_FOUND, error.what());
  } catch (const BundleError& error) {
    return fail(LDM_ENGINE_BUNDLE, error.what());
  } catch (const ConfigError& error) {
    return fail(LDM_ENGINE_CONFIG, error.what());
  } catch (const RuntimeUnavailableError& error) {
    return fail(LDM_ENGINE_RUNTIME_UNAVAILABLE, error.what());
  } catch (const NonFiniteError& error) {
    return fail(LDM_ENGINE_NON_FINITE, error.what());
  } catch (const OutputError& error) {
    return fail(LDM_ENGINE_OUTPUT, error.what());
  } catch (const std::exception& error) {
    return fail(LDM_ENGINE_ERROR, error.what());
  } catch (...) {
    return fail(LDM_ENGINE_ERROR, "An unknown exception was thrown; report this.");
  }
}

void require(const void* pointer, const char* name) {
  if (!pointer) {
    throw InvalidArgumentError(std::string("`") + name + "` is NULL; a pointer is accepted.");
  }
}

void check_size(std::size_t size, std::size_t first, const char* name) {
  if (size < first || size > kLargestBytes) {
    throw InvalidArgumentError(std::string("`") + name + "` has a size of " + std::to_string(size) +
                               " bytes; " + std::to_string(first) + " to " +
                               std::to_string(kLargestBytes) +
                               " are accepted. Set its `size` to its sizeof.");
  }
}

/// The struct as this library knows it: what an older caller does not have keeps its default.
template <typename Struct>
Struct read_struct(const Struct* given, Struct defaults, std::size_t first, const char* name) {
  if (!given) return defaults;
  check_size(given->size, first, name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const bool is_known =
      std::all_of(bytes + std::min(sizeof(Struct), given->size), bytes + given->size,
                  [](unsigned char byte) { return byte == 0; });
  if (!is_known) {
    throw InvalidArgumentError(std::string("`") + name +
                               "` asks for what this version of the library does not know; use "
                               "a newer library, or the header of this one.");
  }
  std::memcpy(static_cast<void*>(&defaults), given, std::min(sizeof(Struct), given->size));
  return defaults;
}

ldm_engine_options default_options() {
  ldm_engine_options options{};
  options.size = sizeof(options);
  options.check_hashes = 1;
  options.cache = 1;
  return options;
}

ldm_engine_request default_request() {
  ldm_engine_request request{};
  request.size = sizeof(request);
  request.num_inference_steps = 50;
  return request;
}

template <typename Struct>
void write_struct(Struct* out, std::size_t size, const Struct& defaults, std::size_t first,
                  const char* name) {
  require(out, name);
  check_size(size, first, name);
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &defaults, std::min(size, sizeof(Struct)));
  out->size = size;
}

bool read_flag(std::int32_t value, const char* name) {
  if (value != 0 && value != 1) {
    throw InvalidArgumentError(std::string("`") + name + "` is " + std::to_string(value) +
                               "; 0 or 1 is accepted.");
  }
  return value == 1;
}

void check_reserved(std::int32_t value) {
  if (value != 0) throw InvalidArgumentError("`reserved` must be 0.");
}

Options read_options(const ldm_engine_options* given) {
  const ldm_engine_options from =
      read_struct(given, default_options(), kFirstOptionsBytes, "options");
  check_reserved(from.reserved);
  Options options;
  if (from.runtime) options.runtime = from.runtime;
  if (from.device) options.device = from.device;
  if (from.precision) options.precision = from.precision;
  if (from.memory) options.memory = from.memory;
  if (from.threads != 0) options.threads = from.threads;
  options.check_hashes = read_flag(from.check_hashes, "check_hashes");
  options.cache = read_flag(from.cache, "cache");
  return options;
}

template <typename T>
std::vector<T> read_list(const T* values, std::size_t count, const char* name) {
  if (count > 0) require(values, name);
  return count > 0 ? std::vector<T>(values, values + count) : std::vector<T>();
}

std::vector<std::string> read_texts(const char* const* texts, std::size_t count, const char* name) {
  if (count > 0) require(texts, name);
  std::vector<std::string> read;
  for (std::size_t i = 0; i < count; ++i) {
    require(texts[i], name);
    read.emplace_back(texts[i]);
  }
  return read;
}

std::vector<Image> read_pictures(const ldm_engine_image* pictures, std::size_t count,
                                 const char* name) {
  if (count > 0) require(pictures, name);
  std::vector<Image> read;
  for (std::size_t i = 0; i < count; ++i) {
    const ldm_engine_image& from = pictures[i];
    require(from.rgb, name);
    if (from.width <= 0 || from.height <= 0 || from.width > kMaxSize || from.height > kMaxSize) {
      throw ShapeError(std::string("`") + name + "` has a picture of " +
                       std::to_string(from.width) + "x" + std::to_string(from.height) +
                       " pixels; sides from 1 to " + std::to_string(kMaxSize) + " are accepted.");
    }
    const auto width = static_cast<std::size_t>(from.width);
    const auto bytes = width * static_cast<std::size_t>(from.height) * 3;
    read.push_back({from.width, from.height, {from.rgb, from.rgb + bytes}, {}});
  }
  return read;
}

/// A list as the C++ interface has it; an empty one leaves the default.
template <typename T>
void read_per_image(std::vector<T> values, PerImage<T>& out) {
  if (values.size() == 1) {
    out = PerImage<T>(std::move(values.front()));
  } else if (!values.empty()) {
    out = PerImage<T>(std::move(values));
  }
}

Request read_request(const ldm_engine_request* given) {
  const ldm_engine_request from =
      read_struct(given, default_request(), kFirstRequestBytes, "request");
  check_reserved(from.reserved);
  Request request;
  if (from.height != 0) request.height = from.height;
  if (from.width != 0) request.width = from.width;
  request.num_inference_steps = from.num_inference_steps;
  read_per_image(read_list(from.guidance_scales, from.guidance_scale_count, "guidance_scales"),
                 request.guidance_scale);
  read_per_image(read_list(from.etas, from.eta_count, "etas"), request.eta);
  read_per_image(read_list(from.seeds, from.seed_count, "seeds"), request.seed);
  read_per_image(read_texts(from.negative_prompts, from.negative_prompt_count, "negative_prompts"),
                 request.negative_prompt);
  if (from.solver) request.solver = from.solver;
  if (from.solver_table) request.solver_table = from.solver_table;
  for (const std::int32_t t : read_list(from.timesteps, from.timestep_count, "timesteps")) {
    request.timesteps.push_back(t);
  }
  request.image = read_pictures(from.pictures, from.picture_count, "pictures");
  request.mask_image = read_pictures(from.masks, from.mask_count, "masks");
  if (from.strength != 0) request.strength = from.strength;
  request.latents = read_list(from.latents, from.latents_count, "latents");
  if (from.on_step_end) {
    request.on_step_end = [from](const StepInfo& step) {
      return from.on_step_end(from.user_data, step.index, step.timestep, step.latents,
                              step.count) != 0;
    };
  }
  return request;
}

const Image& image_of(const ldm_engine_result* result, std::size_t index) {
  require(result, "result");
  const auto& images = result->result.images;
  if (index >= images.size()) {
    throw InvalidArgumentError("`index` is " + std::to_string(index) + "; the result holds " +
                               std::to_string(images.size()) + " images, counted from 0.");
  }
  return images[index];
}

}  // namespace
}  // namespace ldm_engine

using namespace ldm_engine;

const char* ldm_engine_version(void) { return version(); }

int32_t ldm_engine_abi_version(void) { return LDM_ENGINE_ABI_VERSION; }

const char* ldm_engine_last_error(void) { return last_error.c_str(); }

int32_t ldm_engine_options_init(ldm_engine_options* options, size_t size) {
  return guarded(
      [&] { write_struct(options, size, default_options(), kFirstOptionsBytes, "options"); });
}

int32_t ldm_engine_request_init(ldm_engine_request* request, size_t size) {
  return guarded(
      [&] { write_struct(request, size, default_request(), kFirstRequestBytes, "request"); });
}

int32_t ldm_engine_open(const char* path, const ldm_engine_options* options,
                        ldm_engine_pipeline** out) {
  return guarded([&] {
    require(out, "out");
    *out = nullptr;
    require(path, "path");
    *out = std::make_unique<ldm_engine_pipeline>(Pipeline(path, read_options(options))).release();
  });
}

int32_t ldm_engine_clone(const ldm_engine_pipeline* pipeline, ldm_engine_pipeline** out) {
  return guarded([&] {
    require(out, "out");
    *out = nullptr;
    require(pipeline, "pipeline");
    *out = std::make_unique<ldm_engine_pipeline>(pipeline->pipeline.clone()).release();
  });
}

int32_t ldm_engine_pipeline_info(const ldm_engine_pipeline* pipeline, ldm_engine_info* out) {
  return guarded([&] {
    require(pipeline, "pipeline");
    require(out, "out");
    const Info& from = pipeline->pipeline.info();
    const ldm_engine_info info = {sizeof(info),         from.source.c_str(),    from.digest.c_str(),
                                  from.runtime.c_str(), from.precision.c_str(), from.memory.c_str(),
                                  from.threads,         from.default_size,      from.pixel_multiple,
                                  from.token_length,    from.latent_channels,   from.scale_factor};
    write_struct(out, out->size, info, kFirstInfoBytes, "out");
  });
}

void ldm_engine_close(ldm_engine_pipeline* pipeline) { delete pipeline; }

int32_t ldm_engine_generate(ldm_engine_pipeline* pipeline, const char* const* prompts,
                            size_t prompt_count, const ldm_engine_request* request,
                            ldm_engine_result** out) {
  return guarded([&] {
    require(out, "out");
    *out = nullptr;
    require(pipeline, "pipeline");
    Result result = pipeline->pipeline.generate(read_texts(prompts, prompt_count, "prompts"),
                                                read_request(request));
    *out = std::make_unique<ldm_engine_result>(std::move(result)).release();
  });
}

void ldm_engine_result_free(ldm_engine_result* result) { delete result; }

size_t ldm_engine_result_image_count(const ldm_engine_result* result) {
  return result ? result->result.images.size() : 0;
}

int32_t ldm_engine_result_image(const ldm_engine_result* result, size_t index,
                                ldm_engine_image* out) {
  return guarded([&] {
    require(out, "out");
    const Image& image = image_of(result, index);
    *out = {image.width, image.height, image.rgb.data()};
  });
}

int32_t ldm_engine_result_seed(const ldm_engine_result* result, size_t index, uint32_t* out) {
  return guarded([&] {
    require(out, "out");
    image_of(result, index);
    *out = result->result.seeds[index];
  });
}

int32_t ldm_engine_result_steps_run(const ldm_engine_result* result) {
  return result ? result->result.num_steps_run : 0;
}

int32_t ldm_engine_result_timings(const ldm_engine_result* result, ldm_engine_timings* out) {
  return guarded([&] {
    require(result, "result");
    require(out, "out");
    const Timings& from = result->result.timings;
    const ldm_engine_timings timings = {sizeof(timings), from.text_ms,   from.time_ms,
                                        from.denoise_ms, from.decode_ms, from.total_ms};
    write_struct(out, out->size, timings, kFirstTimingsBytes, "out");
  });
}

size_t ldm_engine_result_warning_count(const ldm_engine_result* result) {
  return result ? result->result.warnings.size() : 0;
}

const char* ldm_engine_result_warning(const ldm_engine_result* result, size_t index) {
  return result && index < result->result.warnings.size() ? result->result.warnings[index].c_str()
                                                          : nullptr;
}

int32_t ldm_engine_result_save_png(const ldm_engine_result* result, size_t index,
                                   const char* path) {
  return guarded([&] {
    require(path, "path");
    image_of(result, index).save_png(path);
  });
}
