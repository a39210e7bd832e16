#include <doctest/doctest.h>

#include "isthmus/error.h"

using namespace isthmus;

TEST_CASE("each class has its kind, its text and its exit code") {
  CHECK(InvalidInput("a").kind() == ErrorKind::kInvalidInput);
  CHECK(BundleError("a").kind() == ErrorKind::kBundle);
  CHECK(EngineUnavailable("a").kind() == ErrorKind::kEngineUnavailable);
  CHECK(DeviceUnavailable("a").kind() == ErrorKind::kDeviceUnavailable);
  CHECK(ExecutionError("a").kind() == ErrorKind::kExecution);
  CHECK(std::string(InvalidInput("input \"x\"").what()) == "input \"x\"");

  CHECK(exit_code(ErrorKind::kInvalidInput) == 2);
  CHECK(exit_code(ErrorKind::kBundle) == 3);
  CHECK(exit_code(ErrorKind::kEngineUnavailable) == 4);
  CHECK(exit_code(ErrorKind::kDeviceUnavailable) == 4);
  CHECK(exit_code(ErrorKind::kExecution) == 5);
}

TEST_CASE("all are caught as Error and as std::runtime_error") {
  CHECK_THROWS_AS(throw BundleError("a"), Error);
  CHECK_THROWS_AS(throw ExecutionError("a"), std::runtime_error);
}
