#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "isthmus/batcher.h"
#include "isthmus/error.h"
#include "tests/bundle_writer.h"

using namespace isthmus;
using namespace isthmus::testing;
using namespace std::chrono_literals;

namespace {

/// x: float32[batch, sequence] -> y = 2x of the same shape; batch 1 to 8, sequence 1 to 64.
struct Fixture {
  TemporaryFolder folder;
  std::filesystem::path root = folder.path() / "bundle";
  nlohmann::json manifest = write_bundle(root);

  Fixture() {
    manifest["dims"]["sequence"] = {{"min", 1}, {"max", 64}};
    auto& forward = manifest["methods"][0];
    forward["inputs"][0]["shape"] = {"batch", "sequence"};
    forward["outputs"][0]["shape"] = {"batch", "sequence"};
    manifest["goldens"][0]["dims"] = {{"batch", 2}, {"sequence", 2}};
    write_manifest(root, manifest);
  }

  [[nodiscard]] Model load() const {
    LoadOptions options;
    options.engine_path = {FAKE_ENGINE_PATH};
    options.warmup = false;
    return Model::load(root, options);
  }
};

Inputs row(std::int64_t length, float first) {
  Tensor x = Tensor::empty(DType::kFloat32, {1, length});
  std::iota(x.data_as<float>(), x.data_as<float>() + length, first);
  return {{"x", x}};
}

bool right(const Outputs& outputs, std::int64_t length, float first) {
  const Tensor& y = outputs["y"];
  if (y.shape() != Shape{1, length}) return false;
  for (std::int64_t i = 0; i < length; ++i)
    if (y.data_as<float>()[i] != 2 * (first + static_cast<float>(i))) return false;
  return true;
}

/// Blocks the only worker until it is released, so that later requests meet in the queue.
struct Held {
  Batcher& batcher;
  std::promise<void> release;
  std::promise<void> reached;

