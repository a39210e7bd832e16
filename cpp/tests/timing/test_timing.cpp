#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "isthmus/error.h"
#include "isthmus/timing.h"

using namespace isthmus;

namespace {

std::vector<double> counting(int n) {
  std::vector<double> values(static_cast<std::size_t>(n));
  std::iota(values.begin(), values.end(), 1.0);
  return values;
}

std::vector<double> normal(double mean, double deviation, int n, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> distribution(mean, deviation);
  std::vector<double> values(static_cast<std::size_t>(n));
  for (double& value : values) value = distribution(random);
  return values;
}

}  // namespace

TEST_CASE("percentiles interpolate between order statistics") {
  const std::vector<double> samples{4, 1, 3, 2};
  CHECK(percentile(samples, 0) == 1);
  CHECK(percentile(samples, 1) == 4);
  CHECK(percentile(samples, 0.5) == 2.5);
  CHECK(percentile(samples, 0.25) == doctest::Approx(1.75));
  CHECK(percentile(std::vector<double>{7}, 0.9) == 7);
  CHECK(percentile(counting(101), 0.9) == doctest::Approx(91));
}

TEST_CASE("missing samples and a bad p are refused") {
  CHECK_THROWS_AS(percentile({}, 0.5), InvalidInput);
  CHECK_THROWS_AS(summarize({}), InvalidInput);
  CHECK_THROWS_WITH_AS(percentile(counting(3), 1.5), doctest::Contains("1.5"), InvalidInput);
  CHECK_THROWS_AS(percentile(counting(3), std::nan("")), InvalidInput);
}

TEST_CASE("a summary keeps the order of the samples") {
  const TimingResult result = summarize({3, 1, 2});
  CHECK(result.samples_ms == std::vector<double>{3, 1, 2});
  CHECK(result.median_ms == 2);
  CHECK(result.mean_ms == 2);
  CHECK(result.min_ms == 1);
}

TEST_CASE("percentiles need enough samples") {
  CHECK(summarize(counting(kMinSamplesP90 - 1)).p90_ms == -1);
  CHECK(summarize(counting(kMinSamplesP90)).p90_ms == doctest::Approx(57.7));
  CHECK(summarize(counting(kMinSamplesP99 - 1)).p99_ms == -1);
  CHECK(summarize(counting(kMinSamplesP99)).p99_ms == doctest::Approx(655.39));
}

TEST_CASE("calls are counted after the warm-up, and `between` is not timed") {
  int calls = 0;
  int between = 0;
  const TimingResult result =
      time_calls([&] { ++calls; }, {.warmup = 3, .iterations = 5, .min_seconds = 0, .between = [&] {
                                      ++between;
                                      std::this_thread::sleep_for(std::chrono::milliseconds(20));
                                    }});
  CHECK(calls == 8);
  CHECK(between == 8);
  CHECK(result.samples_ms.size() == 5);
  CHECK(result.min_ms < 10);
}

TEST_CASE("a call that sleeps takes at least as long") {
  const TimingResult result =
      time_calls([] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); },
                 {.warmup = 0, .iterations = 3});
  CHECK(result.min_ms >= 2);
}

TEST_CASE("min_seconds continues beyond the iterations") {
  const TimingResult result =
      time_calls([] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); },
                 {.warmup = 0, .iterations = 1, .min_seconds = 0.02});
  CHECK(std::accumulate(result.samples_ms.begin(), result.samples_ms.end(), 0.0) >= 20);
  CHECK(result.samples_ms.size() > 1);
}

TEST_CASE("bad options are refused before the first call") {
  int calls = 0;
  const auto call = [&] { ++calls; };
  CHECK_THROWS_AS(time_calls(call, {.warmup = -1}), InvalidInput);
  CHECK_THROWS_AS(time_calls(call, {.iterations = 0}), InvalidInput);
  CHECK_THROWS_AS(time_calls(call, {.min_seconds = -0.5}), InvalidInput);
  CHECK_THROWS_AS(time_calls(call, {.min_seconds = std::nan("")}), InvalidInput);
  CHECK(calls == 0);
}

TEST_CASE("the interval of a ratio contains the truth and excludes another") {
  const auto a = normal(10, 1, 200, 1);
  SUBCASE("no difference") {
    const RatioInterval same = ratio_of_medians(a, normal(10, 1, 200, 2));
    CHECK(same.includes_one());
    CHECK(same.low < same.ratio);
    CHECK(same.ratio < same.high);
  }
  SUBCASE("ten per cent slower") {
    const RatioInterval slower = ratio_of_medians(normal(11, 1, 200, 3), a);
    CHECK_FALSE(slower.includes_one());
    CHECK(slower.low > 1);
    CHECK(slower.low < 1.1);
    CHECK(slower.high > 1.1);
  }
  SUBCASE("more samples narrow it") {
    const RatioInterval few = ratio_of_medians(normal(10, 1, 30, 4), normal(10, 1, 30, 5));
    const RatioInterval many = ratio_of_medians(normal(10, 1, 900, 4), normal(10, 1, 900, 5));
    CHECK(many.high - many.low < few.high - few.low);
  }
  SUBCASE("more confidence widens it") {
    const auto b = normal(10, 1, 100, 6);
    const RatioInterval narrow = ratio_of_medians(a, b, 0.5);
    const RatioInterval wide = ratio_of_medians(a, b, 0.99);
    CHECK(narrow.high - narrow.low < wide.high - wide.low);
  }
}

TEST_CASE("the interval of 95 % covers the truth about 95 % of the time") {
  int covered = 0;
  for (unsigned seed = 0; seed < 200; ++seed)
    covered +=
        ratio_of_medians(normal(10, 1, 60, 2 * seed), normal(10, 1, 60, 2 * seed + 1), 0.95, 400)
                .includes_one()
            ? 1
            : 0;
  CHECK(covered >= 180);
  CHECK(covered <= 200);
}

TEST_CASE("the interval is the same every time") {
  const auto a = normal(10, 1, 50, 7);
  const auto b = normal(10, 1, 50, 8);
  const RatioInterval first = ratio_of_medians(a, b);
  const RatioInterval second = ratio_of_medians(a, b);
  CHECK(first.low == second.low);
  CHECK(first.high == second.high);
}

TEST_CASE("a ratio refuses missing samples and bad options") {
  CHECK_THROWS_AS(ratio_of_medians({}, counting(3)), InvalidInput);
  CHECK_THROWS_AS(ratio_of_medians(counting(3), {}), InvalidInput);
  CHECK_THROWS_AS(ratio_of_medians(counting(3), counting(3), 1.0), InvalidInput);
  CHECK_THROWS_AS(ratio_of_medians(counting(3), counting(3), 0.95, 0), InvalidInput);
}
