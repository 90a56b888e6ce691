// An opened bundle: what its manifest says, and whether its files are whole. manifest.hpp reads the
// manifest; nothing here opens a program. Its twin is engine/ldm_engine/bundle/bundle.py.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle/contract.hpp"
#include "bundle/formats.hpp"

namespace ldm_engine {

inline constexpr char kManifest[] = "bundle.json";
inline constexpr char kSchedulerConfig[] = "scheduler_config.json";
inline constexpr char kVocabulary[] = "vocab.txt";
inline constexpr char kReference[] = "reference.json";
inline constexpr char kPromptsFile[] = "calibration_prompts.txt";
inline constexpr char kSolversFile[] = "solvers.json";  ///< has its own seal; not in the manifest

/// One program in one format: its files relative to the bundle, and how it stores weights.
struct FormatInfo {
  std::vector<std::string> files;  ///< graph first
  std::string weights;             ///< "fp32", "fp16" or "int8"; TensorRT's: what they compute in
};

/// One program's tensors and the formats it is there in.
struct ProgramInfo {
  Tensors tensors;
  std::map<std::string, FormatInfo> formats;
};

/// Size and hash of one file of the bundle.
struct FileInfo {
  std::string sha256;
  std::int64_t bytes = 0;
};

/// What is different of another bundle.json in the same place: inode, device, size, time.
using ManifestStamp = std::array<std::int64_t, 4>;

/// The stamp of the manifest in `folder`, without reading it; none if there is none.
std::optional<ManifestStamp> manifest_stamp(const std::filesystem::path& folder);

/// Runtime and precision -> what the export measured outside its tolerance in that.
using Outside = std::map<std::pair<std::string, std::string>, std::string>;

/// A validated manifest and the folder it describes.
struct Bundle {
  std::filesystem::path path;  ///< absolute: a later change of the working directory does not count
  ModelInfo model;
  TokenizerInfo tokenizer;
  std::map<std::string, ProgramInfo> programs;
  std::map<std::string, FileInfo> files;
  Outside outside;           ///< pictures would be wrong there, and are not made
  Outside optional_outside;  ///< of optional programs, which are not used there
  std::optional<ManifestStamp> stamp;  ///< of the manifest when it was read; none if from memory

  /// The formats that every program which a bundle must have is present in.
  std::vector<std::string> formats() const;

  /// One hash over all that makes pixels of a text: files, and what the tokenizer does.
  std::string digest() const;

  /// One hash over the files of one program in all formats.
  std::string program_digest(const std::string& program) const;

  /// One hash over the hashes of the files `names`, whatever their order.
  std::string files_digest(std::vector<std::string> names, const std::string& last_line = {}) const;

  /// The files of one program in one format, graph first; each is there and of its size.
  /// Throws BundleError if the bundle does not hold that format, or not whole, or if another took
  /// its place since it was opened: what is in memory would not fit what is read now.
  std::vector<std::filesystem::path> program_files(const std::string& program,
                                                   const std::string& format) const;

  /// Compare size and sha256 of `names` with the manifest.
  /// Throws BundleError naming every missing or altered file.
  void check_files(const std::vector<std::string>& names) const;

  /// check_files, without those that were whole when they were last changed.
  void check_changed_files(const std::vector<std::string>& names) const;

 private:
  std::string fault(const std::string& name) const;
};

}  // namespace ldm_engine
