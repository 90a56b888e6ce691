// What a forked child inherits of libraries with threads: it is neither used nor freed there.
#include "machine/forks.hpp"

#include <pthread.h>

#include <atomic>

namespace ldm_engine {
namespace {

std::atomic<int> forks{0};  // since this library was loaded, up to this process

}  // namespace

int process_number() {
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { ++forks; });
  static_cast<void>(registered);
  return forks;
}

std::string inherited(const std::string& what) {
  return what +
         " was opened before this process was forked, and the threads of its library do not exist "
         "here. Open the bundle in each process after the fork, or execute a program of its own.";
}

}  // namespace ldm_engine
