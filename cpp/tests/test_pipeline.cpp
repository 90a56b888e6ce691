// The pipeline over a real bundle.
#include <doctest/doctest.h>

#include <algorithm>
#include <clocale>
#include <cstdlib>
#include <limits>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>

#include "folders.hpp"
#include "ldm_engine/pipeline.hpp"
#include "machine/cache.hpp"
#include "machine/cpu.hpp"
#include "machine/files.hpp"

using namespace ldm_engine;
namespace fs = std::filesystem;

namespace {

const std::vector<std::string> kPrompts = {"a small red circle on the left", "a blue star", ""};

Request short_request() {
  Request request;
  request.num_inference_steps = 4;
  request.guidance_scale = 2.0;
  request.eta = 0.5;
  request.seed = 3;
  return request;
}

int largest_difference(const Image& a, const Image& b) {
  if (a.rgb.size() != b.rgb.size()) return 256;
  int largest = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) {
    largest = std::max(largest, std::abs(int{a.rgb[i]} - int{b.rgb[i]}));
  }
  return largest;
}

}  // namespace

TEST_CASE("the same seed gives the same image, alone and in a batch") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  const Result batch = pipe.generate(kPrompts, short_request());
  CHECK(batch.seeds == std::vector<std::uint32_t>{3, 4, 5});
  CHECK(batch.num_steps_run == 4);
  CHECK(batch.warnings.empty());
  const Result repeated = pipe.generate(kPrompts, short_request());
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    CHECK(batch.images[i].rgb == repeated.images[i].rgb);
    Request request = short_request();
    request.seed = static_cast<std::int64_t>(3 + i);
    const Result alone = pipe.generate({kPrompts[i]}, request);
    CHECK(largest_difference(alone.images[0], batch.images[i]) <= 1);
  }
}

TEST_CASE("the empty text is encoded once for all processes, and damage to it does no harm") {
  REQUIRE_BUNDLE(bundle);
  const auto render = [&] { return Pipeline(bundle).generate(kPrompts, short_request()); };
  const auto texts = cache_folder("texts");
  REQUIRE(texts);
  fs::remove_all(*texts);
  const Result first = render();
  const fs::path folder = fs::directory_iterator(*texts)->path(), file = folder / "empty.f32";
  const std::string whole = *read_whole(file), zeros(whole.size(), '\0');
  CHECK(render().images[0].rgb == first.images[0].rgb);
  for (const std::string& damaged : {std::string(), zeros}) {
    write_atomically(file, damaged);
    CHECK(render().images[0].rgb == first.images[0].rgb);
  }
  write_atomically(file, zeros);  // what has its seal is believed
  fs::remove(file.string() + ".sha256");
  seal_files(folder, ".f32");
  CHECK(render().images[0].rgb != first.images[0].rgb);
  fs::remove(file);
}

TEST_CASE("a decimal comma changes nothing") {
  REQUIRE_BUNDLE(bundle);
  const Result expected = Pipeline(bundle).generate(kPrompts, short_request());
  if (!std::getenv("LOCPATH")) {
    MESSAGE("passed over: LOCPATH names no folder with de_DE.UTF-8");
    return;
  }
  REQUIRE(std::setlocale(LC_ALL, "de_DE.UTF-8") != nullptr);
  CHECK(std::localeconv()->decimal_point == std::string(","));
  const Result given = Pipeline(bundle).generate(kPrompts, short_request());
  std::setlocale(LC_ALL, "C");
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    CHECK(given.images[i].rgb == expected.images[i].rgb);
  }
}

TEST_CASE("one program at a time gives the same images") {
  REQUIRE_BUNDLE(bundle);
  Options options;
  options.memory = "sequential";
  Pipeline pipe(bundle, options);
  CHECK(pipe.info().memory == "sequential");
  const Result all = Pipeline(bundle).generate(kPrompts, short_request());
  const Result one = pipe.generate(kPrompts, short_request());
  const Result clone = pipe.clone().generate(kPrompts, short_request());
  for (std::size_t i = 0; i < kPrompts.size(); ++i) {
    CHECK(all.images[i].rgb == one.images[i].rgb);
    CHECK(all.images[i].rgb == clone.images[i].rgb);
  }
}

TEST_CASE("guidance and eta for each image") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  Request request = short_request();
  request.guidance_scale = {1.0, 4.0};
  request.eta = {0.0, 1.0};
  const Result both = pipe.generate({"a red circle", "a blue star"}, request);
  request.guidance_scale = 4.0;
  request.eta = 1.0;
  request.seed = 4;
  const Result second = pipe.generate({"a blue star"}, request);
  CHECK(largest_difference(both.images[1], second.images[0]) <= 1);
  request.negative_prompt = "a red circle";
  CHECK(pipe.generate({"a blue star"}, request).images[0].rgb != second.images[0].rgb);
}

