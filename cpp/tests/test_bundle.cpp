// Bundles that are not whole are refused, without a crash.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "bundle/manifest.hpp"
#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "ldm_engine/pipeline.hpp"
#include "machine/files.hpp"
#include "machine/messages.hpp"

using namespace ldm_engine;
namespace fs = std::filesystem;

namespace {

/// A folder of links to the files of a bundle.
void link_bundle(const fs::path& bundle, const fs::path& copy) {
  for (const auto& entry : fs::recursive_directory_iterator(bundle)) {
    const fs::path target = copy / fs::relative(entry.path(), bundle);
    if (entry.is_directory()) {
      fs::create_directories(target);
    } else {
      fs::create_symlink(fs::absolute(entry.path()), target);
    }
  }
}

/// Puts `content` in the place of a link.
void replace(const fs::path& file, const std::string& content) {
  fs::remove(file);
  write_file(file, content);
}

/// What opening and rendering is refused with, or nothing.
std::string refusal(const fs::path& bundle, bool check_hashes) {
  Options options;
  options.check_hashes = check_hashes;
  options.cache = false;
  options.threads = 1;
  Request request;
  request.num_inference_steps = 1;
  request.seed = 0;
  try {
    Pipeline(bundle, options).generate({"a"}, request);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a file that was altered is named") {
  REQUIRE_BUNDLE(bundle);
  for (const char* name : {"unet/openvino_model.bin", "time_encoder/openvino_model.xml",
                           "vocab.txt", "scheduler_config.json", "reference.json"}) {
    CAPTURE(name);
    const TemporaryFolder folder;
    link_bundle(bundle, folder.path());
    std::string content = *read_whole(bundle / name);
    content[content.size() / 2] ^= 1;
    replace(folder.path() / name, content);
    const std::string message = refusal(folder.path(), true);
    CHECK(message.find(name) != std::string::npos);
    CHECK(message.find("does not match the sha256") != std::string::npos);
    fs::remove(folder.path() / name);
    CHECK(refusal(folder.path(), true).find("is missing") != std::string::npos);
  }
}

TEST_CASE("files that no runtime of ours reads are not looked at") {
  REQUIRE_BUNDLE(bundle);
  const TemporaryFolder folder;
  link_bundle(bundle, folder.path());
  for (const char* name : {"unet/model.onnx", "unet/inference.json"}) {
    if (fs::exists(folder.path() / name)) replace(folder.path() / name, "damaged");
  }
  CHECK(refusal(folder.path(), true) == "");
}

TEST_CASE("a file that is not whole is refused, though its hash is not looked at") {
  REQUIRE_BUNDLE(bundle);
  for (const char* name : {"time_encoder/openvino_model.xml", "vae_decoder/openvino_model.bin"}) {
    const std::string content = *read_whole(bundle / name);
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, content.size() / 2, content.size() - 4}) {
      CAPTURE(name);
      CAPTURE(size);
      const TemporaryFolder folder;
      link_bundle(bundle, folder.path());
      replace(folder.path() / name, content.substr(0, size));
      CHECK(refusal(folder.path(), false).find("is not whole") != std::string::npos);
    }
  }
}

TEST_CASE("a graph of the right size that is none is refused") {
  REQUIRE_BUNDLE(bundle);
  const TemporaryFolder folder;
  link_bundle(bundle, folder.path());
  const fs::path graph = folder.path() / "time_encoder/openvino_model.xml";
  const std::size_t size = read_whole(graph)->size();
  for (const char filler : {'\0', '<', 'x', '\xff'}) {
    replace(graph, std::string(size, filler));
    CHECK(refusal(folder.path(), false).find("OpenVINO cannot compile") != std::string::npos);
  }
}

TEST_CASE("a bundle that was replaced after it was opened is refused") {
  REQUIRE_BUNDLE(bundle);
  const TemporaryFolder folder;
  link_bundle(bundle, folder.path());
  Options options;
  options.memory = "sequential";
  Request request;
  request.num_inference_steps = 1;
  Pipeline pipe(folder.path(), options);
  CHECK_NOTHROW(pipe.generate({"a"}, request));
  replace(folder.path() / kManifest, *read_whole(bundle / kManifest));
  CHECK_THROWS_WITH_AS(pipe.generate({"a"}, request), doctest::Contains("was replaced or removed"),
                       BundleError);
  CHECK_NOTHROW(Pipeline(folder.path(), options).generate({"a"}, request));
}

TEST_CASE("a pipe in the place of a file is refused, though no hash is looked at") {
  REQUIRE_BUNDLE(bundle);
  for (const char* name : {"vocab.txt", "scheduler_config.json"}) {
    const TemporaryFolder folder;
    link_bundle(bundle, folder.path());
    fs::remove(folder.path() / name);
    REQUIRE(::mkfifo((folder.path() / name).c_str(), 0600) == 0);
    CHECK(refusal(folder.path(), false).find("cannot be read") != std::string::npos);
  }
}

TEST_CASE("formats are listed in one order") {
  Bundle bundle;
  for (const std::string& name : required_programs()) {
    for (const char* format : kFormats) bundle.programs[name].formats[format];
  }
  CHECK(joined(bundle.formats()) == "paddle, onnx, openvino, openvino_int8, tensorrt");
}

TEST_CASE("a damaged vocabulary or scheduler config is refused, though its hash is not looked at") {
  REQUIRE_BUNDLE(bundle);
  for (const std::string content : {"", "\xff", "[]", "{\"beta_end\": 7}", "[CLS]\n"}) {
    for (const char* name : {"vocab.txt", "scheduler_config.json"}) {
      CAPTURE(content);
      const TemporaryFolder folder;
      link_bundle(bundle, folder.path());
      replace(folder.path() / name, content);
      CHECK(refusal(folder.path(), false) != "");
    }
  }
}
