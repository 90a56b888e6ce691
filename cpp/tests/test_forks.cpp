// Pipelines in a forked child, and signals after pipelines are gone.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "ldm_engine/pipeline.hpp"

using namespace ldm_engine;

namespace {

constexpr unsigned kDeadline = 60;  // seconds, after which a child that hangs is ended
constexpr int kGood = 7;

Request one_step() {
  Request request;
  request.num_inference_steps = 1;
  request.seed = 0;
  return request;
}

/// How a forked child ends that returns from `work`, through all static destructors.
int status_of_child(const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(kDeadline);
    bool is_good = false;
    try {
      is_good = work();
    } catch (...) {
    }
    std::exit(is_good ? kGood : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

template <typename Failure>
bool throws(const std::function<void()>& work) {
  try {
    work();
  } catch (const Failure&) {
    return true;
  }
  return false;
}

volatile sig_atomic_t received = 0;

}  // namespace

TEST_CASE("a forked child may drop, close and not use an inherited pipeline") {
  REQUIRE_BUNDLE(bundle);
  for (const char* memory : {"resident", "sequential"}) {
    CAPTURE(memory);
    Options options;
    options.memory = memory;
    std::optional<Pipeline> pipe(std::in_place, bundle, options);
    const Result before = pipe->generate({"a blue star"}, one_step());
    CHECK(status_of_child([] { return true; }) == kGood);
    CHECK(status_of_child([&] {
            pipe.reset();
            return true;
          }) == kGood);
    CHECK(status_of_child([&] {
            pipe->close();
            return throws<ClosedError>([&] { pipe->generate({"a blue star"}, one_step()); }) &&
                   throws<ClosedError>([&] { pipe->clone(); });
          }) == kGood);
    CHECK(status_of_child([&] {
            return throws<RuntimeUnavailableError>([&] { Pipeline again(bundle); });
          }) == kGood);
    CHECK(pipe->generate({"a blue star"}, one_step()).images[0].rgb == before.images[0].rgb);
  }
}

TEST_CASE("a child that is forked while an image is made cannot go on with it") {
  REQUIRE_BUNDLE(bundle);
  Pipeline pipe(bundle);
  Request request = one_step();
  request.num_inference_steps = 2;
  int status = 0;
  request.on_step_end = [&](const StepInfo& step) {
    if (step.index == 0) {
      const pid_t child = ::fork();
      if (child == 0) {
        ::alarm(kDeadline);
        return false;
      }
      ::waitpid(child, &status, 0);
    }
    return false;
  };
  const pid_t own = ::getpid();
  bool is_refused = false;
  try {
    pipe.generate({"a blue star"}, request);
  } catch (const ClosedError&) {
    is_refused = true;
  }
  if (::getpid() != own) std::exit(is_refused ? kGood : 1);
  CHECK_FALSE(is_refused);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == kGood);
}

TEST_CASE("a signal after pipelines are gone finds its stack") {
  REQUIRE_BUNDLE(bundle);
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { received = 1; };
  action.sa_flags = SA_ONSTACK;
  REQUIRE(::sigaction(SIGUSR1, &action, &before) == 0);
  { Pipeline(bundle).generate({"a blue star"}, one_step()); }
  std::thread([&] {
    Pipeline(bundle).generate({"a red circle"}, one_step());
    ::raise(SIGUSR1);
  }).join();
  received = 0;
  ::raise(SIGUSR1);
  CHECK(received == 1);
  ::sigaction(SIGUSR1, &before, nullptr);
}
