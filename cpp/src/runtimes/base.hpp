// The runtime contract: what the loop needs of a library that executes programs.
// Its twin is engine/ldm_engine/runtimes/base.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace ldm_engine {

/// Shapes of inputs and outputs by name.
using Shapes = std::map<std::string, Shape>;

/// An array that a program reads or writes, aligned for vector instructions.
class Tensor {
 public:
  Tensor(const TensorSpec& spec, Shape shape);

  const std::string& name() const { return name_; }
  const Shape& shape() const { return shape_; }
  bool is_float() const { return is_float_; }
  std::size_t count() const { return count_; }  ///< of values
  void* data() const { return data_.get(); }
  float* floats() const { return static_cast<float*>(data_.get()); }
  std::int64_t* integers() const { return static_cast<std::int64_t*>(data_.get()); }

 private:
  struct Free {
    void operator()(void* data) const;
  };
  std::string name_;
  Shape shape_;
  bool is_float_;
  std::size_t count_;
  std::unique_ptr<void, Free> data_;
};

/// One opened program. **Its outputs are overwritten by the next run().**
///
/// Call allocate() first. A program is not thread-safe; give each thread a clone().
class Program {
 public:
  Program(std::string name, const Bundle& bundle);
  virtual ~Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// Make the tensors for these `shapes`, of every input and output by name.
  ///
  /// Does nothing when the shapes are those of the last call. Otherwise earlier tensors are gone.
  /// Throws ShapeError if a name or a fixed dimension does not fit the program.
  void allocate(const Shapes& shapes);

  const Tensor& input(const std::string& name) const { return find(inputs_, name); }
  const Tensor& output(const std::string& name) const { return find(outputs_, name); }

  /// Compute the outputs from the inputs.
  /// Throws ClosedError in a process forked from the one that opened the program.
  void run();

  /// Another handle over the same weights, for another thread; call it in one thread only.
  virtual std::unique_ptr<Program> clone() const = 0;

 protected:
  /// Connect inputs and outputs to the library, without copies where it can.
  virtual void bind() = 0;

  /// What run() does.
  virtual void compute() = 0;

  const std::string& name() const { return name_; }
  const Bundle& bundle() const { return bundle_; }
  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  Shapes input_shapes() const;

 private:
  const Tensor& find(const std::vector<Tensor>& tensors, const std::string& name) const;

  void check_process() const;

  std::string name_;
  int process_;
  const Bundle& bundle_;  // outlives the programs: a pipeline and its clones share it
  Shapes shapes_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
};

/// Checked options.
struct RuntimeOptions {
  std::string precision = "fp32";
  int threads = 1;
  bool cache = true;  ///< keep compiled models in the user's cache folder
};

/// A way to execute programs.
class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string name() const = 0;
  virtual std::string version() const = 0;  ///< of the library; nothing if it does not tell
  virtual std::string format() const = 0;   ///< the bundle format it reads
  virtual std::vector<std::string> precisions() const = 0;

  /// The bundle format that `program` is opened in to compute in `precision`.
  virtual std::string format_of(const std::string& program, const std::string& precision) const;

  /// Prepare one program of `bundle`, which must outlive it.
  virtual std::unique_ptr<Program> open(const Bundle& bundle, const std::string& program,
                                        const RuntimeOptions& options) const = 0;
};

/// What `program` runs in where `precision` was chosen: "fp32", "bf16" or "int8".
///
/// The time encoder always runs in fp32: in bf16 its frequencies are off by whole units. In int8
/// only the UNet does, and all else runs in bf16 where the CPU has it.
std::string program_precision(const std::string& program, const std::string& precision);

/// About what one copy of a program's weights takes in memory.
std::int64_t weight_bytes(const Bundle& bundle, const Runtime& runtime, const std::string& program,
                          const std::string& precision);

/// What a library said went wrong: its last line, not too long.
std::string last_line(const char* message);

/// A shape for messages: "[1, 4, 32, 32]".
std::string shape_text(const Shape& shape);

/// The number of values in a shape. Throws ShapeError if no memory could hold them.
std::size_t count_values(const Shape& shape);

}  // namespace ldm_engine
