// bundle.json read with distrust, in every format version ever written.
#include "bundle/manifest.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "bundle/seals.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "machine/lists.hpp"
#include "machine/messages.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr int kFormatVersion = 2;           // this one and all before it are read
constexpr std::size_t kMaxNameBytes = 255;  // more, file systems do not take
constexpr double kNoFigure = 1e300;  // the error of what failed or gave no finite values

/// What is wrong with a manifest, before its file is named.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The manifest has what would change pictures and this version cannot read.
class NewerFault : public std::runtime_error {
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

bool boolean(const Json& value) {
  if (!value.is_boolean()) refuse_type(value, "boolean");
  return value.get<bool>();
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

void refuse_unknown(const std::string& owner, const Json& raw,
                    const std::vector<std::string>& accepted) {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : object(raw)) {
    if (!contains(accepted, name)) {
      unknown.push_back("`" + name + "`");
    }
  }
  if (unknown.empty()) return;
  throw NewerFault(owner + " has " + joined(unknown) + "; " + joined(accepted) + " are accepted");
}

const std::string& not_empty(const Json& raw, const char* name) {
  const std::string& value = text(member(raw, name));
  if (value.empty()) throw Fault("`" + std::string(name) + "` is empty");
  return value;
}

int within_int(const Json& raw, const char* name) {
  const std::int64_t value = whole_number(member(raw, name));
  if (value < 0 || value > INT32_MAX) {
    throw Fault("`" + std::string(name) + "` is " + std::to_string(value) +
                ", which is negative or too large");
  }
  return static_cast<int>(value);
}

std::vector<AddedToken> parse_added_tokens(const Json& raw) {
  std::vector<AddedToken> tokens;
  std::set<std::string> contents;
  std::set<std::int64_t> ids;
  for (const Json& entry : list(raw)) {
    refuse_unknown("an added token", entry,
                   {"content", "id", "special", "normalized", "single_word", "lstrip", "rstrip"});
    AddedToken token;
    token.content = not_empty(entry, "content");
    token.id = within_int(entry, "id");
    for (const auto& [name, place] :
         {std::pair{"special", &token.special}, std::pair{"normalized", &token.normalized},
          std::pair{"single_word", &token.single_word}, std::pair{"lstrip", &token.lstrip},
          std::pair{"rstrip", &token.rstrip}}) {
      if (entry.contains(name)) *place = boolean(entry.at(name));
    }
    if (!contents.insert(token.content).second || !ids.insert(token.id).second) {
      throw Fault("two added tokens have the same `content` or the same `id`");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// All of it must be understood: what is ignored here would change ids, and so pictures.
TokenizerInfo parse_tokenizer(const Json& raw) {
  const std::string& kind = text(member(raw, "kind"));
  if (kind != "wordpiece") {
    throw NewerFault("its tokenizer is of the kind `" + kind + "`; wordpiece is accepted");
  }
  static const std::vector<std::string> kNames = {
      "kind",          "lowercase", "strip_accents", "handle_chinese_chars",
      "clean_text",    "max_input_chars_per_word",   "continuing_subword_prefix",
      "unk_token",     "cls_token", "sep_token",     "pad_token",
      "added_tokens"};
  refuse_unknown("its tokenizer", raw, kNames);
  TokenizerInfo info;
  info.kind = kind;
  info.lowercase = boolean(member(raw, "lowercase"));
  if (raw.contains("strip_accents") && !raw.at("strip_accents").is_null()) {
    info.strip_accents = boolean(raw.at("strip_accents"));
  }
  for (const auto& [name, place] : {std::pair{"handle_chinese_chars", &info.handle_chinese_chars},
                                    std::pair{"clean_text", &info.clean_text}}) {
    if (raw.contains(name)) *place = boolean(raw.at(name));
  }
  if (raw.contains("max_input_chars_per_word")) {
    info.max_input_chars_per_word = within_int(raw, "max_input_chars_per_word");
  }
  for (const auto& [name, place] :
       {std::pair{"continuing_subword_prefix", &info.continuing_subword_prefix},
        std::pair{"unk_token", &info.unk_token}, std::pair{"cls_token", &info.cls_token},
        std::pair{"sep_token", &info.sep_token}, std::pair{"pad_token", &info.pad_token}}) {
    if (raw.contains(name)) *place = not_empty(raw, name);
  }
  if (raw.contains("added_tokens")) info.added_tokens = parse_added_tokens(raw.at("added_tokens"));
  return info;
}

ProgramInfo parse_program(const std::string& name, const Json& raw, const Tensors& expected) {
  ProgramInfo program;
  program.tensors = {parse_tensors(member(raw, "inputs")), parse_tensors(member(raw, "outputs"))};
  if (!(program.tensors == expected)) {
    throw Fault("the tensors of " + name + " are not those that the model's facts lead to");
  }
  for (const auto& [format, entry] : object(member(raw, "formats"))) {
    FormatInfo info;
    for (const Json& file : list(member(entry, "files"))) info.files.push_back(safe_name(file));
    if (is_known_format(format) && !are_program_files(name, format, info.files)) {
      throw Fault("the " + format + " files of " + name + " are " + joined(info.files));
    }
    info.weights = text(member(entry, "weights"));
    program.formats.emplace(format, std::move(info));
  }
  return program;
}

double number(const Json& value) {
  if (!value.is_number()) refuse_type(value, "number");
  return value.get<double>();
}

/// How far one program lies from the original model, if that is outside its tolerance; or nothing.
std::string excess(const Json& parity) {
  const double error = number(member(parity, "relative_l2_error"));
  const double tolerance = number(member(parity, "tolerance"));
  const std::string where = parity.contains("case") ? text(parity.at("case")) : "";
  const std::string note = parity.contains("note") ? text(parity.at("note")) : "";
  if (error <= tolerance) return "";
  std::string figures =
      "relative error " + number_text(error, 3) + ", tolerance " + number_text(tolerance, 3);
  if (error >= kNoFigure) figures = note.empty() ? "no finite values" : note;
  return where.empty() ? figures : where + ": " + figures;
}

bool is_optional(const std::string& program) {
  const auto& table = program_contracts();
  return std::any_of(table.begin(), table.end(), [&](const ProgramContract& contract) {
    return contract.is_optional && contract.name == program;
  });
}

/// What the export measured outside its tolerance, by runtime and precision: of optional programs,
/// or of all others.
Outside parse_outside(const Json& raw, bool of_optional) {
  Outside outside;
  for (const auto& [runtime, precisions] : object(raw)) {
    for (const auto& [precision, programs] : object(precisions)) {
      std::vector<std::string> found;
      for (const auto& [program, parity] : object(programs)) {
        const std::string said = excess(parity);
        if (said.empty() || is_optional(program) != of_optional) continue;
        found.push_back(program + ", " + said);
      }
      if (!found.empty()) outside[{runtime, precision}] = joined(found, "; ");
    }
  }
  return outside;
}

/// Versions and what a format keeps for itself: only their form is checked here.
void check_remarks(const Json& raw) {
  for (const auto& [name, version] : object(member(raw, "versions"))) text(version);
  if (raw.contains("formats")) {
    for (const auto& [name, facts] : object(raw.at("formats"))) object(facts);
  }
}

/// The programs of the table; others are for newer versions.
std::map<std::string, ProgramInfo> parse_programs(const Json& raw, const ModelInfo& model) {
  std::map<std::string, ProgramInfo> programs;
  for (const ProgramContract& contract : program_contracts()) {
    if (contract.is_optional && !object(raw).count(contract.name)) continue;
    programs[contract.name] =
        parse_program(contract.name, member(raw, contract.name), contract.tensors(model));
  }
  return programs;
}

Bundle parse_bundle(const fs::path& folder, const Json& raw) {
  Bundle bundle;
  bundle.path = folder;
  bundle.model = parse_model(member(raw, "model"));
  bundle.tokenizer = parse_tokenizer(member(raw, "tokenizer"));
  bundle.programs = parse_programs(member(raw, "programs"), bundle.model);
  for (const auto& [name, entry] : object(member(raw, "files"))) {
    bundle.files[safe_name(name)] = {text(member(entry, "sha256")),
                                     whole_number(member(entry, "bytes"))};
  }
  bundle.outside = parse_outside(member(raw, "parity"), false);
  bundle.optional_outside = parse_outside(member(raw, "parity"), true);
  check_remarks(raw);
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

/// A manifest of version 1 as version 2 has it: there the tokenizer was a fact of the model, and
/// one format's facts were at the top.
void upgrade_from_version_1(Json& raw) {
  const Json lowercase = member(member(raw, "model"), "lowercase");
  raw["tokenizer"] = {{"kind", "wordpiece"}, {"lowercase", lowercase}};
  raw["formats"] = Json::object();
  if (raw.contains(kTensorRTFormat)) raw["formats"][kTensorRTFormat] = raw.at(kTensorRTFormat);
}

int format_version(const Json& raw, const fs::path& path) {
  const auto version = raw.find("format_version");
  const bool is_whole = version != raw.end() && version->is_number_integer();
  if (is_whole && *version >= 1 && *version <= kFormatVersion) return version->get<int>();
  throw BundleError(path.string() + " has format version " +
                    (version == raw.end() ? "none" : shown(*version)) +
                    "; this version of ldm-engine reads 1 to " + std::to_string(kFormatVersion) +
                    ". Upgrade ldm-engine if the bundle is newer, else export it again.");
}

}  // namespace

Bundle parse_manifest(const fs::path& folder, std::string_view content) {
  const fs::path path = folder / kManifest;
  Json raw = parse_json_object(content, path);
  const int version = format_version(raw, path);
  if (!is_sealed(content, raw, kManifestSeal)) {
    throw BundleError(path.string() +
                      " was altered after it was written: it does not match its recorded sha256. "
                      "Copy the bundle again from its source, or export it again.");
  }
  try {
    if (version == 1) upgrade_from_version_1(raw);
    return parse_bundle(folder, raw);
  } catch (const NewerFault& fault) {
    throw BundleError(path.string() +
                      " was written for a newer version of ldm-engine: " + fault.what() +
                      ". Upgrade ldm-engine, or export the bundle again with this version.");
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
  const fs::path absolute = fs::absolute(folder, error);
  Bundle bundle = parse_manifest(error ? folder : absolute, read_file(folder / kManifest));
  bundle.stamp = stamp;
  return bundle;
}

}  // namespace ldm_engine
