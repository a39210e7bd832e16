#pragma once

#include <stdexcept>
#include <string>

#include "isthmus/export.h"

namespace isthmus {

/// The category of an error, which also selects the exit code of `isthmus-run`.
enum class ErrorKind {
  kInvalidInput,       ///< the caller's values do not fit the signature or the options
  kBundle,             ///< the files are damaged, foreign, tampered with, or not allowed
  kEngineUnavailable,  ///< no engine on this machine can run the artifact
  kDeviceUnavailable,  ///< the requested device is absent or the artifact is not valid on it
  kExecution,          ///< the engine failed while it ran a checked call
};

/// Base of the exceptions that isthmus throws. `what()` says what is wrong, what was expected, what
/// was given, and what to do.
class ISTHMUS_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message);
  ~Error() override;
  [[nodiscard]] ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

class ISTHMUS_API InvalidInput : public Error {
 public:
  explicit InvalidInput(const std::string& message);
  ~InvalidInput() override;
};

class ISTHMUS_API BundleError : public Error {
 public:
  explicit BundleError(const std::string& message);
  ~BundleError() override;
};

class ISTHMUS_API EngineUnavailable : public Error {
 public:
  explicit EngineUnavailable(const std::string& message);
  ~EngineUnavailable() override;
};

class ISTHMUS_API DeviceUnavailable : public Error {
 public:
  explicit DeviceUnavailable(const std::string& message);
  ~DeviceUnavailable() override;
};

class ISTHMUS_API ExecutionError : public Error {
 public:
  explicit ExecutionError(const std::string& message);
  ~ExecutionError() override;
};

/// Returns the name of the error's class, such as "InvalidInput".
ISTHMUS_API const char* name(ErrorKind kind) noexcept;

/// Returns the exit code of `isthmus-run`: 2 input, 3 bundle, 4 engine or device, 5 execution.
ISTHMUS_API int exit_code(ErrorKind kind) noexcept;

}  // namespace isthmus
