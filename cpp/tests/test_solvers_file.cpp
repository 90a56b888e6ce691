#include <doctest/doctest.h>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "manifests.hpp"
#include "sampling/solvers_file.hpp"

using namespace ldm_engine;

namespace {

const Json& vectors() {
  static const Json read = read_vectors("solvers_files.json");
  return read;
}

std::vector<Table> parse(const std::string& text) {
  return parse_tables("solvers.json", text, vectors().at("bundle").get<std::string>(),
                      NoiseSchedule(vectors().at("scheduler")));
}

/// The file that a case describes.
std::string text_of(const Json& entry) {
  Json content = Json::parse(sealed(vectors().at("base"), kSolversSeal));
  Json* place = &content;
  const Json& path = entry.at("path");
  for (std::size_t i = 0; i + 1 < path.size(); ++i) {
    place = path[i].is_string() ? &(*place)[path[i].get<std::string>()]
                                : &(*place)[path[i].get<std::size_t>()];
  }
  if (entry.value("remove", false)) {
    place->erase(path.back().get<std::string>());
  } else if (!path.empty() && path.back().is_string()) {
    (*place)[path.back().get<std::string>()] = entry.at("value");
  } else if (!path.empty()) {
    (*place)[path.back().get<std::size_t>()] = entry.at("value");
  }
  return entry.value("seal", true) ? sealed(content, kSolversSeal) : content.dump();
}

}  // namespace

TEST_CASE("files of solvers are accepted and refused as in Python") {
  for (const Json& entry : vectors().at("cases")) {
    CAPTURE(entry.dump());
    std::string told;
    try {
      parse(text_of(entry));
    } catch (const BundleError& error) {
      told = error.what();
    }
    if (entry.at("says").is_null()) {
      CHECK(told.empty());
    } else {
      CHECK(told.find(entry.at("says").get<std::string>()) != std::string::npos);
    }
  }
}

TEST_CASE("what is no file of solvers is told with the remedy") {
  const std::string remedy = "Fit it again with `ldm-engine fit`, or remove the file.";
  for (const char* text : {"", "{", "[]", "\xff", "\xEF\xBB\xBF{}", R"({"unknown": NaN})",
                           R"({"unknown": 1e400})"}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(parse(text), doctest::Contains(remedy.c_str()), BundleError);
  }
}

TEST_CASE("rows and digests of tables are those of the shared vectors") {
  const std::vector<Table> tables = parse(sealed(vectors().at("base"), kSolversSeal));
  REQUIRE(tables.size() == vectors().at("rows").size());
  const NoiseSchedule schedule(vectors().at("scheduler"));
  for (std::size_t i = 0; i < tables.size(); ++i) {
    CHECK(tables[i].digest() == vectors().at("digests")[i].get<std::string>());
    const std::vector<Row> rows = tables[i].rows(schedule);
    const Json& expected = vectors().at("rows")[i];
    REQUIRE(rows.size() == expected.size());
    for (std::size_t step = 0; step < rows.size(); ++step) {
      CHECK(rows[step].timestep == expected[step].at("timestep").get<int>());
      CHECK(rows[step].p == doctest::Approx(expected[step].at("p").get<double>()).epsilon(1e-12));
      CHECK(rows[step].q == doctest::Approx(expected[step].at("q").get<double>()).epsilon(1e-12));
      CHECK(rows[step].a == expected[step].at("a").get<double>());
      CHECK(rows[step].b == expected[step].at("b").get<std::vector<double>>());
      CHECK(rows[step].s == 0);
    }
  }
}

TEST_CASE("guidance between two tables is served by both") {
  const Tables tables = {parse(sealed(vectors().at("base"), kSolversSeal)), ""};
  for (const Json& mixed : vectors().at("mixed")) {
    CAPTURE(mixed.dump());
    const Table table =
        tables.find(mixed.at("guidance_scale").get<double>(), mixed.at("steps").get<int>());
    CHECK(table.digest() == mixed.at("digest").get<std::string>());
  }
}

TEST_CASE("the fewest steps are those that reach ddim in all figures") {
  const Tables tables = {parse(sealed(vectors().at("base"), kSolversSeal)), ""};
  CHECK(tables.fewest(6).steps() == 4);
  CHECK(tables.fewest(2).steps() == 2);
  for (const char* given : {"3", "3.0000001", "1.2345678"}) {
    CAPTURE(given);
    const std::string command = std::string("--guidance ") + given + "`";
    CHECK_THROWS_WITH_AS(tables.fewest(std::stod(given)),
                         doctest::Contains(command.c_str()), InvalidArgumentError);
  }
  CHECK_THROWS_AS(Tables({{}, "It is damaged."}).find(6, 3), BundleError);
}
