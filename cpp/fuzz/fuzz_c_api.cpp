// Any bytes as options and requests of the C interface. With LDM_ENGINE_TEST_BUNDLE those that
// are accepted are rendered for one step.
#include <fuzzer/FuzzedDataProvider.h>
#include <ldm_engine.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr int kShapesSize = 64;  // the demo bundle's images; another size compiles for seconds

std::int32_t stop(void*, std::int32_t, std::int32_t, float*, std::size_t) { return 1; }

void open_any(FuzzedDataProvider& data) {
  const std::string path = data.ConsumeRandomLengthString(64);
  const std::string texts[4] = {
      data.ConsumeRandomLengthString(16), data.ConsumeRandomLengthString(16),
      data.ConsumeRandomLengthString(16), data.ConsumeRandomLengthString(16)};
  ldm_engine_options options;
  ldm_engine_options_init(&options, sizeof(options));
  options.size =
      data.ConsumeBool() ? sizeof(options) : data.ConsumeIntegralInRange<std::size_t>(0, 56);
  options.runtime = data.ConsumeBool() ? texts[0].c_str() : nullptr;
  options.device = data.ConsumeBool() ? texts[1].c_str() : nullptr;
  options.precision = data.ConsumeBool() ? texts[2].c_str() : nullptr;
  options.memory = data.ConsumeBool() ? texts[3].c_str() : nullptr;
  options.threads = data.ConsumeIntegral<std::int32_t>();
  options.check_hashes = data.ConsumeIntegral<std::int32_t>();
  ldm_engine_pipeline* pipeline = nullptr;
  const char* const bundle = std::getenv("LDM_ENGINE_TEST_BUNDLE");
  const bool is_known = bundle && data.ConsumeBool();
  ldm_engine_open(is_known ? bundle : path.c_str(), &options, &pipeline);
  ldm_engine_close(pipeline);
}

ldm_engine_pipeline* shared_pipeline() {
  static ldm_engine_pipeline* pipeline = [] {
    ldm_engine_pipeline* opened = nullptr;
    const char* const bundle = std::getenv("LDM_ENGINE_TEST_BUNDLE");
    if (bundle && ldm_engine_open(bundle, nullptr, &opened) != LDM_ENGINE_OK) std::abort();
    return opened;
  }();
  return pipeline;
}

template <typename T>
std::vector<T> numbers(FuzzedDataProvider& data) {
  std::vector<T> values(data.ConsumeIntegralInRange<std::size_t>(0, 4));
  for (T& value : values) {
    if constexpr (std::is_floating_point_v<T>) {
      value = data.ConsumeBool() ? data.ConsumeFloatingPoint<T>() : data.ConsumeProbability<T>();
    } else {
      value = data.ConsumeIntegral<T>();
    }
  }
  return values;
}

std::int32_t size_in_pixels(FuzzedDataProvider& data) {
  const auto size = data.ConsumeIntegral<std::int32_t>();
  return size > 0 && size % kShapesSize == 0 ? kShapesSize : size;
}

void look_at(const ldm_engine_result* result) {
  ldm_engine_image image;
  std::uint32_t seed = 0;
  for (std::size_t i = 0; i <= ldm_engine_result_image_count(result); ++i) {
    if (ldm_engine_result_image(result, i, &image) == LDM_ENGINE_OK && !image.rgb) std::abort();
    ldm_engine_result_seed(result, i, &seed);
  }
  for (std::size_t i = 0; i <= ldm_engine_result_warning_count(result); ++i) {
    ldm_engine_result_warning(result, i);
  }
}

void generate_any(FuzzedDataProvider& data) {
  std::vector<std::string> texts(data.ConsumeIntegralInRange<std::size_t>(0, 3));
  for (std::string& text : texts) text = data.ConsumeRandomLengthString(40);
  std::vector<const char*> prompts;
  for (const std::string& text : texts) prompts.push_back(text.c_str());
  const auto guidance = numbers<double>(data), etas = numbers<double>(data);
  const auto seeds = numbers<std::int64_t>(data);
  const auto latents = numbers<float>(data);
  ldm_engine_request request;
  ldm_engine_request_init(&request, sizeof(request));
  request.height = size_in_pixels(data);
  request.width = size_in_pixels(data);
  // Few counts: the time encoder is compiled for each.
  request.num_inference_steps = data.PickValueInArray({-1, 0, 1, 2, 50, 1000, 1001, 1 << 30});
  request.guidance_scales = guidance.data();
  request.guidance_scale_count = guidance.size();
  request.etas = etas.data();
  request.eta_count = etas.size();
  request.seeds = seeds.data();
  request.seed_count = seeds.size();
  request.latents = latents.data();
  request.latents_count = data.ConsumeBool() ? latents.size() : 0;
  request.negative_prompts = prompts.data();
  request.negative_prompt_count = data.ConsumeBool() ? prompts.size() : 0;
  request.on_step_end = stop;
  ldm_engine_result* result = nullptr;
  const std::int32_t code =
      ldm_engine_generate(shared_pipeline(), prompts.data(), prompts.size(), &request, &result);
  if ((code == LDM_ENGINE_OK) != (result != nullptr)) std::abort();
  if (code != LDM_ENGINE_OK && !*ldm_engine_last_error()) std::abort();
  look_at(result);
  ldm_engine_result_free(result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  FuzzedDataProvider data(bytes, size);
  if (data.ConsumeBool()) {
    open_any(data);
  } else {
    generate_any(data);
  }
  return 0;
}
