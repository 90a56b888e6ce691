// The bundle: what a folder of exported programs consists of, and whether its files are whole.
// manifest.hpp reads its description; nothing here opens a program. Its twin is engine/ldm_engine/bundle/bundle.py.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ldm_engine {

inline constexpr char kManifest[] = "bundle.json";
inline constexpr char kSchedulerConfig[] = "scheduler_config.json";
inline constexpr char kVocabulary[] = "vocab.txt";
inline constexpr char kReference[] = "reference.json";

/// In the order in which an image passes through them.
inline constexpr std::array<const char*, 4> kPrograms = {"text_encoder", "time_encoder", "unet",
                                                         "vae_decoder"};
/// The UNet is there in this format too where an export was asked for int8.
inline constexpr char kInt8Format[] = "openvino_int8";
/// Programs for one kind of GPU; nothing here runs them.
inline constexpr char kTensorRTFormat[] = "tensorrt";
/// Largest image height and width, in pixels; attention over more would need terabytes.
inline constexpr int kMaxSize = 8192;

using Shape = std::vector<std::int64_t>;

/// A program's input or output; -1 in the shape means any size.
struct TensorSpec {
  std::string name;
  std::string dtype;  ///< "float32" or "int64"
  Shape shape;

  bool operator==(const TensorSpec& other) const {
    return name == other.name && dtype == other.dtype && shape == other.shape;
  }
};

/// One program in one format: its files relative to the bundle, and how it stores weights.
struct FormatInfo {
  std::vector<std::string> files;  ///< graph first
  std::string weights;             ///< "fp32", "fp16" or "int8"; TensorRT's: what they compute in
};

/// A program's inputs and outputs, in order.
struct Contract {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  bool operator==(const Contract& other) const {
    return inputs == other.inputs && outputs == other.outputs;
  }
};

/// One program's tensors and the formats it is there in.
struct ProgramInfo {
  Contract tensors;
  std::map<std::string, FormatInfo> formats;
};

/// What the engine must know of the model, whatever its weights.
struct ModelInfo {
  std::string source;  ///< the checkpoint's id or folder name, for people
  int latent_channels = 0;
  int scale_factor = 0;   ///< pixels a latent cell spans in each direction
  int size_multiple = 0;  ///< latent height and width are multiples of this
  int sample_size = 0;    ///< default latent height and width
  int token_length = 0;
  int vocab_size = 0;
  bool lowercase = false;  ///< the tokenizer lower-cases
  int time_shift_width = 0;
  int text_kv_width = 0;

  /// Image height and width are multiples of this.
  std::int64_t pixel_multiple() const { return std::int64_t{size_multiple} * scale_factor; }
  /// Image height and width where none are asked for, in pixels.
  std::int64_t default_size() const { return std::int64_t{sample_size} * scale_factor; }
};

/// Size and hash of one file of the bundle.
struct FileInfo {
  std::string sha256;
  std::int64_t bytes = 0;
};

/// The contract of the four programs.
std::map<std::string, Contract> program_tensors(const ModelInfo& model);

/// All formats, in the order in which manifests and messages list them.
inline constexpr std::array<const char*, 5> kFormats = {"paddle", "onnx", "openvino", kInt8Format,
                                                        kTensorRTFormat};

/// Names of the files of each format, inside the program's folder; the first one is the graph.
const std::map<std::string, std::vector<std::string>>& format_files();

/// Where a program's files lie in a bundle, graph first.
std::vector<std::string> program_file_names(const std::string& program, const std::string& format);

/// Whether `names` are those of a program in a format; TensorRT's has any number of engines.
bool are_program_files(const std::string& program, const std::string& format,
                       const std::vector<std::string>& names);

/// What is different of another bundle.json in the same place: inode, device, size, time.
using ManifestStamp = std::array<std::int64_t, 4>;

/// The stamp of the manifest in `folder`, without reading it; none if there is none.
std::optional<ManifestStamp> manifest_stamp(const std::filesystem::path& folder);

/// A validated manifest and the folder it describes.
struct Bundle {
  std::filesystem::path path;
  ModelInfo model;
  std::map<std::string, ProgramInfo> programs;
  std::map<std::string, FileInfo> files;
  std::optional<ManifestStamp> stamp;  ///< of the manifest when it was read; none if from memory

  /// The formats that every program is present in.
  std::vector<std::string> formats() const;

  /// One hash over the hashes of all files that make the pixels.
  std::string digest() const;

  /// One hash over the hashes of the files `names`, whatever their order.
  std::string files_digest(std::vector<std::string> names) const;

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

/// `items` with ", " between them, for messages.
std::string joined(const std::vector<std::string>& items, const char* separator = ", ");

}  // namespace ldm_engine
