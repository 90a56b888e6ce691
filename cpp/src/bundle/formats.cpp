// The formats that programs are exported in: their names and their files.
#include "bundle/formats.hpp"

#include <map>

namespace ldm_engine {
namespace {

/// Names of the files of each format, inside the program's folder; the first one is the graph.
const std::map<std::string, std::vector<std::string>>& format_files() {
  static const std::map<std::string, std::vector<std::string>> names = {
      {"paddle", {"inference.json", "inference.pdiparams"}},
      {"onnx", {"model.onnx", "model.onnx.data"}},
      {"openvino", {"openvino_model.xml", "openvino_model.bin"}},
      {kInt8Format, {"openvino_model_int8.xml", "openvino_model_int8.bin"}},
      {kTensorRTFormat, {"tensorrt.json", "tensorrt.pdiparams"}},  // and the engines
  };
  return names;
}

}  // namespace

bool is_known_format(const std::string& format) { return format_files().count(format) > 0; }

bool are_program_files(const std::string& program, const std::string& format,
                       const std::vector<std::string>& names) {
  std::vector<std::string> expected = format_files().at(format);
  if (format == kTensorRTFormat) {
    for (std::size_t number = 0; expected.size() < names.size(); ++number) {
      expected.push_back("tensorrt_" + std::to_string(number) + ".trt");
    }
  }
  for (std::string& name : expected) name = program + "/" + name;
  return names == expected;
}

}  // namespace ldm_engine
