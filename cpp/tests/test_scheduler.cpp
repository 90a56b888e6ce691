#include <doctest/doctest.h>

#include <algorithm>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "scheduler.hpp"

using namespace ldm_engine;

TEST_CASE("steps are those of the shared vectors") {
  for (const auto& vector : read_vectors("scheduler.json")) {
    const int count = vector.at("num_inference_steps").get<int>();
    CAPTURE(count);
    const auto steps =
        DDIMScheduler(vector.at("config")).steps(count, vector.at("eta").get<double>());
    REQUIRE(steps.size() == static_cast<std::size_t>(count));
    const auto& rows = vector.at("steps");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      // Of long schedules the vectors hold the first and the last five steps.
      const auto& step = steps[count <= 50 || i < 5 ? i : steps.size() - rows.size() + i];
      CHECK(step.timestep == rows[i][0].get<int>());
      CHECK(step.latents_scale == doctest::Approx(rows[i][1].get<double>()).epsilon(1e-12));
      CHECK(step.noise_pred_scale == doctest::Approx(rows[i][2].get<double>()).epsilon(1e-12));
      CHECK(step.sigma == doctest::Approx(rows[i][3].get<double>()).epsilon(1e-12));
    }
  }
}

TEST_CASE("configs are accepted and refused as in Python") {
  const auto vectors = read_vectors("scheduler_configs.json");
  for (const auto& entry : vectors.at("cases")) {
    CAPTURE(entry.dump());
    Json config = vectors.at("config");
    config.update(entry.at("set"));
    if (entry.at("named").is_null()) {
      CHECK_NOTHROW(DDIMScheduler{config});
      continue;
    }
    std::string told;
    try {
      DDIMScheduler scheduler{config};
    } catch (const ConfigError& error) {
      told = error.what();
    }
    REQUIRE_FALSE(told.empty());
    for (const auto& name : entry.at("named")) {
      CHECK(told.find("`" + name.get<std::string>() + "`") != std::string::npos);
    }
    CHECK(told.find(entry.value("says", "")) != std::string::npos);
  }
}

TEST_CASE("images of a batch may differ in eta") {
  const DDIMScheduler scheduler(read_vectors("scheduler_configs.json").at("config"));
  const auto batch = scheduler.batch_steps(5, {0.0, 1.0});
  REQUIRE(batch.size() == 5);
  for (const BatchStep& step : batch) {
    CHECK(step.sigma[0] == 0);
    CHECK(step.noise_pred_scale.size() == 2);
  }
  CHECK(batch[0].sigma[1] > 0);
  CHECK_THROWS_AS(scheduler.batch_steps(5, {0.0, 1.5}), InvalidArgumentError);
}
