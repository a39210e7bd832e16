#include "isthmus/error.h"

namespace isthmus {

// The destructors are out of line, so that the type information of each class is in this library
// only.
Error::Error(ErrorKind kind, const std::string& message)
    : std::runtime_error(message), kind_(kind) {}
Error::~Error() = default;

InvalidInput::InvalidInput(const std::string& message) : Error(ErrorKind::kInvalidInput, message) {}
InvalidInput::~InvalidInput() = default;

BundleError::BundleError(const std::string& message) : Error(ErrorKind::kBundle, message) {}
BundleError::~BundleError() = default;

EngineUnavailable::EngineUnavailable(const std::string& message)
    : Error(ErrorKind::kEngineUnavailable, message) {}
EngineUnavailable::~EngineUnavailable() = default;

DeviceUnavailable::DeviceUnavailable(const std::string& message)
    : Error(ErrorKind::kDeviceUnavailable, message) {}
DeviceUnavailable::~DeviceUnavailable() = default;

ExecutionError::ExecutionError(const std::string& message)
    : Error(ErrorKind::kExecution, message) {}
ExecutionError::~ExecutionError() = default;

const char* name(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidInput:
      return "InvalidInput";
    case ErrorKind::kBundle:
      return "BundleError";
    case ErrorKind::kEngineUnavailable:
      return "EngineUnavailable";
    case ErrorKind::kDeviceUnavailable:
      return "DeviceUnavailable";
    case ErrorKind::kExecution:
      break;
  }
  return "ExecutionError";
}

int exit_code(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidInput:
      return 2;
    case ErrorKind::kBundle:
      return 3;
    case ErrorKind::kEngineUnavailable:
    case ErrorKind::kDeviceUnavailable:
      return 4;
    case ErrorKind::kExecution:
      return 5;
  }
  return 5;
}

}  // namespace isthmus