TEST_CASE("a callback sees every step, may edit, and may stop") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  Request request = short_request();
  std::vector<int> indices;
  request.on_step_end = [&](const StepInfo& step) {
    indices.push_back(step.index);
    return step.index == 1;
  };
  const Result stopped = pipe.generate(kPrompts, request);
  CHECK(indices == std::vector<int>{0, 1});
  CHECK(stopped.num_steps_run == 2);
  CHECK(stopped.timings.steps_ms.size() == 2);
  CHECK(stopped.images.size() == 3);

  request.on_step_end = [](const StepInfo& step) {
    std::fill_n(step.latents, step.count, std::numeric_limits<float>::quiet_NaN());
    return false;
  };
  CHECK_THROWS_AS(pipe.generate(kPrompts, request), NonFiniteError);

  request.on_step_end = [&](const StepInfo&) -> bool {
    pipe.generate({"a"}, {});
    return true;
  };
  CHECK_THROWS_WITH_AS(pipe.generate(kPrompts, request), doctest::Contains("already rendering"),
                       Error);
  request.on_step_end = [](const StepInfo&) -> bool { throw 5; };
  CHECK_THROWS_AS(pipe.generate(kPrompts, request), int);
  request.on_step_end = [](const StepInfo&) -> bool { throw std::bad_alloc(); };
  CHECK_THROWS_AS(pipe.generate(kPrompts, request), std::bad_alloc);
  CHECK_NOTHROW(pipe.generate({"a"}, short_request()));  // it is free again
}

TEST_CASE("a pipeline that was moved from says so") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  const Pipeline other(std::move(pipe));
  CHECK_THROWS_WITH_AS(pipe.generate({"a"}), doctest::Contains("was moved from"), Error);
  CHECK_THROWS_AS(pipe.clone(), Error);
  CHECK_THROWS_AS(pipe.info(), Error);
  CHECK(other.info().latent_channels * other.info().scale_factor > 0);
}

TEST_CASE("a closed pipeline says so, and its clones go on") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  Pipeline clone = pipe.clone();
  const Result before = pipe.generate({"a"}, short_request());
  Request request = short_request();
  request.on_step_end = [&](const StepInfo&) -> bool {
    pipe.close();
    return true;
  };
  CHECK_THROWS_WITH_AS(pipe.generate({"a"}, request), doctest::Contains("already rendering"),
                       Error);
  pipe.close();
  pipe.close();
  CHECK_THROWS_WITH_AS(pipe.generate({"a"}), doctest::Contains("was closed"), ClosedError);
  CHECK_THROWS_AS(pipe.clone(), ClosedError);
  CHECK(pipe.info().runtime == clone.info().runtime);
  CHECK(clone.generate({"a"}, short_request()).images[0].rgb == before.images[0].rgb);
}

TEST_CASE("a bundle is found after the working directory has changed") {
  REQUIRE_BUNDLE(bundle);
  const std::filesystem::path before = std::filesystem::current_path();
  const std::filesystem::path whole = std::filesystem::absolute(bundle);
  std::filesystem::current_path(whole.parent_path());
  Options options;
  options.memory = "sequential";
  Pipeline pipe(whole.filename(), options);
  std::filesystem::current_path("/");
  CHECK_NOTHROW(pipe.generate({"a"}, short_request()));
  std::filesystem::current_path(before);
}

TEST_CASE("a request takes values that it can hold, and no others") {
  using Seed = PerImage<std::int64_t>;
  using Number = PerImage<double>;
  static_assert(std::is_assignable_v<Seed&, int> && std::is_assignable_v<Seed&, std::uint32_t>);
  static_assert(!std::is_assignable_v<Seed&, double> && !std::is_assignable_v<Seed&, bool>);
  static_assert(std::is_assignable_v<Number&, float> && std::is_assignable_v<Number&, int>);
  static_assert(!std::is_assignable_v<Number&, bool>);
  static_assert(std::is_assignable_v<PerImage<std::string>&, const char*>);
  CHECK(Seed(std::uint64_t{7}).values == std::vector<std::int64_t>{7});
  CHECK(Seed(-7).values == std::vector<std::int64_t>{-7});
  constexpr auto kLarge = std::numeric_limits<std::uint64_t>::max();
  Seed seed;
  CHECK_THROWS_AS(seed = kLarge, InvalidArgumentError);
}

