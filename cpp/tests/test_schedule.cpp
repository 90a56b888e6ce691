#include <doctest/doctest.h>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "sampling/schedule.hpp"

using namespace ldm_engine;

TEST_CASE("configs are accepted and refused as in Python") {
  const auto vectors = read_vectors("scheduler_configs.json");
  for (const auto& entry : vectors.at("cases")) {
    CAPTURE(entry.dump());
    Json config = vectors.at("config");
    config.update(entry.at("set"));
    if (entry.at("named").is_null()) {
      CHECK_NOTHROW(NoiseSchedule{config});
      continue;
    }
    std::string message;
    try {
      NoiseSchedule schedule{config};
    } catch (const ConfigError& error) {
      message = error.what();
    }
    REQUIRE_FALSE(message.empty());
    for (const auto& name : entry.at("named")) {
      CHECK(message.find("`" + name.get<std::string>() + "`") != std::string::npos);
    }
    CHECK(message.find(entry.value("says", "")) != std::string::npos);
  }
}
