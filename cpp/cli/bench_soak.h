#pragma once

#include <cstdint>
#include <vector>

#include "isthmus/model.h"

namespace isthmus::cli {

/// The options of `bench --soak`.
struct SoakOptions {
  std::int64_t calls = 0;  ///< least number of calls of all threads; 0: the option was not given
  int callers = 2;         ///< threads at a time
};

/// The resident memory of a process over many calls of a model.
struct SoakResult {
  std::int64_t calls = 0;
  std::size_t goldens = 0;                   ///< number of goldens used
  std::vector<std::int64_t> resident_bytes;  ///< after the load, then after each part of the calls
  double seconds = 0;

  /// The medians of the second and of the last quarter of the parts, in bytes. The first quarter
  /// does not count: memory that a runtime keeps for each shape is not a leak.
  [[nodiscard]] double early() const;
  [[nodiscard]] double late() const;
  [[nodiscard]] double growth() const { return late() - early(); }
  /// The growth in bytes that counts as noise: the larger of 4 MB and 160 bytes for each call
  /// between the two quarters.
  [[nodiscard]] double allowed() const;
};

/// Calls the model with the bundle's goldens in random order, from threads that start and end. Each
/// golden's sequence runs in its own session.
/// @throws InvalidInput for a bundle without goldens, and the error of the first call that failed.
SoakResult run_soak(const Model& model, const SoakOptions& options);

}  // namespace isthmus::cli
