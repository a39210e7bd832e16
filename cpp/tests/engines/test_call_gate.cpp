#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engines/call_gate.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"

using namespace isthmus;
using namespace std::chrono_literals;

namespace {

/// Runs `work` in many threads and waits for all.
template <typename Work>
void in_threads(int count, const Work& work) {
  std::vector<std::jthread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work);
}

}  // namespace

TEST_CASE("no more calls run than the limit, and all of them end") {
  for (const int limit : {1, 2, 5}) {
    CallGate gate(limit);
    std::atomic<int> running = 0, most = 0, calls = 0;
    in_threads(16, [&] {
      for (int i = 0; i < 500; ++i) {
        const CallGate::Pass pass(gate);
        const int now = ++running;
        for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        if (i % 100 == 0) std::this_thread::sleep_for(2ms);  // some wait for long, most do not
        ++calls;
        --running;
      }
    });
    CHECK(calls == 16 * 500);
    CHECK(most <= limit);
  }
}

TEST_CASE("a waiting caller is not overtaken for ever") {
  CallGate gate(1);
  std::atomic<bool> stop = false;
  std::atomic<int> calls = 0, overtaken = 0;
  // Comes back at once, long before anyone who was woken can be there.
  const auto greedy = [&] {
    while (!stop) {
      const CallGate::Pass pass(gate);
      ++calls;
      std::this_thread::sleep_for(2ms);
    }
  };
  std::jthread others(greedy);
  while (calls == 0) std::this_thread::yield();
  for (int i = 0; i < 10; ++i) {
    const int before = calls;
    const CallGate::Pass pass(gate);
    overtaken = std::max<int>(overtaken, calls - before);
  }
  stop = true;
  CHECK(overtaken <= 2);  // the one that ran, and one that came while this thread was on its way
}

TEST_CASE("a call within a call passes at the limit") {
  CallGate gate(1);
  CallGate inner(1);
  const CallGate::Pass outside(gate);
  const CallGate::Pass again(gate);
  const CallGate::Pass other(inner);
}

TEST_CASE("only a call without others is alone") {
  CallGate gate(2);
  const CallGate::Pass first(gate);
  CHECK(first.alone());
  in_threads(1, [&] { CHECK_FALSE(CallGate::Pass(gate).alone()); });
}

TEST_CASE("without a limit all calls pass") {
  CallGate gate(0);
  std::atomic<int> inside = 0;
  in_threads(4, [&] {
    const CallGate::Pass pass(gate);
    ++inside;
    while (inside < 4) std::this_thread::yield();  // for ever, if anyone had to wait
  });
  CHECK(inside == 4);
}

TEST_CASE("the limit is from the cores or the option; there is none on a GPU") {
  const int cores = this_machine().cores;
  CHECK(concurrent_calls(1) == cores);
  CHECK(concurrent_calls(cores) == 1);
  CHECK(concurrent_calls(cores + 1) == 1);
  const auto with = [](const std::string& value) {
    LoadOptions options;
    options.engine_options["max_concurrency"] = value;
    return options;
  };
  CHECK(call_limit({}, Device{}, 1) == cores);
  CHECK(call_limit({}, parse_device("cuda"), 1) == 0);
  CHECK(call_limit(with("3"), Device{}, 1) == 3);
  CHECK(call_limit(with("3"), parse_device("cuda"), 1) == 3);
  CHECK(call_limit(with("0"), Device{}, 1) == 0);
  for (const char* bad : {"", "-1", "two", "1.5", "3x"})
    CHECK_THROWS_WITH_AS(given_concurrency(with(bad)),
                         doctest::Contains("expected 0 (no bound) or a positive number"),
                         InvalidInput);
}

TEST_CASE("a caller with a deadline stops waiting, and those behind it go on") {
  CallGate gate(1);
  auto pass = std::make_unique<CallGate::Pass>(gate);
  std::atomic<int> refused = 0, admitted = 0;
  std::vector<std::jthread> threads;
  threads.emplace_back([&] {
    try {
      const CallGate::Pass late(gate, std::chrono::steady_clock::now() + 20ms);
    } catch (const ExecutionError&) {
      ++refused;
    }
  });
  std::this_thread::sleep_for(5ms);
  threads.emplace_back([&] {
    const CallGate::Pass behind(gate);
    ++admitted;
  });
  threads.front().join();
  CHECK(refused == 1);
  CHECK(admitted == 0);
  pass.reset();
  threads.back().join();
  CHECK(admitted == 1);
  const CallGate::Pass in_time(gate, std::chrono::steady_clock::now() + 1s);
}
