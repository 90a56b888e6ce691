// Every error this library throws on purpose: what was given, what is accepted, what to do.
// The classes are those of engine/ldm_engine/errors.py.
#pragma once

#include <stdexcept>

#include "ldm_engine/visibility.h"

namespace ldm_engine {

/// Base class of all errors of ldm-engine (Python: LDMEngineError).
class LDM_ENGINE_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument has a value outside what is accepted.
class LDM_ENGINE_API InvalidArgumentError : public Error {
 public:
  using Error::Error;
};

/// An array has the wrong shape, or a size does not suit the model.
class LDM_ENGINE_API ShapeError : public InvalidArgumentError {
 public:
  using InvalidArgumentError::InvalidArgumentError;
};

/// A bundle cannot be used: incomplete, damaged, or written for another version.
class LDM_ENGINE_API BundleError : public Error {
 public:
  using Error::Error;
};

/// There is no bundle at the given path.
class LDM_ENGINE_API BundleNotFoundError : public Error {
 public:
  using Error::Error;
};

/// A model or scheduler config asks for something that is not supported.
class LDM_ENGINE_API ConfigError : public Error {
 public:
  using Error::Error;
};

/// A runtime is not built in, or cannot do what the options say.
class LDM_ENGINE_API RuntimeUnavailableError : public Error {
 public:
  using Error::Error;
};

/// A program produced NaN or infinity.
class LDM_ENGINE_API NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// A file or folder could not be written.
class LDM_ENGINE_API OutputError : public Error {
 public:
  using Error::Error;
};

/// A pipeline was used after it was closed.
class LDM_ENGINE_API ClosedError : public Error {
 public:
  using Error::Error;
};

}  // namespace ldm_engine
