// The limits of control groups, held to the shared vectors.
#include <doctest/doctest.h>

#include "folders.hpp"
#include "machine/cgroups.hpp"

namespace ldm_engine {

TEST_CASE("limits of control groups are those of the shared vectors") {
  for (const auto& vector : read_vectors("cgroups.json")) {
    CAPTURE(vector.at("name"));
    const TemporaryFolder root;
    for (const auto& [name, content] : vector.at("files").items()) {
      const std::filesystem::path path = root.path() / name;
      std::filesystem::create_directories(path.parent_path());
      std::ofstream(path) << content.get<std::string>();
    }
    const auto cores = cpu_limit(root.path());
    const auto free = group_free_memory(root.path());
    CHECK((cores ? nlohmann::json(*cores) : nlohmann::json()) == vector.at("cpu_limit"));
    CHECK((free ? nlohmann::json(*free) : nlohmann::json()) == vector.at("free_memory"));
  }
}

}  // namespace ldm_engine
