// The table of programs: their tensors as functions of the model's facts, and which of them a
// bundle may lack. Its twin is engine/ldm_engine/bundle/contract.py; tests/data/manifests.json
// holds both to the same tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/model.hpp"

namespace ldm_engine {

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

/// A program's inputs and outputs, in order.
struct Tensors {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;

  bool operator==(const Tensors& other) const {
    return inputs == other.inputs && outputs == other.outputs;
  }
};

/// A tensor of the table, with a letter or a number for each size:
///
///     T  tokens of a text     K  width of text_kv     R  width of time_shift
///     C  latent channels
///
/// are fixed by the model, and any size may be:
///
///     N  texts     S  timesteps     B  images     h, w  latent cells     H, W  pixels
///     rows  of text, B without guidance and 2B with it
struct SymbolicTensor {
  const char* name;
  const char* dtype;
  const char* sizes;  ///< "B C h w"
};

/// A row of the table.
struct ProgramContract {
  const char* name;
  bool is_optional;  ///< a bundle may lack it
  std::vector<SymbolicTensor> inputs;
  std::vector<SymbolicTensor> outputs;

  /// The tensors of this program for a model.
  Tensors tensors(const ModelInfo& model) const;
};

/// All programs, in the order in which an image passes through them.
const std::vector<ProgramContract>& program_contracts();

/// The names of those that every bundle holds, and that text becomes an image with.
const std::vector<std::string>& required_programs();

}  // namespace ldm_engine
