// Bundles of every format version ever written open and render the same bytes.
#include <doctest/doctest.h>

#include "folders.hpp"
#include "ldm_engine/pipeline.hpp"
#include "machine/sha256.hpp"

using namespace ldm_engine;
namespace fs = std::filesystem;

TEST_CASE("a kept bundle renders the bytes that it rendered when it was written") {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(LDM_ENGINE_TEST_DATA)) {
    const std::string name = entry.path().stem().string();
    if (name.rfind("bundle-v", 0) != 0 || entry.path().extension() != ".json") continue;
    CAPTURE(name);
    ++count;
    const nlohmann::json expected = read_vectors(name + ".json");
    const nlohmann::json& settings = expected.at("request");
    Request request;
    request.num_inference_steps = settings.at("num_inference_steps").get<int>();
    request.guidance_scale = settings.at("guidance_scale").get<double>();
    request.eta = settings.at("eta").get<double>();
    request.seed = settings.at("seed").get<std::int64_t>();
    Pipeline pipe(data_file(name));
    const Image image =
        pipe.generate({settings.at("prompt").get<std::string>()}, request).images.front();
    const std::string bytes(image.rgb.begin(), image.rgb.end());
    CHECK(sha256_of_text(bytes) == expected.at("pixels_sha256").get<std::string>());
  }
  CHECK(count >= 1);
}
