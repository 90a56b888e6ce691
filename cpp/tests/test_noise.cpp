#include <doctest/doctest.h>

#include <array>

#include "folders.hpp"
#include "sampling/noise.hpp"

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
