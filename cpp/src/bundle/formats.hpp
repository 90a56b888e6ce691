// The formats that programs are exported in: their names, and those of their files.
// Its twin is engine/ldm_engine/bundle/formats.py.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace ldm_engine {

/// The UNet is there in this format too where an export was made with int8.
inline constexpr char kInt8Format[] = "openvino_int8";
/// Programs for one kind of GPU; nothing here runs them.
inline constexpr char kTensorRTFormat[] = "tensorrt";

/// All formats, in the order in which manifests and messages list them.
inline constexpr std::array<const char*, 5> kFormats = {"paddle", "onnx", "openvino", kInt8Format,
                                                        kTensorRTFormat};

/// Whether this version can check the files of `format`.
bool is_known_format(const std::string& format);

/// Whether `names` are those of a program in one of kFormats; TensorRT's has any number of engines.
bool are_program_files(const std::string& program, const std::string& format,
                       const std::vector<std::string>& names);

}  // namespace ldm_engine
