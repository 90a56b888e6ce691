#include <doctest/doctest.h>
#include <ldm_engine.h>

#include <array>
#include <cstring>
#include <string>

#include "folders.hpp"

extern "C" std::int32_t open_from_c(const char* path);

namespace {

bool last_error_says(const char* part) {
  return std::string(ldm_engine_last_error()).find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("C: NULL is refused wherever a pointer is needed") {
  ldm_engine_pipeline* pipeline = nullptr;
  ldm_engine_result* result = nullptr;
  CHECK(ldm_engine_open("x", nullptr, nullptr) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_open(nullptr, nullptr, &pipeline) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_clone(nullptr, &pipeline) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_generate(nullptr, nullptr, 0, nullptr, &result) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(last_error_says("`pipeline` is NULL"));
  CHECK(ldm_engine_options_init(nullptr, 100) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_result_image(nullptr, 0, nullptr) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_result_image_count(nullptr) == 0);
  CHECK(ldm_engine_result_warning(nullptr, 0) == nullptr);
  CHECK(ldm_engine_result_steps_run(nullptr) == 0);
  ldm_engine_close(nullptr);
  ldm_engine_result_free(nullptr);
}

TEST_CASE("C: structs of other versions") {
  ldm_engine_pipeline* pipeline = nullptr;
  ldm_engine_options options;
  CHECK(ldm_engine_options_init(&options, 8) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_options_init(&options, sizeof(options)) == LDM_ENGINE_OK);
  CHECK(options.check_hashes == 1);
  options.size = 1;
  CHECK(ldm_engine_open("/none", &options, &pipeline) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(last_error_says("`options` has a size of 1 bytes"));
  options.size = static_cast<std::size_t>(-1);
  CHECK(ldm_engine_open("/none", &options, &pipeline) == LDM_ENGINE_INVALID_ARGUMENT);

  // A newer caller, whose new fields are zero or not.
  alignas(ldm_engine_options) std::array<unsigned char, sizeof(ldm_engine_options) + 16> newer{};
  auto* const larger = reinterpret_cast<ldm_engine_options*>(newer.data());
  CHECK(ldm_engine_options_init(larger, newer.size()) == LDM_ENGINE_OK);
  CHECK(ldm_engine_open("/none", larger, &pipeline) == LDM_ENGINE_BUNDLE_NOT_FOUND);
  newer.back() = 1;
  CHECK(ldm_engine_open("/none", larger, &pipeline) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(last_error_says("does not know"));
}

TEST_CASE("C: failures have codes and texts") {
  const TemporaryFolder folder;
  CHECK(open_from_c("/none") == LDM_ENGINE_BUNDLE_NOT_FOUND);
  CHECK(last_error_says("There is no bundle folder '/none'"));
  CHECK(open_from_c(folder.path().c_str()) == LDM_ENGINE_BUNDLE);
  CHECK(std::string(ldm_engine_version()).find('.') != std::string::npos);
  CHECK(ldm_engine_abi_version() == LDM_ENGINE_ABI_VERSION);
}

TEST_CASE("C: a picture") {
  REQUIRE_BUNDLE(bundle);
  ldm_engine_pipeline* pipeline = nullptr;
  ldm_engine_result* result = nullptr;
  REQUIRE(ldm_engine_open(bundle.c_str(), nullptr, &pipeline) == LDM_ENGINE_OK);
  ldm_engine_request request;
  REQUIRE(ldm_engine_request_init(&request, sizeof(request)) == LDM_ENGINE_OK);
  const std::int64_t seed = 7;
  request.seeds = &seed;
  request.seed_count = 1;
  request.num_inference_steps = 3;
  int calls = 0;
  request.user_data = &calls;
  request.on_step_end = [](void* user_data, std::int32_t, std::int32_t, float*, std::size_t) {
    return std::int32_t{++*static_cast<int*>(user_data) == 2};
  };
  const char* prompts[] = {"a red circle", "a blue star"};
  REQUIRE(ldm_engine_generate(pipeline, prompts, 2, &request, &result) == LDM_ENGINE_OK);
  CHECK(ldm_engine_result_image_count(result) == 2);
  CHECK(ldm_engine_result_steps_run(result) == 2);
  std::uint32_t used = 0;
  CHECK(ldm_engine_result_seed(result, 1, &used) == LDM_ENGINE_OK);
  CHECK(used == 8);
  ldm_engine_image image;
  CHECK(ldm_engine_result_image(result, 1, &image) == LDM_ENGINE_OK);
  CHECK(image.width > 0);
  CHECK(ldm_engine_result_image(result, 2, &image) == LDM_ENGINE_INVALID_ARGUMENT);
  ldm_engine_timings timings;
  timings.size = static_cast<std::size_t>(-1);
  CHECK(ldm_engine_result_timings(result, &timings) == LDM_ENGINE_INVALID_ARGUMENT);
  timings.size = sizeof(timings);
  CHECK(ldm_engine_result_timings(result, &timings) == LDM_ENGINE_OK);
  CHECK(timings.total_ms > 0);
  const TemporaryFolder folder;
  CHECK(ldm_engine_result_save_png(result, 0, (folder.path() / "a.png").c_str()) == LDM_ENGINE_OK);
  CHECK(ldm_engine_result_save_png(result, 0, (folder.path() / "b/a.png").c_str()) ==
        LDM_ENGINE_OUTPUT);
  ldm_engine_result_free(result);

  request.num_inference_steps = 0;
  CHECK(ldm_engine_generate(pipeline, prompts, 2, &request, &result) ==
        LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(result == nullptr);
  request.num_inference_steps = 3;
  request.height = 1;
  CHECK(ldm_engine_generate(pipeline, prompts, 2, &request, &result) == LDM_ENGINE_SHAPE);
  const char* broken[] = {"a", nullptr};
  CHECK(ldm_engine_generate(pipeline, broken, 2, nullptr, &result) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_generate(pipeline, nullptr, 0, nullptr, &result) == LDM_ENGINE_INVALID_ARGUMENT);
  ldm_engine_info info;
  info.size = 8;
  CHECK(ldm_engine_pipeline_info(pipeline, &info) == LDM_ENGINE_INVALID_ARGUMENT);
  info.size = sizeof(info);
  CHECK(ldm_engine_pipeline_info(nullptr, &info) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_pipeline_info(pipeline, nullptr) == LDM_ENGINE_INVALID_ARGUMENT);
  CHECK(ldm_engine_pipeline_info(pipeline, &info) == LDM_ENGINE_OK);
  CHECK(std::string(info.digest).size() == 64);
  CHECK(info.scale_factor > 0);
  ldm_engine_pipeline* other = nullptr;
  CHECK(ldm_engine_clone(pipeline, &other) == LDM_ENGINE_OK);
  ldm_engine_close(pipeline);
  CHECK(ldm_engine_generate(other, prompts, 1, nullptr, &result) == LDM_ENGINE_OK);
  ldm_engine_result_free(result);
  ldm_engine_close(other);
}
