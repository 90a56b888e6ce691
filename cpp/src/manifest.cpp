// bundle.json read with distrust; docs/bundle-format.md documents it.
#include "manifest.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "files.hpp"
#include "ldm_engine/errors.hpp"
#include "sha256.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr int kFormatVersion = 1;
constexpr std::size_t kMaxNameBytes = 255;  // more, file systems do not take
constexpr char kSeal[] = "manifest_sha256";

/// What is wrong with a manifest, before its file is named.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse_type(const Json& value, const char* wanted) {
  throw Fault(shown(value) + " is a " + type_name(value) + ", not a " + wanted);
}

const Json::object_t& object(const Json& value) {
  if (!value.is_object()) refuse_type(value, "object");
  return value.get_ref<const Json::object_t&>();
}

const Json& member(const Json& value, const std::string& name) {
  const Json::object_t& members = object(value);
  const auto found = members.find(name);
  if (found == members.end()) throw Fault(in_quotes(name) + " is missing");
  return found->second;
}

const Json::array_t& list(const Json& value) {
  if (!value.is_array()) refuse_type(value, "list");
  return value.get_ref<const Json::array_t&>();
}

const std::string& text(const Json& value) {
  if (!value.is_string()) refuse_type(value, "string");
  return value.get_ref<const std::string&>();
}

std::int64_t whole_number(const Json& value) {
  if (!value.is_number_integer()) refuse_type(value, "whole number");
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) {
    throw Fault(shown(value) + " is too large");
  }
  return value.get<std::int64_t>();
}

/// A file name that stays inside the bundle, without "." and doubled slashes.
std::string safe_name(const Json& value) {
  const std::string& name = text(value);
  std::string safe;
  bool leads_outside = name.empty() || name.front() == '/' ||
                       name.find('\\') != std::string::npos || name.find('\0') != std::string::npos;
  for (std::size_t start = 0; start <= name.size();) {
    const std::size_t end = std::min(name.find('/', start), name.size());
    const std::string part = name.substr(start, end - start);
    leads_outside = leads_outside || part == "..";
    if (!part.empty() && part != ".") safe += (safe.empty() ? "" : "/") + part;
    start = end + 1;
  }
  if (leads_outside || safe.empty()) {
    throw Fault("file name " + in_quotes(name) + " leads outside the bundle");
  }
  if (safe.size() > kMaxNameBytes) {
    throw Fault("file name " + in_quotes(name) + " is longer than " +
                std::to_string(kMaxNameBytes) + " bytes");
  }
  return safe;
}

int positive(const Json& model, const char* name) {
  const Json& value = member(model, name);
  if (!value.is_number()) refuse_type(value, "whole number");
  const double size = value.get<double>();
  if (!(size > 0 && size <= INT32_MAX)) {
    throw Fault("`" + std::string(name) + "` is " + shown(value) + ", not a positive number");
  }
  return static_cast<int>(whole_number(value));
}

ModelInfo parse_model(const Json& raw) {
  ModelInfo model;
  model.source = text(member(raw, "source"));
  model.latent_channels = positive(raw, "latent_channels");
  model.scale_factor = positive(raw, "scale_factor");
  model.size_multiple = positive(raw, "size_multiple");
  model.sample_size = positive(raw, "sample_size");
  model.token_length = positive(raw, "token_length");
  model.vocab_size = positive(raw, "vocab_size");
  const Json& lowercase = member(raw, "lowercase");
  if (!lowercase.is_boolean()) refuse_type(lowercase, "boolean");
  model.lowercase = lowercase.get<bool>();
  model.time_shift_width = positive(raw, "time_shift_width");
  model.text_kv_width = positive(raw, "text_kv_width");
  if (model.default_size() > kMaxSize) {
    throw Fault("images of " + std::to_string(model.default_size()) + " pixels are larger than " +
                std::to_string(kMaxSize));
  }
  if (model.sample_size % model.size_multiple != 0) {
    throw Fault("latents of " + std::to_string(model.sample_size) +
                " (`sample_size`) do not divide by " + std::to_string(model.size_multiple) +
                ", as the UNet's levels need");
  }
  return model;
}

