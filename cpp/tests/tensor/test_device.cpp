#include <doctest/doctest.h>

#include "isthmus/device.h"
#include "isthmus/error.h"

using namespace isthmus;

TEST_CASE("devices are parsed and printed") {
  CHECK(parse_device("cpu") == Device{});
  CHECK(parse_device("cuda") == Device{DeviceType::kCuda, 0});
  CHECK(parse_device("cuda:3") == Device{DeviceType::kCuda, 3});
  CHECK(to_string(parse_device("cuda")) == "cuda:0");
  CHECK(to_string(Device{}) == "cpu");
  CHECK(name(DeviceType::kCuda) == "cuda");
}

TEST_CASE("other texts are refused with the text") {
  for (const char* text :
       {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "CPU", "cuda:99999999999999999999"}) {
    CAPTURE(text);
    CHECK_THROWS_AS(parse_device(text), InvalidInput);
  }
  CHECK_THROWS_WITH_AS(parse_device("gpu"), doctest::Contains("gpu"), InvalidInput);
}
