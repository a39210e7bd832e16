#include <doctest/doctest.h>

#include <map>
#include <string>

#include "engines/openvino/properties.h"

using namespace isthmus;

namespace {

using Texts = std::map<std::string, std::string>;

Texts properties(int threads, int cores, Texts engine_options = {}) {
  LoadOptions options;
  options.threads = threads;
  options.engine_options = std::move(engine_options);
  const auto list = openvino_engine::properties_of(options, cores);
  return {list.begin(), list.end()};
}

/// "streams x threads of all of them"; "-" where OpenVINO decides.
std::string parallel(const Texts& of) {
  const auto value = [&](const char* key) {
    const auto found = of.find(key);
    return found == of.end() ? std::string("-") : found->second;
  };
  return value("NUM_STREAMS") + " x " + value("INFERENCE_NUM_THREADS");
}

}  // namespace

TEST_CASE("threads are per call, and there are as many streams as calls fit the cores") {
  CHECK(parallel(properties(1, 2)) == "2 x 2");
  CHECK(parallel(properties(2, 8)) == "4 x 8");
  CHECK(parallel(properties(3, 8)) == "2 x 6");
}

TEST_CASE("a call with all cores leaves the streams to OpenVINO") {
  CHECK(parallel(properties(2, 2)) == "- x 2");
  CHECK(parallel(properties(3, 4)) == "- x 3");
  CHECK(parallel(properties(4, 2)) == "- x 4");
  CHECK(parallel(properties(1, 1)) == "- x 1");
  CHECK(parallel(properties(0, 8)) == "- x -");
}

TEST_CASE("both options set the concurrent calls, and streams precedes") {
  CHECK(parallel(properties(1, 8, {{"max_concurrency", "2"}})) == "2 x 2");
  CHECK(parallel(properties(1, 8, {{"max_concurrency", "1"}})) == "1 x 1");
  CHECK(parallel(properties(1, 8, {{"max_concurrency", "0"}})) == "8 x 8");
  CHECK(parallel(properties(1, 8, {{"streams", "3"}})) == "3 x 3");
  CHECK(parallel(properties(1, 8, {{"streams", "3"}, {"max_concurrency", "5"}})) == "3 x 3");
  CHECK(parallel(properties(0, 8, {{"streams", "3"}})) == "3 x -");
  CHECK(parallel(properties(0, 8, {{"max_concurrency", "3"}})) == "3 x -");
}

TEST_CASE("there are no more threads than cores, unless one call asks for more") {
  CHECK(parallel(properties(2, 2, {{"streams", "2"}})) == "2 x 2");
  CHECK(parallel(properties(4, 2, {{"streams", "2"}})) == "2 x 4");
}

TEST_CASE("a property with OpenVINO's name precedes") {
  CHECK(parallel(properties(
            1, 8, {{"config.NUM_STREAMS", "1"}, {"config.INFERENCE_NUM_THREADS", "5"}})) ==
        "1 x 5");
}

TEST_CASE("streams may be added later, unless the caller set their number or one is enough") {
  const auto at_first = [](int threads, int cores, Texts engine_options = {}) {
    LoadOptions options;
    options.threads = threads;
    options.engine_options = std::move(engine_options);
    const auto single =
        openvino_engine::with_one_stream(openvino_engine::properties_of(options, cores), options);
    return single ? parallel({single->begin(), single->end()}) : std::string("as wanted");
  };
  CHECK(at_first(1, 2) == "1 x 1");
  CHECK(at_first(2, 8) == "1 x 2");
  CHECK(at_first(1, 8, {{"config.INFERENCE_NUM_THREADS", "5"}}) == "1 x 5");
  CHECK(at_first(2, 2) == "as wanted");
  CHECK(at_first(0, 8) == "as wanted");
  CHECK(at_first(1, 8, {{"streams", "3"}}) == "as wanted");
  CHECK(at_first(1, 8, {{"max_concurrency", "0"}}) == "as wanted");
  CHECK(at_first(1, 8, {{"hint", "throughput"}}) == "as wanted");
  CHECK(at_first(1, 8, {{"config.NUM_STREAMS", "4"}}) == "as wanted");
}

TEST_CASE("the number of compiled shapes is limited over all streams") {
  const auto kept = [](const Texts& of) { return of.at("CPU_RUNTIME_CACHE_CAPACITY"); };
  CHECK(kept(properties(0, 64)) == "1024");
  CHECK(kept(properties(2, 2)) == "1024");
  CHECK(kept(properties(1, 2)) == "512");
  CHECK(kept(properties(1, 64)) == "128");
  CHECK(kept(properties(0, 64, {{"hint", "throughput"}})) == "128");
  CHECK(kept(properties(1, 2, {{"config.CPU_RUNTIME_CACHE_CAPACITY", "7"}})) == "7");
}