std::vector<TensorSpec> parse_tensors(const Json& raw) {
  std::vector<TensorSpec> tensors;
  for (const Json& entry : list(raw)) {
    TensorSpec tensor{text(member(entry, "name")), text(member(entry, "dtype")), {}};
    for (const Json& size : list(member(entry, "shape"))) {
      tensor.shape.push_back(whole_number(size));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

ProgramInfo parse_program(const std::string& name, const Json& raw, const Contract& expected) {
  ProgramInfo program;
  program.tensors = {parse_tensors(member(raw, "inputs")), parse_tensors(member(raw, "outputs"))};
  if (!(program.tensors == expected)) {
    throw Fault("the tensors of " + name + " are not those that the model's facts lead to");
  }
  for (const auto& [format, entry] : object(member(raw, "formats"))) {
    FormatInfo info;
    for (const Json& file : list(member(entry, "files"))) info.files.push_back(safe_name(file));
    if (format_files().count(format) && !are_program_files(name, format, info.files)) {
      throw Fault("the " + format + " files of " + name + " are " + joined(info.files));
    }
    info.weights = text(member(entry, "weights"));
    program.formats.emplace(format, std::move(info));
  }
  return program;
}

/// Parity and versions are for people: only their form is checked.
void check_remarks(const Json& raw) {
  for (const auto& [runtime, precisions] : object(member(raw, "parity"))) {
    for (const auto& [precision, programs] : object(precisions)) {
      for (const auto& [program, parity] : object(programs)) {
        for (const char* name : {"relative_l2_error", "tolerance"}) {
          const Json& value = member(parity, name);
          if (!value.is_number()) refuse_type(value, "number");
        }
      }
    }
  }
  for (const auto& [name, version] : object(member(raw, "versions"))) text(version);
}

void check_built_precision(const std::string& precision) {
  if (precision != "fp16" && precision != "fp32") {
    throw Fault("TensorRT programs cannot be in " + in_quotes(precision));
  }
}

/// How TensorRT programs were built is there if they are, and has the right form.
void check_tensorrt(const Bundle& bundle, const Json& raw) {
  const std::vector<std::string> formats = bundle.formats();
  const auto holds = [&](const char* format) {
    return std::find(formats.begin(), formats.end(), format) != formats.end();
  };
  const auto found = raw.find(kTensorRTFormat);
  if (holds(kTensorRTFormat) != (found != raw.end())) {
    throw Fault("there are TensorRT programs without how they were built, or it alone");
  }
  if (found == raw.end()) return;
  check_built_precision(text(member(*found, "precision")));
  for (const char* name : {"gpu", "tensorrt", "cuda"}) text(member(*found, name));
  for (const char* name : {"batch", "size"}) {
    std::vector<std::int64_t> sizes;
    for (const Json& size : list(member(*found, name))) sizes.push_back(whole_number(size));
    if (sizes.size() != 3 || sizes[0] < 1 || !std::is_sorted(sizes.begin(), sizes.end())) {
      throw Fault("`" + std::string(name) + "` of the TensorRT programs is no range");
    }
  }
  if (!holds("paddle")) throw Fault("there are TensorRT programs without Paddle's");
  for (const auto& [name, program] : bundle.programs) {
    check_built_precision(program.formats.at(kTensorRTFormat).weights);
  }
}

Bundle parse_bundle(const fs::path& folder, const Json& raw) {
  Bundle bundle;
  bundle.path = folder;
  bundle.model = parse_model(member(raw, "model"));
  const auto contracts = program_tensors(bundle.model);
  const Json& programs = member(raw, "programs");
  for (const char* name : kPrograms) {
    bundle.programs[name] = parse_program(name, member(programs, name), contracts.at(name));
  }
  for (const auto& [name, entry] : object(member(raw, "files"))) {
    bundle.files[safe_name(name)] = {text(member(entry, "sha256")),
                                     whole_number(member(entry, "bytes"))};
  }
  check_remarks(raw);
  check_tensorrt(bundle, raw);
  std::vector<std::string> needed = {kSchedulerConfig, kVocabulary, kReference};
  for (const auto& [name, program] : bundle.programs) {
    for (const auto& [format, info] : program.formats) {
      needed.insert(needed.end(), info.files.begin(), info.files.end());
    }
  }
  for (const std::string& name : needed) {
    if (!bundle.files.count(name)) throw Fault(in_quotes(name) + " is missing");
  }
  return bundle;
}

}  // namespace

std::string seal_of_manifest(std::string_view text, const std::string& told) {
  const std::string begin = std::string("\"") + kSeal + "\": \"";
  const std::string sealed = begin + told + "\"";
  const std::size_t at = text.find(sealed);
  if (at == std::string_view::npos) return sha256_of_text(text);
  const std::string unsealed = begin + std::string(64, '0') + "\"";
  Sha256 hash;
  hash.update(text.data(), at);
  hash.update(unsealed.data(), unsealed.size());
  const std::string_view rest = text.substr(at + sealed.size());
  hash.update(rest.data(), rest.size());
  return hash.hex();
}

Bundle parse_manifest(const fs::path& folder, std::string_view content) {
  const fs::path path = folder / kManifest;
  const Json raw = parse_json_object(content, path);
  const auto version = raw.find("format_version");
  if (version == raw.end() || !version->is_number_integer() || *version != kFormatVersion) {
    throw BundleError(path.string() + " has format version " +
                      (version == raw.end() ? "none" : shown(*version)) +
                      "; this version of ldm-engine reads " + std::to_string(kFormatVersion) +
                      ". Upgrade ldm-engine if the bundle is newer, else export it again.");
  }
  const auto told = raw.find(kSeal);
  const std::string hash = told != raw.end() && told->is_string() ? told->get<std::string>() : "";
  if (seal_of_manifest(content, hash) != hash) {
    throw BundleError(path.string() +
                      " was altered after it was written: it does not have the sha256 that it "
                      "tells. Copy the bundle again from its source, or export it again.");
  }
  try {
    return parse_bundle(folder, raw);
  } catch (const Fault& fault) {
    throw BundleError(path.string() + " is not a valid manifest: " + fault.what() +
                      ". Copy the bundle again, or export it again.");
  }
}

Bundle open_bundle(const fs::path& folder) {
  constexpr char kRemedy[] = "Make one with: ldm-engine export CHECKPOINT BUNDLE";
  std::error_code error;
  if (has_nul(folder) || !fs::is_directory(folder, error)) {
    throw BundleNotFoundError("There is no bundle folder " + in_quotes(folder.string()) + ". " +
                              kRemedy);
  }
  if (!fs::is_regular_file(folder / kManifest, error)) {
    throw BundleError(folder.string() + " is not a finished bundle: it has no " + kManifest +
                      ", which an export writes last. " + kRemedy);
  }
  const std::optional<ManifestStamp> stamp = manifest_stamp(folder);
  Bundle bundle = parse_manifest(folder, read_file(folder / kManifest));
  bundle.stamp = stamp;
  return bundle;
}

}  // namespace ldm_engine
