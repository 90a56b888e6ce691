// The runtime contract: what the loop asks of a library that executes programs.
// Its twin is engine/ldm_engine/runtimes/base.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"

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
  virtual void run() = 0;

  /// Another handle over the same weights, for another thread; call it in one thread only.
  virtual std::unique_ptr<Program> clone() const = 0;

 protected:
  /// Connect inputs and outputs to the library, without copies where it can.
  virtual void bind() = 0;

  const std::string& name() const { return name_; }
  const Bundle& bundle() const { return bundle_; }
  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  Shapes input_shapes() const;

 private:
  const Tensor& find(const std::vector<Tensor>& tensors, const std::string& name) const;

  std::string name_;
  const Bundle& bundle_;  // outlives the programs: a pipeline and its clones share it
  Shapes shapes_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
};

/// A shape for messages: "[1, 4, 32, 32]".
std::string shape_text(const Shape& shape);

/// The number of values in a shape. Throws ShapeError if no memory could hold them.
std::size_t count_values(const Shape& shape);

}  // namespace ldm_engine
