#include <doctest/doctest.h>

#include "bundle/manifest.hpp"
#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "manifests.hpp"
#include "runtimes/choice.hpp"

using namespace ldm_engine;

namespace {

/// The text that a case of manifests.json describes.
std::string manifest_text(const Json& base, const Json& entry) {
  if (entry.contains("text")) return entry.at("text").get<std::string>();
  if (entry.contains("repeat")) {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += entry.at("repeat").get<std::string>();
    return text;
  }
  Json content = Json::parse(sealed(base));
  Json* parent = nullptr;
  Json* place = &content;
  const Json& path = entry.at("path");
  for (std::size_t i = 0; i < path.size(); ++i) {
    parent = place;
    const bool is_last = i + 1 == path.size();
    if (is_last && entry.value("remove", false)) {
      parent->erase(path[i].get<std::string>());
      return sealed(content);
    }
    place = path[i].is_number() ? &(*parent)[path[i].get<std::size_t>()]
                                : &(*parent)[path[i].get<std::string>()];
  }
  if (parent) *place = entry.at("value");
  return entry.value("seal", true) ? sealed(content) : content.dump(2) + "\n";
}

}  // namespace

TEST_CASE("manifests are accepted and refused as in Python") {
  const Json vectors = read_vectors("manifests.json");
  for (const Json& entry : vectors.at("cases")) {
    CAPTURE(entry.at("name").get<std::string>());
    const TemporaryFolder folder;
    write_file(folder.path() / kManifest,
               manifest_text(vectors.at(entry.value("base", "base")), entry));
    if (entry.at("error").is_null()) {
      Bundle bundle;
      CHECK_NOTHROW(bundle = open_bundle(folder.path()));
      CHECK(bundle.digest() == entry.value("digest", bundle.digest()));
      if (entry.contains("outside")) {
        const Json& expected = entry.at("outside");
        CHECK(bundle.outside[{expected.at("runtime"), expected.at("precision")}] ==
              expected.at("says").get<std::string>());
      }
      continue;
    }
    std::string message;
    try {
      open_bundle(folder.path());
    } catch (const BundleError& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK_FALSE(message.empty());
    CHECK(message.find(entry.at("says").get<std::string>()) != std::string::npos);
  }
}

TEST_CASE("a precision that the export measured outside its tolerance is refused") {
  const Json vectors = read_vectors("manifests.json");
  Json changed = vectors.at("base");
  const Bundle within = parse_manifest("somewhere", sealed(changed));
  CHECK(choose_runtime(within, "auto", "fp32").name() == "openvino");
  changed["parity"]["openvino"]["fp32"]["unet"]["relative_l2_error"] = 0.0429;
  const Bundle outside = parse_manifest("somewhere", sealed(changed));
  for (const char* runtime : {"openvino", "auto"}) {
    CHECK_THROWS_WITH_AS(choose_runtime(outside, runtime, "fp32"),
                         doctest::Contains("unet, relative error 0.0429, tolerance 0.0001"),
                         RuntimeUnavailableError);
  }
}

TEST_CASE("a folder without a manifest is no bundle, and no folder is none either") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(open_bundle(folder.path()), BundleError);
  CHECK_THROWS_AS(open_bundle(folder.path() / "none"), BundleNotFoundError);
  CHECK_THROWS_AS(open_bundle(folder.path() / std::string("\0x", 2)), BundleNotFoundError);
  CHECK_THROWS_AS(open_bundle(std::string(5000, 'x')), BundleNotFoundError);
}

TEST_CASE("the digest is over all files that make pixels of a text") {
  const Json vectors = read_vectors("manifests.json");
  const Bundle bundle = parse_manifest("somewhere", sealed(vectors.at("base")));
  CHECK(bundle.digest().size() == 64);
  Json changed = vectors.at("base");
  changed["files"][kReference]["sha256"] = "other";
  CHECK(parse_manifest("somewhere", sealed(changed)).digest() == bundle.digest());
  changed["files"][kVocabulary]["sha256"] = "other";
  CHECK(parse_manifest("somewhere", sealed(changed)).digest() != bundle.digest());
}
