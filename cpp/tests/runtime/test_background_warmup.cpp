#include <doctest/doctest.h>

#include <thread>

#include "core/runtime/background_warmup.h"
#include "isthmus/error.h"

using isthmus::BackgroundWarmup;
using isthmus::ExecutionError;

TEST_CASE("it is over when the work has ended") {
  std::atomic<bool> go = false;
  const BackgroundWarmup work([&](const std::atomic<bool>&) { go.wait(false); });
  CHECK_FALSE(work.over());
  go = true;
  go.notify_all();
  work.wait();
  CHECK(work.over());
}

TEST_CASE("an error is thrown at each call") {
  const BackgroundWarmup work(
      [](const std::atomic<bool>&) { throw ExecutionError("its own golden"); });
  CHECK_THROWS_WITH_AS(work.wait(), "its own golden", ExecutionError);
  CHECK_THROWS_WITH_AS((void)work.over(), "its own golden", ExecutionError);
}

TEST_CASE("the destructor stops the work") {
  std::atomic<bool> stopped = false;
  {
    const BackgroundWarmup work([&](const std::atomic<bool>& stop) {
      while (!stop) std::this_thread::yield();
      stopped = true;
    });
  }
  CHECK(stopped);
}
