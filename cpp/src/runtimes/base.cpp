// The runtime contract: what the loop needs of a library that executes programs.
#include "runtimes/base.hpp"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <new>
#include <sstream>
#include <utility>

#include "ldm_engine/errors.hpp"
#include "machine/cpu.hpp"
#include "machine/forks.hpp"

namespace ldm_engine {
namespace {

static_assert(sizeof(std::size_t) == 8, "ldm-engine counts in 64 bits; build for such a machine");

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector

bool fits(const Shape& given, const Shape& accepted) {
  if (given.size() != accepted.size()) return false;
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i] < 1 || (accepted[i] != -1 && accepted[i] != given[i])) return false;
  }
  return true;
}

}  // namespace

void Tensor::Free::operator()(void* data) const { std::free(data); }

Tensor::Tensor(const TensorSpec& spec, Shape shape)
    : name_(spec.name),
      shape_(std::move(shape)),
      is_float_(spec.dtype == "float32"),
      count_(count_values(shape_)) {
  const std::size_t bytes = count_ * (is_float_ ? sizeof(float) : sizeof(std::int64_t));
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(std::aligned_alloc(kAlignment, rounded));
  if (!data_) throw std::bad_alloc();
  std::memset(data_.get(), 0, rounded);
}

Program::Program(std::string name, const Bundle& bundle)
    : name_(std::move(name)), process_(process_number()), bundle_(bundle) {}

void Program::run() {
  check_process();
  compute();
}

void Program::check_process() const {
  if (process_ != process_number()) throw ClosedError(inherited("The program " + name_));
}

void Program::allocate(const Shapes& shapes) {
  check_process();
  if (shapes == shapes_) return;
  const Tensors& tensors = bundle_.programs.at(name_).tensors;
  shapes_.clear();  // until all is bound again
  inputs_.clear();
  outputs_.clear();
  for (const auto* specs : {&tensors.inputs, &tensors.outputs}) {
    for (const TensorSpec& spec : *specs) {
      const auto given = shapes.find(spec.name);
      if (given == shapes.end() || !fits(given->second, spec.shape)) {
        throw ShapeError("`" + spec.name + "` of program " + name_ + " has shape " +
                         (given == shapes.end() ? "none" : shape_text(given->second)) + "; " +
                         shape_text(spec.shape) + " is accepted, -1 meaning any size.");
      }
      (specs == &tensors.inputs ? inputs_ : outputs_).emplace_back(spec, given->second);
    }
  }
  bind();
  shapes_ = shapes;
}

Shapes Program::input_shapes() const {
  Shapes shapes;
  for (const Tensor& tensor : inputs_) shapes[tensor.name()] = tensor.shape();
  return shapes;
}

const Tensor& Program::find(const std::vector<Tensor>& tensors, const std::string& name) const {
  for (const Tensor& tensor : tensors) {
    if (tensor.name() == name) return tensor;
  }
  throw Error("The program " + name_ + " has no tensor `" + name + "` allocated.");
}

std::string Runtime::format_of(const std::string&, const std::string&) const { return format(); }

std::string program_precision(const std::string& program, const std::string& precision) {
  if (program == "time_encoder") return "fp32";
  if (precision == "int8" && program != "unet") return supports_bf16() ? "bf16" : "fp32";
  return precision;
}

std::int64_t weight_bytes(const Bundle& bundle, const Runtime& runtime, const std::string& program,
                          const std::string& precision) {
  const std::string format = runtime.format_of(program, precision);
  std::int64_t stored = 0;
  for (const auto& path : bundle.program_files(program, format)) {
    stored += static_cast<std::int64_t>(std::filesystem::file_size(path));
  }
  const bool is_widened = bundle.programs.at(program).formats.at(format).weights == "fp16" &&
                          program_precision(program, precision) == "fp32";
  return is_widened ? 2 * stored : stored;
}

std::string last_line(const char* message) {
  constexpr std::size_t kLongest = 300;
  std::istringstream lines(message);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin != std::string::npos) last = line.substr(begin, kLongest);
  }
  return last.empty() ? "it gave no reason." : last;
}

std::string shape_text(const Shape& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

std::size_t count_values(const Shape& shape) {
  constexpr std::size_t kMost = std::numeric_limits<std::ptrdiff_t>::max() / sizeof(std::int64_t);
  std::size_t count = 1;
  for (const std::int64_t size : shape) {
    const auto factor = static_cast<std::size_t>(size < 0 ? 0 : size);
    if (factor != 0 && count > kMost / factor) {
      throw ShapeError("An array of shape " + shape_text(shape) +
                       " is larger than any memory; ask for a smaller height, width or batch.");
    }
    count *= factor;
  }
  return count;
}

}  // namespace ldm_engine
