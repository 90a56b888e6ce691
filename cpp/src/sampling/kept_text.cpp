// The encoded empty text, which every guided picture needs, kept on disk for the next process.
#include "sampling/kept_text.hpp"

#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "ldm_engine/errors.hpp"
#include "ldm_engine_version.hpp"
#include "machine/cache.hpp"
#include "machine/cpu.hpp"
#include "machine/files.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr char kExtension[] = ".f32";

std::optional<fs::path> folder_of(const Opened& opened) {
  const std::string version = opened.runtime.version(), kind = processor();
  if (!opened.checks_hashes || !opened.options.cache || version.empty() || kind.empty()) {
    return std::nullopt;
  }
  return cache_folder("texts", LDM_ENGINE_VERSION "-" + opened.runtime.name() + "-" + version +
                                   "-" + opened.bundle.digest().substr(0, 16) + "-" +
                                   opened.options.precision + "-" +
                                   std::to_string(opened.options.threads) + "-" + kind);
}

}  // namespace

std::vector<float> unconditional_kv(const Opened& opened,
                                    const std::function<std::vector<float>()>& encode) {
  const std::optional<fs::path> folder = folder_of(opened);
  if (!folder) return encode();
  drop_unsealed(*folder, kExtension);
  const fs::path path = *folder / (std::string("empty") + kExtension);
  const ModelInfo& model = opened.bundle.model;
  const auto count = static_cast<std::size_t>(model.token_length * model.text_kv_width);
  if (const std::optional<std::string> bytes = read_whole(path);
      bytes && bytes->size() == count * sizeof(float)) {
    std::vector<float> values(count);
    std::memcpy(values.data(), bytes->data(), bytes->size());
    return values;
  }
  std::vector<float> values = encode();
  try {
    write_atomically(path, std::string_view(reinterpret_cast<const char*>(values.data()),
                                            values.size() * sizeof(float)));
    seal_files(*folder, kExtension);
  } catch (const OutputError&) {
    // It is encoded again next time.
  }
  return values;
}

}  // namespace ldm_engine