  explicit Held(Batcher& of) : batcher(of) {
    batcher.submit(row(1, 0), [this](const Batcher::Answer&) {
      reached.set_value();
      release.get_future().wait();
    });
    reached.get_future().wait();
  }
  void release_worker() { release.set_value(); }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "requests that wait run together, and each gets its answer") {
  Batcher batcher(load(), {.max_requests = 4, .max_padding = 0});
  Held held(batcher);
  std::vector<std::future<Outputs>> answers;
  for (int i = 0; i < 8; ++i)
    answers.push_back(batcher.submit(row(5, static_cast<float>(100 * i))));
  held.release_worker();
  for (int i = 0; i < 8; ++i) CHECK(right(answers[i].get(), 5, static_cast<float>(100 * i)));
  batcher.close();
  CHECK(batcher.stats().calls == 1 + 2);
  CHECK(batcher.stats().requests == 1 + 8);
  CHECK(batcher.stats().padding == 0);
}

TEST_CASE_FIXTURE(Fixture, "requests of similar length run together, padded to the longest") {
  Batcher batcher(load(), {.max_requests = 3, .max_padding = 0.25});
  CHECK(batcher.notes().empty());
  Held held(batcher);
  const std::vector<std::int64_t> lengths{10, 40, 11, 41, 9, 39, 64};
  std::vector<std::future<Outputs>> answers;
  for (const std::int64_t length : lengths) answers.push_back(batcher.submit(row(length, 7)));
  held.release_worker();
  for (std::size_t i = 0; i < lengths.size(); ++i) CHECK(right(answers[i].get(), lengths[i], 7));
  batcher.close();
  CHECK(batcher.stats().calls == 1 + 3);
  CHECK(batcher.stats().elements == 1 + 3 * 11 + 3 * 41 + 64);
  CHECK(batcher.stats().padding == (3 * 11 - 30) + (3 * 41 - 120));
}

TEST_CASE_FIXTURE(Fixture, "a call stays within its limits") {
  SUBCASE("of padding") {
    Batcher batcher(load(), {.max_padding = 0.05});
    Held held(batcher);
    auto a = batcher.submit(row(10, 0));
    auto b = batcher.submit(row(20, 0));
    held.release_worker();
    CHECK((right(a.get(), 10, 0) && right(b.get(), 20, 0)));
    CHECK(batcher.stats().calls == 3);
  }
  SUBCASE("of elements") {
    Batcher batcher(load(), {.max_elements = 50});
    Held held(batcher);
    std::vector<std::future<Outputs>> answers;
    for (int i = 0; i < 4; ++i) answers.push_back(batcher.submit(row(20, 0)));
    held.release_worker();
    for (auto& answer : answers) CHECK(right(answer.get(), 20, 0));
    CHECK(batcher.stats().calls == 1 + 2);
  }
  SUBCASE("of the model's own range") {
    Batcher batcher(load(), {.max_requests = 100});
    Held held(batcher);
    std::vector<std::future<Outputs>> answers;
    for (int i = 0; i < 16; ++i) answers.push_back(batcher.submit(row(3, 0)));
    held.release_worker();
    for (auto& answer : answers) CHECK(right(answer.get(), 3, 0));
    CHECK(batcher.stats().calls == 1 + 2);
  }
  SUBCASE("and a request longer than any limit runs alone") {
    Batcher batcher(load(), {.max_elements = 5});
    CHECK(right(batcher.submit(row(60, 0)).get(), 60, 0));
  }
}

TEST_CASE_FIXTURE(Fixture, "a model that reads its padding is not padded") {
  write_safetensors(root / "goldens/batch2.safetensors",
                    {{"0/in/x", Tensor::copy_of({-4.0F, 1.0F, 2.0F, 3.0F}, {2, 2})},
                     {"0/out/y", Tensor::copy_of({-6.0F, 4.0F, 6.0F, 8.0F}, {2, 2})}});
  manifest["goldens"][0]["file"] = entry(root, "goldens/batch2.safetensors");
  write_manifest(root, manifest);
  Batcher batcher(load(), {.max_padding = 0.5});
  REQUIRE(batcher.notes().size() == 1);
  CHECK(batcher.notes()[0].find("reads its padding") != std::string::npos);
  Held held(batcher);
  auto a = batcher.submit(row(4, -4));
  auto b = batcher.submit(row(5, -4));
  held.release_worker();
  CHECK(a.get()["y"].data_as<float>()[0] == -8 + 4);
  CHECK(b.get()["y"].data_as<float>()[0] == -8 + 5);
  CHECK(batcher.stats().calls == 3);
}

TEST_CASE_FIXTURE(Fixture, "a size that follows from another is not padded, and not split") {
  auto& forward = manifest["methods"][0];
  const auto loaded = [&](const char* input, const char* output) {
    forward["inputs"][0]["shape"][1] = input;
    forward["outputs"][0]["shape"][1] = output;
    manifest["dims"]["sequence"]["max"] = 200;
    write_manifest(root, manifest);
    return load();
  };
  SUBCASE("of the length") {
    Batcher batcher(loaded("2 * sequence", "2 * sequence"), {.max_padding = 0.5});
    REQUIRE(batcher.notes().size() == 1);
    CHECK(batcher.notes()[0].find("computed from another: \"2 * sequence\"") != std::string::npos);
  }
  SUBCASE("of the number of rows") {
    Batcher batcher(loaded("sequence", "sequence + 0 * batch"), {.max_padding = 0.5});
    CHECK(batcher.notes()[0].find("depends on \"batch\"") != std::string::npos);
    CHECK(right(batcher.submit(row(6, 0)).get(), 6, 0));
  }
}

TEST_CASE_FIXTURE(Fixture, "a wrong request is refused at once, and a failing one fails alone") {
  Batcher batcher(load(), {.max_padding = 0});
  CHECK_THROWS_AS(batcher.submit({{"z", Tensor::copy_of({1.0F}, {1, 1})}}), InvalidInput);
  CHECK_THROWS_AS(batcher.submit(row(65, 0)), InvalidInput);
  Held held(batcher);
  // The engine fails by the first value of a call, which is this request's.
  auto bad = batcher.submit(row(3, -1));
  auto good = batcher.submit(row(3, 5));
  held.release_worker();
  CHECK_THROWS_WITH_AS(bad.get(), doctest::Contains("asked to fail"), ExecutionError);
  CHECK(right(good.get(), 3, 5));
}

TEST_CASE_FIXTURE(Fixture, "the caller may change its buffer when submit returns") {
  Batcher batcher(load());
  Held held(batcher);
  std::vector<float> buffer{1, 2, 3};
  auto answer = batcher.submit({{"x", Tensor::wrap(buffer.data(), DType::kFloat32, {1, 3})}});
  std::fill(buffer.begin(), buffer.end(), -1.0F);
  held.release_worker();
  CHECK(right(answer.get(), 3, 1));
}

TEST_CASE_FIXTURE(Fixture, "a full queue refuses, or makes wait") {
  SUBCASE("refuses") {
    Batcher batcher(load(), {.max_queue = 2, .when_full = WhenFull::kRefuse});
    Held held(batcher);
    auto a = batcher.submit(row(1, 0));
    auto b = batcher.submit(row(1, 0));
    CHECK_THROWS_WITH_AS(batcher.submit(row(1, 0)), doctest::Contains("queue is full"),
                         ExecutionError);
    held.release_worker();
    a.wait();
    b.wait();
  }
  SUBCASE("makes wait") {
    Batcher batcher(load(), {.max_requests = 1, .max_queue = 1});
    Held held(batcher);
    std::atomic<int> submitted = 0;
    std::vector<std::future<Outputs>> answers(3);
    std::jthread caller([&] {
      for (auto& answer : answers) {
        answer = batcher.submit(row(1, 0));
        ++submitted;
      }
    });
    std::this_thread::sleep_for(20ms);
    CHECK(submitted == 1);
    held.release_worker();
    caller.join();
    for (auto& answer : answers) answer.wait();
    CHECK(batcher.stats().most_waiting == 1);
  }
}

TEST_CASE_FIXTURE(Fixture, "a request can be cancelled until it begins") {
  Batcher batcher(load());
  Held held(batcher);
  std::promise<bool> failed;
  const auto ticket = batcher.submit(
      row(1, 0), [&](const Batcher::Answer& answer) { failed.set_value(answer.error != nullptr); });
  CHECK(ticket.cancel());
  CHECK_FALSE(ticket.cancel());
  CHECK(failed.get_future().get());
  held.release_worker();
  std::promise<void> done;
  const auto late = batcher.submit(row(1, 0), [&](const Batcher::Answer&) { done.set_value(); });
  done.get_future().wait();
  CHECK_FALSE(late.cancel());
  batcher.close();
  CHECK(batcher.stats().cancelled == 1);
}

TEST_CASE_FIXTURE(Fixture, "closing runs or cancels waiting requests, and refuses further ones") {
  for (const Pending pending : {Pending::kRun, Pending::kCancel}) {
    Batcher batcher(load(), {.max_requests = 1});
    Held held(batcher);
    std::vector<std::future<Outputs>> answers;
    for (int i = 0; i < 5; ++i) answers.push_back(batcher.submit(row(2, 1)));
    std::jthread closer([&] { batcher.close(pending); });
    std::this_thread::sleep_for(5ms);
    held.release_worker();
    closer.join();
    for (auto& answer : answers) {
      if (pending == Pending::kRun)
        CHECK(right(answer.get(), 2, 1));
      else
        CHECK_THROWS_WITH_AS(answer.get(), doctest::Contains("cancelled"), ExecutionError);
    }
    CHECK_THROWS_WITH_AS(batcher.submit(row(1, 0)), doctest::Contains("closed"), ExecutionError);
  }
}

TEST_CASE_FIXTURE(Fixture, "a batcher may be destroyed by its own worker") {
  auto batcher = std::make_shared<Batcher>(load(), BatcherOptions{});
  std::weak_ptr<Batcher> gone = batcher;
  std::promise<void> submitted;
  std::promise<void> done;
  batcher->submit(row(2, 1), [batcher, &submitted, &done](const Batcher::Answer&) mutable {
    submitted.get_future().wait();
    batcher.reset();
    done.set_value();
  });
  batcher.reset();
  submitted.set_value();
  done.get_future().wait();
  CHECK(gone.expired());
}

TEST_CASE_FIXTURE(Fixture, "requests wait for others up to max_wait") {
  Batcher batcher(load(), {.max_requests = 2, .max_wait = 10s});
  auto a = batcher.submit(row(3, 0));
  CHECK(a.wait_for(30ms) == std::future_status::timeout);
  auto b = batcher.submit(row(3, 0));  // the call is full, so the wait ends
  CHECK(a.wait_for(5s) == std::future_status::ready);
  CHECK(right(b.get(), 3, 0));
  Batcher hasty(load(), {.max_requests = 2, .max_wait = 1ms});
  CHECK(hasty.submit(row(3, 0)).wait_for(5s) == std::future_status::ready);
}

TEST_CASE_FIXTURE(Fixture,
                  "a request waits for at most as many calls as there are requests ahead of it") {
  // Lengths that can and cannot be joined, and new requests while the first ones wait.
  Batcher batcher(load(), {.max_requests = 4, .max_padding = 0.05});
  Held held(batcher);
  constexpr int kFirst = 24;
  std::mt19937 random(7);
  std::atomic<int> waiting = kFirst;
  std::array<std::int64_t, kFirst> answered_by{};  // number of the call; the held one is 1
  std::array<std::promise<void>, kFirst> answered;
  for (int i = 0; i < kFirst; ++i) {
    const std::int64_t length =
        random() % 4 == 0 ? 60 : 1 + static_cast<std::int64_t>(random() % 9);
    batcher.submit(row(length, 0), [&, i](const Batcher::Answer&) {
      answered_by[i] = batcher.stats().calls;
      if (--waiting > 0)  // two of a frequent length
        for (int more = 0; more < 2; ++more) batcher.submit(row(5, 0), [](const auto&) {});
      answered[i].set_value();
    });
  }
  held.release_worker();
  for (int i = 0; i < kFirst; ++i) {
    answered[i].get_future().wait();
    CAPTURE(i);
    CHECK(answered_by[i] <= 1 + i + 1);
  }
  batcher.close();
  CHECK(batcher.stats().longest_call_ms > 0);
  CHECK(batcher.stats().longest_wait_ms > 0);
}

TEST_CASE_FIXTURE(Fixture, "a waiting request does not delay others beyond their max_wait") {
  // Four kinds that cannot be joined, and no full call: each begins after its max_wait.
  Batcher batcher(load(), {.workers = 2, .max_requests = 8, .max_padding = 0, .max_wait = 20ms});
  std::vector<std::future<Outputs>> answers;
  for (const std::int64_t length : {3, 5, 7, 9}) answers.push_back(batcher.submit(row(length, 0)));
  for (auto& answer : answers) CHECK(answer.wait_for(5s) == std::future_status::ready);
  CHECK(batcher.stats().calls == 4);
  CHECK(batcher.stats().longest_wait_ms >= 20);
}

TEST_CASE_FIXTURE(Fixture, "bad options are refused") {
  CHECK_THROWS_WITH_AS(Batcher(load(), {.workers = 0}), doctest::Contains("workers"), InvalidInput);
  CHECK_THROWS_WITH_AS(Batcher(load(), {.max_padding = 1}), doctest::Contains("max_padding"),
                       InvalidInput);
  CHECK_THROWS_WITH_AS(Batcher(load(), {.padding = {{"z", 1}}}), doctest::Contains("\"z\""),
                       InvalidInput);
  manifest["methods"][0]["inputs"][0]["dtype"] = "int64";
  write_manifest(root, manifest);
  for (const double value : {0.5, std::nan(""), 1e300})
    CHECK_THROWS_WITH_AS(Batcher(load(), {.padding = {{"x", value}}}),
                         doctest::Contains("\"x\" of int64 cannot hold"), InvalidInput);
  CHECK_THROWS_WITH_AS(Batcher(load(), {.method = "nope"}), doctest::Contains("nope"),
                       InvalidInput);
  manifest["stateful"] = true;
  write_manifest(root, manifest);
  CHECK_THROWS_WITH_AS(Batcher(load()), doctest::Contains("state"), InvalidInput);
}

TEST_CASE_FIXTURE(Fixture, "many callers and workers: each request gets its answer") {
  Batcher batcher(load(), {.workers = 3, .max_padding = 0.3, .max_queue = 16});
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> callers;
  for (int t = 0; t < 6; ++t)
    callers.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::tuple<std::future<Outputs>, std::int64_t, float>> answers;
      for (int i = 0; i < 200; ++i) {
        const std::int64_t length = 1 + static_cast<std::int64_t>(random() % 64);
        const auto first = static_cast<float>(random() % 1000);
        answers.emplace_back(batcher.submit(row(length, first)), length, first);
      }
      for (auto& [answer, length, first] : answers)
        if (!right(answer.get(), length, first)) ++wrong;
    });
  callers.clear();
  batcher.close();
  CHECK(wrong == 0);
  CHECK(batcher.stats().requests == 1200);
  CHECK(batcher.stats().calls < 1200);
}
