#include <doctest/doctest.h>

#include <array>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "noise.hpp"

using namespace ldm_engine;

TEST_CASE("noise is that of the shared vectors") {
  for (const auto& vector : read_vectors("noise.json")) {
    CAPTURE(vector.at("seed"));
    NoiseStream stream(vector.at("seed").get<std::uint32_t>());
    std::array<float, 4 * 8 * 8> values{};
    for (const auto& draw : vector.at("draws")) {
      stream.fill(values.data(), values.size());
      for (std::size_t i = 0; i < 9; ++i) {
        CHECK(values[i] == static_cast<float>(draw.at("first")[i].get<double>()));
        CHECK(values[values.size() - 9 + i] ==
              static_cast<float>(draw.at("last")[i].get<double>()));
      }
    }
  }
}

TEST_CASE("seeds count up from one, are kept as a list, or are random") {
  CHECK(resolve_seeds(5, 3) == std::vector<std::uint32_t>{5, 6, 7});
  CHECK(resolve_seeds({9, 9}, 2) == std::vector<std::uint32_t>{9, 9});
  CHECK(resolve_seeds({}, 4).size() == 4);
  CHECK(resolve_seeds({}, 4) != resolve_seeds({}, 4));
  CHECK_THROWS_AS(resolve_seeds(INT64_MAX, 2), InvalidArgumentError);
  CHECK_THROWS_AS(resolve_seeds(INT64_MIN, 2), InvalidArgumentError);
}