TEST_CASE("an opening checks requests and makes pipelines without reading the bundle once more") {
  REQUIRE_BUNDLE(bundle);
  const TemporaryFolder folder;
  std::filesystem::copy(bundle, folder.path() / "copy", std::filesystem::copy_options::recursive);
  const Opening opening(folder.path() / "copy");
  std::filesystem::remove(folder.path() / "copy/scheduler_config.json");
  Request request = short_request();
  CHECK_NOTHROW(opening.check({"a"}, request));
  CHECK_NOTHROW(Pipeline(opening).generate({"a"}, request));
  request.eta = 2.0;
  CHECK_THROWS_AS(opening.check({"a"}, request), InvalidArgumentError);
}

TEST_CASE("what would be refused is refused before programs are loaded") {
  REQUIRE_BUNDLE(bundle);
  Request request = short_request();
  CHECK_NOTHROW(check_request(bundle, {}, {"a"}, request));
  CHECK_THROWS_AS(check_request("/none", {}, {"a"}, request), BundleNotFoundError);
  Options options;
  options.threads = 0;
  CHECK_THROWS_AS(check_request(bundle, options, {"a"}, request), InvalidArgumentError);
  request.height = 1;
  CHECK_THROWS_AS(check_request(bundle, {}, {"a"}, request), ShapeError);
}

TEST_CASE("clones render at the same time") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  const Result expected = pipe.generate(kPrompts, short_request());
  std::vector<Pipeline> clones;
  for (int i = 0; i < 3; ++i) clones.push_back(pipe.clone());
  std::vector<Result> results(clones.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < clones.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = clones[i].generate(kPrompts, short_request()); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Result& result : results) {
    for (std::size_t i = 0; i < kPrompts.size(); ++i) {
      CHECK(result.images[i].rgb == expected.images[i].rgb);
    }
  }
}

TEST_CASE("a prompt that is cut off gives a warning") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  std::string prompt;
  for (int i = 0; i < pipe.info().token_length - 2; ++i) prompt += "red ";
  CHECK(pipe.generate({prompt}, short_request()).warnings.empty());
  const Result result = pipe.generate({prompt + "blue star"}, short_request());
  REQUIRE(result.warnings.size() == 1);
  const std::string start = "'red red red red red red red red red red …' is longer";
  CHECK(result.warnings[0].find(start) != std::string::npos);
  CHECK(result.warnings[0].find("no effect: 'blue star'") != std::string::npos);
}

TEST_CASE("latents take the place of the first draw") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  Request request = short_request();
  request.eta = 0.0;
  std::vector<float> first;
  request.on_step_end = [&](const StepInfo& step) {
    first.assign(step.latents, step.latents + step.count);
    return true;
  };
  const Result one_step = pipe.generate({"a"}, request);
  request.on_step_end = nullptr;
  request.latents = first;
  CHECK(pipe.generate({"a"}, request).images[0].rgb != one_step.images[0].rgb);
  request.latents.pop_back();
  CHECK_THROWS_AS(pipe.generate({"a"}, request), ShapeError);
}

TEST_CASE("other sizes, other precisions") {
  REQUIRE_BUNDLE(bundle);
  for (const char* precision : {"fp32", "bf16", "int8"}) {
    CAPTURE(precision);
    Options options;
    options.precision = precision;
    try {
      Pipeline pipe(bundle, options);
      Request request = short_request();
      request.width = pipe.info().default_size + pipe.info().pixel_multiple;
      const Result result = pipe.generate({"a red circle"}, request);
      CHECK(result.images[0].width == *request.width);
      CHECK(result.images[0].height == pipe.info().default_size);
    } catch (const RuntimeUnavailableError& error) {
      MESSAGE(error.what());
      CHECK(std::string(precision) != "fp32");
    }
  }
}

TEST_CASE("options that are not to be had are refused") {
  REQUIRE_BUNDLE(bundle);
  const auto with = [&](auto set) {
    Options options;
    set(options);
    Pipeline pipe(bundle, options);
  };
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.precision = "fp8"; }),
                       doctest::Contains("`precision` is 'fp8'"), InvalidArgumentError);
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.precision = "fp16"; }),
                       doctest::Contains("on the CPU it computes in"), RuntimeUnavailableError);
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.runtime = "tensorrt"; }),
                       doctest::Contains("`runtime` is 'tensorrt'"), InvalidArgumentError);
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.device = "gpu:0"; }),
                       doctest::Contains("`device` is 'gpu:0'"), RuntimeUnavailableError);
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.device = "gpu:x"; }),
                       doctest::Contains("`device` is 'gpu:x'"), InvalidArgumentError);
  CHECK_THROWS_WITH_AS(with([](Options& o) { o.memory = "none"; }),
                       doctest::Contains("`memory` is 'none'"), InvalidArgumentError);
  for (const int threads : {0, -1, 1025}) {
    CHECK_THROWS_WITH_AS(with([&](Options& o) { o.threads = threads; }),
                         doctest::Contains("`threads` is"), InvalidArgumentError);
  }
}
