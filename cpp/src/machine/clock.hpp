// A stopwatch, in milliseconds.
#pragma once

#include <chrono>

namespace ldm_engine {

/// Time since it was made.
class Clock {
 public:
  double elapsed_ms() const {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin_)
        .count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace ldm_engine
