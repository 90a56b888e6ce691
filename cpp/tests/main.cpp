// Runs the tests with a cache folder of their own.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>

#include "folders.hpp"

int main(int count, char** arguments) {
  const TemporaryFolder cache;
  if (!std::getenv("LDM_ENGINE_CACHE")) {
    ::setenv("LDM_ENGINE_CACHE", cache.path().c_str(), 1);
  }
  doctest::Context context(count, arguments);
  return context.run();
}
