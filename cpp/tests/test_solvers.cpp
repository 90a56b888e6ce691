#include <doctest/doctest.h>

#include "folders.hpp"
#include "sampling/solvers.hpp"

using namespace ldm_engine;

namespace {

doctest::Approx close_to(const Json& value) {
  return doctest::Approx(value.get<double>()).epsilon(1e-12);
}

}  // namespace

TEST_CASE("rows are those of the shared vectors") {
  for (const auto& vector : read_vectors("solvers.json")) {
    const int count = vector.at("num_inference_steps").get<int>();
    CAPTURE(count);
    const auto made = solver_rows(vector.at("solver"), NoiseSchedule(vector.at("config")), count,
                                  vector.at("timesteps").get<std::vector<int>>(),
                                  vector.at("eta").get<double>(), count);
    REQUIRE(made.size() == static_cast<std::size_t>(count));
    const auto& rows = vector.at("rows");
    for (std::size_t i = 0; i < rows.size(); ++i) {
      // Of long schedules the vectors hold the first and the last five rows.
      const Row& row = made[count <= 50 || i < 5 ? i : made.size() - rows.size() + i];
      CHECK(row.timestep == rows[i].at("timestep").get<int>());
      CHECK(row.p == close_to(rows[i].at("p")));
      CHECK(row.q == close_to(rows[i].at("q")));
      CHECK(row.a == close_to(rows[i].at("a")));
      CHECK(row.s == close_to(rows[i].at("s")));
      REQUIRE(row.b.size() == rows[i].at("b").size());
      for (std::size_t k = 0; k < row.b.size(); ++k) CHECK(row.b[k] == close_to(rows[i]["b"][k]));
    }
  }
}

TEST_CASE("images of a batch may differ in eta") {
  const NoiseSchedule schedule(read_vectors("scheduler_configs.json").at("config"));
  const auto still = ddim_rows(schedule, 5, 0.0), noisy = ddim_rows(schedule, 5, 1.0);
  const auto batch = join_rows({still, noisy});
  REQUIRE(batch.size() == 5);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    CHECK(batch[i].timestep == noisy[i].timestep);
    CHECK(batch[i].a == static_cast<float>(noisy[i].a));
    CHECK(batch[i].s == std::vector<float>{0, static_cast<float>(noisy[i].s)});
    CHECK(batch[i].b[0][0] == static_cast<float>(still[i].b[0]));
    CHECK(batch[i].b[1][0] == static_cast<float>(noisy[i].b[0]));
  }
  CHECK(batch[0].s[1] > 0);
}
